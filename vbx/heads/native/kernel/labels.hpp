// The labels of one task on one batch, side by side.
#pragma once

#include <algorithm>
#include <vector>

#include "interface.h"
#include "tiles.hpp"

namespace vbx {

enum Loss { kMse, kMae, kCcc, kBce, kCrossEntropy, kFocal };

inline bool is_class(const VbxTask& task) { return task.loss == kCrossEntropy || task.loss == kFocal; }

struct Labels {
  std::vector<double> truth, weight;  // (rows, columns); of classes their index
};

// Ask for the labels of some rows, soon before they are read: they lie anywhere in memory.
template <class T>
void prefetch_labels(const VbxSplit& split, const VbxTask& task, long t, const int64_t* rows, long count) {
  const long columns = task.columns, bytes = is_class(task) ? long(sizeof(int64_t)) : long(sizeof(T));
  for (long b = 0; b < count; b++)
    for (long k = 0; k < columns; k += 8) {
      const long place = rows[b] * columns + k;
      __builtin_prefetch(static_cast<const char*>(split.truth[t]) + place * bytes);
      __builtin_prefetch(static_cast<const T*>(split.weight[t]) + place);
    }
}

// Labels of task `t`; where missing ones are replaced, by what `output` says of them, within the limits of train.
template <class T>
void read_labels(const VbxSplit& split, const VbxTask& task, long t, const int64_t* rows, long count,
                 const Tiles<T>& output, Labels& labels) {
  const T* const weights = static_cast<const T*>(split.weight[t]);
  const T* const limits = task.replace ? static_cast<const T*>(split.limits[t]) : nullptr;
  const long columns = task.columns;
  labels.truth.resize(std::size_t(count * columns));
  labels.weight.resize(std::size_t(count * columns));
  double *truth = labels.truth.data(), *weight = labels.weight.data();
  for (long b = 0; b < count; b++)
    for (long k = 0; k < columns; k++, truth++, weight++) {
      const long place = rows[b] * columns + k;
      *weight = double(weights[place]);
      *truth = is_class(task) ? double(static_cast<const int64_t*>(split.truth[t])[place])
                              : double(static_cast<const T*>(split.truth[t])[place]);
      if (!task.replace) continue;
      if (!(*weight > 0)) {
        const double said = double(*output.at(b, k)), low = double(limits[k]), high = double(limits[columns + k]);
        *truth = said < low ? low : said > high ? high : said;  // nan stays nan
      }
      *weight = 1;
    }
}

}  // namespace vbx
