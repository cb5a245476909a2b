// All weights of a run with what the rule remembers of them, in three arrays, and their way in and out.
#pragma once

#include <vector>

#include "layer.hpp"

namespace vbx {

template <class T> class Weights {
 public:
  Array<T> weight, first, second;

  // Give every weight of the layers, and the numbers that weigh losses, a place.
  Weights() = default;
  Weights(std::vector<Layer<T>>& layers, Vector<T>& weighers, long tasks) {
    for (bool there : {false, true}) {  // to learn how many there are, then to point at them
      place_ = 0;
      for (Layer<T>& layer : layers) {
        take(layer.panels.size(), layer.panels, there);
        take(layer.padded(), layer.bias, there);
        take(layer.padded(), layer.gain, there);
        take(layer.padded(), layer.shift, there);
      }
      take(round_up(tasks, kLanes<T>), weighers, there);
      if (!there) weight = Array<T>(place_), first = Array<T>(place_), second = Array<T>(place_);
    }
  }

 private:
  template <class V> void take(long size, V& to, bool there) {
    if (there) {
      to.weight = weight.get() + place_;
      to.first = first.get() + place_;
      to.second = second.get() + place_;
    }
    place_ += round_up(size, 64 / long(sizeof(T)));
  }

  long place_ = 0;
};

template <class T> void copy_vector(T* numbers, long size, const Vector<T>& vector, bool in) {
  for (long j = 0; j < size; j++) in ? void(vector.weight[j] = numbers[j]) : void(numbers[j] = vector.weight[j]);
}

// A layer's weights from the layout of the stack into panels, or back.
template <class T> void copy_layer(T* numbers, const Layer<T>& layer, bool in) {
  constexpr long L = kLanes<T>;
  const VbxLayer& spec = layer.spec;
  for (long k = 0; k < spec.width_in; k++)
    for (long j = 0; j < spec.width_out; j++) {
      T& outside = numbers[spec.weight + k * spec.stride + j];
      T& inside = layer.panels.weight[layer.panels.place(j / L, k) + j % L];
      in ? void(inside = outside) : void(outside = inside);
    }
  copy_vector(numbers + spec.bias, spec.width_out, layer.bias, in);
  if (!layer.norm()) return;
  copy_vector(numbers + spec.gain, spec.width_out, layer.gain, in);
  copy_vector(numbers + spec.shift, spec.width_out, layer.shift, in);
}

}  // namespace vbx
