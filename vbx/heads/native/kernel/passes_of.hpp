// The passes a run needs, picked once from all there are: by rows of its batch, its rule and its activation.
#pragma once

#include "layer.hpp"

namespace vbx {

template <class T> struct Passes {
  using Learn = void (*)(const Tiles<T>&, const Feed<T>*, const Tiles<T>&, const Panels<T>&, const Step<T>&,
                         const Tiles<T>&);
  Learn learn = nullptr, learn_and_go_on = nullptr;
  void (*forward)(const Tiles<T>&, const Feed<T>*, const Panels<T>&, const Tiles<T>&) = nullptr;
  void (*inputs)(const T*, const Panels<T>&, const Tiles<T>&) = nullptr;
  void (*activate)(const Layer<T>&, Held<T>&, const Dropout&, const uint32_t*) = nullptr;
  void (*move_vector)(const Vector<T>&, const T*, long, const Step<T>&) = nullptr;
};

// Rows a batch takes: those above its own are 0 and change nothing.
inline long pad_rows(long rows) { return rows <= 2 ? 2 : rows <= 4 ? 4 : round_up(rows, kBlock); }

template <class T, int B, Rule R> void pick_rule(Passes<T>& passes, long rows) {
  passes.learn = learn<T, R, B, false>;
  passes.learn_and_go_on = learn<T, R, B, true>;
  if constexpr (B == kBlock && kBytes == 64) {
    if (rows % kLargeBlock == 0) {
      passes.learn = learn<T, R, kLargeBlock, false>;
      passes.learn_and_go_on = learn<T, R, kLargeBlock, true>;
    }
  }
  passes.move_vector = move_vector<T, R>;
}

template <class T, int B> void pick_rows(Passes<T>& passes, long rows, Rule rule) {
  passes.forward = forward<T, B, kBytes == 64 ? 2 : 1>;
  passes.inputs = inputs<T, B>;
  switch (rule) {
    case kAdam: return pick_rule<T, B, kAdam>(passes, rows);
    case kAdamDecay: return pick_rule<T, B, kAdamDecay>(passes, rows);
    case kAdamW: return pick_rule<T, B, kAdamW>(passes, rows);
    case kSgd: return pick_rule<T, B, kSgd>(passes, rows);
  }
}

template <class T> void pick_activation(Passes<T>& passes, Activation activation) {
  switch (activation) {
    case kElu: passes.activate = activate_layer<T, kElu>; break;
    case kGelu: passes.activate = activate_layer<T, kGelu>; break;
    case kLeakyRelu: passes.activate = activate_layer<T, kLeakyRelu>; break;
    case kRelu: passes.activate = activate_layer<T, kRelu>; break;
    case kSilu: passes.activate = activate_layer<T, kSilu>; break;
    case kTanh: passes.activate = activate_layer<T, kTanh>; break;
  }
}

// Those that predict: rows and panels at once are as many as the registers hold.
constexpr long kPredicted = 48;
template <class T> Passes<T> pick_predicting(Activation activation) {
  Passes<T> passes;
  passes.forward = kBytes == 64 ? forward<T, 6, 4> : forward<T, kBlock, 1>;
  pick_activation(passes, activation);
  return passes;
}

template <class T> Passes<T> pick_passes(long rows, Rule rule, Activation activation) {
  Passes<T> passes;
  if (rows == 2)
    pick_rows<T, 2>(passes, rows, rule);
  else if (rows == 4)
    pick_rows<T, 4>(passes, rows, rule);
  else
    pick_rows<T, kBlock>(passes, rows, rule);
  pick_activation(passes, activation);
  return passes;
}

}  // namespace vbx
