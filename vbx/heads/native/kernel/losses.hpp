// Losses and their gradients, as `vbx/heads/losses.py` defines them: means over what is labelled, in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "interface.h"
#include "tiles.hpp"

namespace vbx {

enum Loss { kMse, kMae, kCcc, kBce, kCrossEntropy, kFocal };

constexpr double kEpsilon = 1e-8;  // of losses.py

// One task on one batch: `rows` are its rows of the split, `output` what the head says, `d` takes the gradients.
template <class T> struct Batch {
  const VbxTask& task;
  const int64_t* rows;
  long count;
  const void *truth, *weight;
  const Tiles<T>&output, &d;

  double weight_at(long b, long k, long columns) const {
    return double(static_cast<const T*>(weight)[rows[b] * columns + k]);
  }
  double truth_at(long b, long k) const {
    return double(static_cast<const T*>(truth)[rows[b] * task.columns + k]);
  }
  double said(long b, long k) const { return double(*output.at(b, k)); }
  void set(long b, long k, double gradient) const { *d.at(b, k) = T(gradient); }
};

inline double error(int loss, double said, double truth) {
  if (loss == kMse) return (said - truth) * (said - truth);
  if (loss == kMae) return std::fabs(said - truth);
  const double yes = std::max(std::log(said), -100.0), no = std::max(std::log1p(-said), -100.0);
  return -(truth * yes + (1 - truth) * no);
}
inline double error_slope(int loss, double said, double truth) {
  if (loss == kMse) return 2 * (said - truth);
  if (loss == kMae) return said > truth ? 1.0 : said < truth ? -1.0 : said - truth;  // nan stays nan
  return (said - truth) / std::max((1 - said) * said, 1e-12);
}

// A mean of one number a label: mse, mae, bce. `scale` multiplies gradients.
template <class T> double pointwise(const Batch<T>& batch, double scale) {
  const long columns = batch.task.columns;
  double total = 0, loss = 0;
  for (long b = 0; b < batch.count; b++)
    for (long k = 0; k < columns; k++) total += batch.weight_at(b, k, columns);
  const double share = 1 / (total > 0 ? total : 1.0);
  for (long b = 0; b < batch.count; b++)
    for (long k = 0; k < columns; k++) {
      const double weight = share * batch.weight_at(b, k, columns), t = batch.truth_at(b, k), p = batch.said(b, k);
      loss += weight * error(batch.task.loss, p, t);
      batch.set(b, k, scale * weight * error_slope(batch.task.loss, p, t));
    }
  return loss;
}

struct Moments {  // of one column over the labelled rows
  double n = 0, said = 0, truth = 0, covariance = 0, spread = 0;
};

template <class T> Moments column_moments(const Batch<T>& batch, long k) {
  Moments m;
  const long columns = batch.task.columns;
  for (long b = 0; b < batch.count; b++) m.n += batch.weight_at(b, k, columns);
  const double share = 1 / std::max(m.n, 1.0);
  for (long b = 0; b < batch.count; b++) {
    const double weight = share * batch.weight_at(b, k, columns);
    m.said += weight * batch.said(b, k);
    m.truth += weight * batch.truth_at(b, k);
  }
  for (long b = 0; b < batch.count; b++) {
    const double weight = share * batch.weight_at(b, k, columns);
    const double dp = batch.said(b, k) - m.said, dt = batch.truth_at(b, k) - m.truth;
    m.covariance += weight * dp * dt;
    m.spread += weight * (dp * dp + dt * dt);
  }
  m.spread += (m.said - m.truth) * (m.said - m.truth) + kEpsilon;
  return m;
}

template <class T> double concordance(const Batch<T>& batch, double scale) {
  const long columns = batch.task.columns;
  std::vector<Moments> moments;
  double counted = 0, loss = 0;
  for (long k = 0; k < columns; k++) {
    moments.push_back(column_moments(batch, k));
    counted += moments.back().n >= 2;
  }
  const double part = 1 / std::max(counted, 1.0);
  for (long k = 0; k < columns; k++) {
    const Moments& m = moments[std::size_t(k)];
    const double ccc = 2 * m.covariance / m.spread, use = m.n >= 2 ? part : 0.0;
    loss += use * (1 - ccc);
    for (long b = 0; b < batch.count; b++) {
      const double weight = batch.weight_at(b, k, columns) / std::max(m.n, 1.0);
      const double dp = batch.said(b, k) - m.said, dt = batch.truth_at(b, k) - m.truth;
      const double slope = 2 * weight / m.spread * (dt - ccc * (dp + m.said - m.truth));
      batch.set(b, k, -scale * use * slope);
    }
  }
  return loss;
}

// Value of a class's loss from ln p of the true class, and its slope by ln p.
inline double class_error(const VbxTask& task, double log_p, double& slope) {
  slope = -1;
  if (task.loss == kCrossEntropy) return -log_p;
  const double p = std::exp(log_p), rest = std::max(1 - p, kEpsilon), power = std::pow(rest, task.gamma);
  slope = -power;
  if (1 - p >= kEpsilon && task.gamma > 0) slope += log_p * task.gamma * std::pow(rest, task.gamma - 1) * p;
  return -power * log_p;
}

template <class T> double classes(const Batch<T>& batch, long count, double scale) {
  double total = 0, loss = 0;
  for (long b = 0; b < batch.count; b++) total += batch.weight_at(b, 0, 1);
  const double share = 1 / (total > 0 ? total : 1.0);
  for (long b = 0; b < batch.count; b++) {
    const int64_t truth = static_cast<const int64_t*>(batch.truth)[batch.rows[b]];
    const double weight = share * batch.weight_at(b, 0, 1);
    double most = batch.said(b, 0), sum = 0, slope;
    for (long k = 1; k < count; k++) most = std::max(most, batch.said(b, k));
    for (long k = 0; k < count; k++) sum += std::exp(batch.said(b, k) - most);
    const double level = most + std::log(sum);
    loss += weight * class_error(batch.task, batch.said(b, truth) - level, slope);
    for (long k = 0; k < count; k++)
      batch.set(b, k, scale * weight * slope * ((k == truth) - std::exp(batch.said(b, k) - level)));
  }
  return loss;
}

// A task's loss on a batch; `d` becomes its gradient times `scale`. `outputs` is the width of the last layer.
template <class T> double task_loss(const Batch<T>& batch, long outputs, double scale) {
  const double factor = batch.task.factor;
  switch (batch.task.loss) {
    case kCcc: return factor * concordance(batch, scale * factor);
    case kCrossEntropy:
    case kFocal: return factor * classes(batch, outputs, scale * factor);
    default: return factor * pointwise(batch, scale * factor);
  }
}

}  // namespace vbx
