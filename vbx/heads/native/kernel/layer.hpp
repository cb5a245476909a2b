// One layer of a head: its weights, what it holds of a batch, and its way forward and back.
#pragma once

#include <vector>

#include "functions.hpp"
#include "interface.h"
#include "passes.hpp"

namespace vbx {

// Which of a run's steps and places drop what: as `vbx/heads/draws.py` draws it.
struct Dropout {
  double rate = 0;
  uint32_t key = 0;
};
VBX_INLINE uint32_t scatter(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

// What a layer holds of a batch.
template <class T> struct Held {
  Tiles<T> sums;    // of the linear part, then normalised
  Tiles<T> value;   // what the next layers see
  Tiles<T> slope;   // derivative of `value` by what the activation saw, dropout in it
  Tiles<T> d;       // gradient by `value`, in the end by `sums`
  Array<T> turned;  // `d` transposed, (width, rows)
  Array<T> inverse; // of each row's standard deviation

  Held() = default;
  Held(long rows, long width)
      : sums(rows, width), value(rows, width), slope(rows, width), d(rows, width),
        turned(rows * round_up(width, kBlock)), inverse(rows) {}
};

// A vector of weights that are added or multiplied, with what the rule remembers of them.
template <class T> struct Vector {
  T *weight = nullptr, *first = nullptr, *second = nullptr;
};

template <class T> struct Layer {
  VbxLayer spec;
  Panels<T> panels;
  Vector<T> bias, gain, shift;
  Array<T> there;  // 1 for a column of the layer, 0 for one that fills its last register
  long task = -1;  // whose first layer it is
  bool sigmoid = false;

  long padded() const { return panels.count * kLanes<T>; }
  bool norm() const { return spec.gain >= 0; }
};

template <class T> Layer<T> make_layer(const VbxLayer& spec) {
  Layer<T> layer;
  layer.spec = spec;
  layer.panels.depth = spec.width_in;
  layer.panels.width = spec.width_out;
  layer.panels.count = round_up(spec.width_out, kLanes<T>) / kLanes<T>;
  layer.there = Array<T>(layer.padded());
  for (long j = 0; j < spec.width_out; j++) layer.there[j] = T(1);
  return layer;
}

template <class T> void begin_sums(const Layer<T>& layer, const Tiles<T>& sums) {
  for (long row = 0; row < sums.rows; row++)
    for (long j = 0; j < layer.padded(); j += kLanes<T>) store(sums.at(row, j), load(layer.bias.weight + j));
}

// Layer normalisation of one row; `sums` become the normalised values.
template <class T> T normalise(const Layer<T>& layer, const Tiles<T>& sums, long row) {
  constexpr int L = kLanes<T>;
  const T width = T(layer.spec.width_out);
  Vec<T> total = spread<T>(0), squares = spread<T>(0);
  for (long j = 0; j < layer.padded(); j += L) total += load(sums.at(row, j));
  const T mean = sum<T>(total) / width;
  for (long j = 0; j < layer.padded(); j += L) {
    const Vec<T> centred = (load(sums.at(row, j)) - mean) * load(&layer.there[j]);
    squares += centred * centred;
    store(sums.at(row, j), centred);
  }
  const T inverse = T(1) / std::sqrt(sum<T>(squares) / width + T(1e-5));
  for (long j = 0; j < layer.padded(); j += L) store(sums.at(row, j), load(sums.at(row, j)) * inverse);
  return inverse;
}

template <class T, Activation A> void activate_row(const Layer<T>& layer, Held<T>& held, long row) {
  for (long j = 0; j < layer.padded(); j += kLanes<T>) {
    Vec<T> slope, y = load(held.sums.at(row, j));
    if (layer.norm()) y = y * load(layer.gain.weight + j) + load(layer.shift.weight + j);
    store(held.value.at(row, j), activate<T, A>(y, slope));
    store(held.slope.at(row, j), slope);
  }
}

template <class T> void drop_row(const Layer<T>& layer, Held<T>& held, long row, uint32_t word, double rate) {
  constexpr long kLargestWidth = 1 << 16;  // of draws.py
  const T keep = T(1) / (T(1) - T(rate));
  const double least = std::ceil(double(T(rate)) * 4294967296.0);
  for (long begin = 0; begin < layer.spec.width_out; begin += kTile) {
    T *value = held.value.at(row, begin), *slope = held.slope.at(row, begin);
    const long count = std::min<long>(layer.spec.width_out - begin, kTile);
    for (long j = 0; j < count; j++) {
      const uint32_t place = uint32_t(row * kLargestWidth + begin + j);
      const T factor = double(scatter(scatter(place) + word)) >= least ? keep : T(0);
      value[j] *= factor;
      slope[j] *= factor;
    }
  }
}

// From sums to values; `word` picks the places that are dropped, null to drop none.
template <class T, Activation A>
void activate_layer(const Layer<T>& layer, Held<T>& held, const Dropout& dropout, const uint32_t* word) {
  for (long row = 0; row < held.sums.rows; row++) {
    if (layer.norm()) held.inverse[row] = normalise(layer, held.sums, row);
    activate_row<T, A>(layer, held, row);
    if (word) drop_row(layer, held, row, scatter(dropout.key + *word), dropout.rate);
  }
}

// From the gradient by values to the one by sums. Adds up the gradients of gain and shift.
template <class T> void unwind_layer(const Layer<T>& layer, Held<T>& held, T* d_gain, T* d_shift) {
  constexpr int L = kLanes<T>;
  const T width = T(layer.spec.width_out);
  for (long row = 0; row < held.d.rows; row++) {
    Vec<T> along = spread<T>(0), total = spread<T>(0);
    for (long j = 0; j < layer.padded(); j += L) {
      Vec<T> d = load(held.d.at(row, j)) * load(held.slope.at(row, j));
      if (layer.norm()) {
        const Vec<T> n = load(held.sums.at(row, j));
        store(d_gain + j, load(d_gain + j) + d * n);
        store(d_shift + j, load(d_shift + j) + d);
        d *= load(layer.gain.weight + j);
        total += d;
        along += d * n;
      }
      store(held.d.at(row, j), d);
    }
    if (!layer.norm()) continue;
    const T mean = sum<T>(total) / width, slope = sum<T>(along) / width, inverse = held.inverse[row];
    for (long j = 0; j < layer.padded(); j += L) {
      const Vec<T> d = load(held.d.at(row, j)) - mean - load(held.sums.at(row, j)) * slope;
      store(held.d.at(row, j), inverse * d * load(&layer.there[j]));
    }
  }
}

template <class T> void apply_sigmoid(const Layer<T>& layer, Held<T>& held) {
  for (long row = 0; row < held.sums.rows; row++)
    for (long j = 0; j < layer.padded(); j += kLanes<T>)
      store(held.value.at(row, j), sigmoid<T>(load(held.sums.at(row, j))));
}
template <class T> void unwind_sigmoid(const Layer<T>& layer, Held<T>& held) {
  for (long row = 0; row < held.d.rows; row++)
    for (long j = 0; j < layer.padded(); j += kLanes<T>) {
      const Vec<T> p = load(held.value.at(row, j));
      store(held.d.at(row, j), load(held.d.at(row, j)) * p * (T(1) - p));
    }
}

// `d` transposed, as `inputs` wants it, times a factor of what is passed back.
template <class T> void turn(const Layer<T>& layer, const Held<T>& held, T factor) {
  using V = typename Rows<T, kBlock>::type;
  const long rows = held.d.rows;
  if (rows % kBlock) {
    for (long row = 0; row < rows; row++)
      for (long j = 0; j < layer.spec.width_out; j++) held.turned[j * rows + row] = factor * *held.d.at(row, j);
    return;
  }
  for (long row = 0; row < rows; row += kBlock)
    for (long j = 0; j < layer.spec.width_out; j += kBlock) {
      V block[kBlock];
      for (int i = 0; i < kBlock; i++) block[i] = factor * load_as<V>(held.d.at(row + i, j));
      transpose<T, kBlock>(block);
      for (int i = 0; i < kBlock; i++) store(&held.turned[(j + i) * rows + row], block[i]);
    }
}

template <class T> void sum_rows(const Layer<T>& layer, const Tiles<T>& d, T* to) {
  for (long j = 0; j < layer.padded(); j += kLanes<T>) {
    Vec<T> total = load(d.at(0, j));
    for (long row = 1; row < d.rows; row++) total += load(d.at(row, j));
    store(to + j, total);
  }
}

template <class T, Rule R> void move_vector(const Vector<T>& v, const T* gradient, long size, const Step<T>& step) {
  for (long j = 0; j < size; j += kLanes<T>)
    move<T, R>(load(gradient + j), v.weight + j, v.first + j, v.second + j, step);
}

}  // namespace vbx
