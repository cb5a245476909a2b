// Losses and their gradients, as `vbx/heads/losses.py` defines them: means over what is labelled, in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "labels.hpp"

namespace vbx {

constexpr double kEpsilon = 1e-8;  // of losses.py

// One task on one batch: `output` is what the head says, `d` takes the gradients.
template <class T> struct Batch {
  const VbxTask& task;
  const Labels& labels;
  long count;
  const Tiles<T>&output, &d;

  double weight_at(long b, long k) const { return labels.weight[std::size_t(b * task.columns + k)]; }
  double truth_at(long b, long k) const { return labels.truth[std::size_t(b * task.columns + k)]; }
  double said(long b, long k) const { return double(*output.at(b, k)); }
  void set(long b, long k, double gradient) const { *d.at(b, k) = T(gradient); }
};

template <int L> inline double error(double said, double truth) {
  if (L == kMse) return (said - truth) * (said - truth);
  if (L == kMae) return std::fabs(said - truth);
  const double yes = std::max(std::log(said), -100.0), no = std::max(std::log1p(-said), -100.0);
  return -(truth * yes + (1 - truth) * no);
}
template <int L> inline double error_slope(double said, double truth) {
  if (L == kMse) return 2 * (said - truth);
  if (L == kMae) return said > truth ? 1.0 : said < truth ? -1.0 : said - truth;  // nan stays nan
  return (said - truth) / std::max((1 - said) * said, 1e-12);
}

// A mean of one number a label: mse, mae, bce. `scale` multiplies gradients.
template <int L, class T> double pointwise(const Batch<T>& batch, double scale) {
  const long columns = batch.task.columns;
  double total = 0, loss = 0;
  for (long b = 0; b < batch.count; b++)
    for (long k = 0; k < columns; k++) total += batch.weight_at(b, k);
  const double share = 1 / (total > 0 ? total : 1.0);
  for (long b = 0; b < batch.count; b++)
    for (long k = 0; k < columns; k++) {
      const double weight = share * batch.weight_at(b, k), t = batch.truth_at(b, k), p = batch.said(b, k);
      loss += weight * error<L>(p, t);
      batch.set(b, k, scale * weight * error_slope<L>(p, t));
    }
  return loss;
}

struct Moments {  // of one column over the labelled rows
  double n = 0, said = 0, truth = 0, covariance = 0, spread = 0;
};

template <class T> Moments column_moments(const Batch<T>& batch, long k) {
  Moments m;
  for (long b = 0; b < batch.count; b++) m.n += batch.weight_at(b, k);
  const double share = 1 / std::max(m.n, 1.0);
  for (long b = 0; b < batch.count; b++) {
    const double weight = share * batch.weight_at(b, k);
    m.said += weight * batch.said(b, k);
    m.truth += weight * batch.truth_at(b, k);
  }
  for (long b = 0; b < batch.count; b++) {
    const double weight = share * batch.weight_at(b, k);
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
      const double weight = batch.weight_at(b, k) / std::max(m.n, 1.0);
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
  std::vector<double> powers(std::size_t(count), 0.0);
  for (long b = 0; b < batch.count; b++) total += batch.weight_at(b, 0);
  const double share = 1 / (total > 0 ? total : 1.0);
  for (long b = 0; b < batch.count; b++) {
    const long truth = long(batch.truth_at(b, 0));
    const double weight = share * batch.weight_at(b, 0);
    double most = batch.said(b, 0), sum = 0, slope = 0;
    for (long k = 1; k < count; k++) most = std::max(most, batch.said(b, k));
    for (long k = 0; k < count; k++) sum += powers[std::size_t(k)] = std::exp(batch.said(b, k) - most);
    loss += weight * class_error(batch.task, batch.said(b, truth) - most - std::log(sum), slope);
    for (long k = 0; k < count; k++)
      batch.set(b, k, scale * weight * slope * ((k == truth) - powers[std::size_t(k)] / sum));
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
    case kMae: return factor * pointwise<kMae>(batch, scale * factor);
    case kBce: return factor * pointwise<kBce>(batch, scale * factor);
    default: return factor * pointwise<kMse>(batch, scale * factor);
  }
}

}  // namespace vbx
