// What discriminators see: probabilities and values of the main tasks, side by side.
#pragma once

#include <cmath>

#include "labels.hpp"
#include "layer.hpp"

namespace vbx {

template <class T> struct Said {
  Tiles<T> value, d;  // and the gradient by it
};

// One main task's part of it, from column `begin` on: `output` is what its last layer says.
template <class T>
void say(const VbxTask& task, const Tiles<T>& output, const Tiles<T>& value, long begin, long width) {
  for (long row = 0; row < value.rows; row++) {
    if (!is_class(task)) {
      for (long k = 0; k < width; k++) *value.at(row, begin + k) = *output.at(row, k);
      continue;
    }
    double most = double(*output.at(row, 0)), sum = 0;
    for (long k = 1; k < width; k++) most = std::max(most, double(*output.at(row, k)));
    for (long k = 0; k < width; k++) sum += std::exp(double(*output.at(row, k)) - most);
    for (long k = 0; k < width; k++) *value.at(row, begin + k) = T(std::exp(double(*output.at(row, k)) - most) / sum);
  }
}

// Its part of the gradient goes to `d`, the one by what its last layer says.
template <class T>
void unwind_said(const VbxTask& task, const Said<T>& said, long begin, long width, const Tiles<T>& d) {
  for (long row = 0; row < said.d.rows; row++) {
    T along = 0;
    for (long k = begin; k < begin + width; k++) along += *said.d.at(row, k) * *said.value.at(row, k);
    for (long k = 0; k < width; k++) {
      const T by = *said.d.at(row, begin + k);
      *d.at(row, k) += is_class(task) ? *said.value.at(row, begin + k) * (by - along) : by;
    }
  }
}

}  // namespace vbx
