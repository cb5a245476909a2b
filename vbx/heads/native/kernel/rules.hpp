// How one step moves a weight: Adam, AdamW and gradient descent with momentum, as `vbx/heads/optim.py` has them.
//
// Adam is rearranged so that a weight costs fewer operations. Gradients arrive multiplied by 1 - beta1, so that the
// first mean is m = beta1 m + g; the second is kept as s = beta2 s + g^2, which is v (1 - beta1)^2 / (1 - beta2); the
// factors that are left, and both corrections, go into one step size and one epsilon a step.
#pragma once

#include "simd.hpp"

namespace vbx {

enum Rule { kAdam, kAdamDecay, kAdamW, kSgd };

struct Pace {  // of one run at one step
  double lr, weight_decay, momentum, number;
};

template <class T> struct Step {
  T keep_first, keep_second, size, epsilon, decay, shrink;
  double gradient;  // what losses are multiplied by before they are differentiated

  Step(Rule rule, const Pace& pace) {
    constexpr double beta1 = 0.9, beta2 = 0.999, least = 1e-8;
    const bool adam = rule != kSgd;
    gradient = adam ? 1 - beta1 : 1.0;
    const double unit = std::sqrt(1 - beta2) / (1 - beta1), correction = std::sqrt(1 - std::pow(beta2, pace.number));
    keep_first = T(adam ? beta1 : pace.momentum);
    keep_second = T(beta2);
    size = T(adam ? pace.lr * correction / (unit * (1 - std::pow(beta1, pace.number))) : pace.lr);
    epsilon = T(least * correction / unit);
    decay = T(pace.weight_decay * gradient);
    shrink = T(1 - pace.lr * pace.weight_decay);
  }
};

#if defined(__AVX512F__) && defined(__AVX512DQ__)
// A root and a division of sixteen floats would keep one port busy for thirty cycles. The root stays; the quotient is
// a 14-bit estimate and one round of Newton, right to the last bit or the one before.
VBX_INLINE Vec<float> over_root(Vec<float> m, Vec<float> s, float epsilon) {
  const Vec<float> denominator = root(s) + epsilon;
  const Vec<float> inverse = (Vec<float>)_mm512_rcp14_ps((__m512)denominator);
  return (m * inverse) * (2.0f - denominator * inverse);
}
#else
VBX_INLINE Vec<float> over_root(Vec<float> m, Vec<float> s, float epsilon) { return m / (root(s) + epsilon); }
#endif
VBX_INLINE Vec<double> over_root(Vec<double> m, Vec<double> s, double epsilon) { return m / (root(s) + epsilon); }

// Move the weights at `w` along the gradient `g`; `m` and `s` are what the rule remembers of them.
template <class T, Rule R> VBX_INLINE Vec<T> move(Vec<T> g, T* w, T* m, T* s, const Step<T>& step) {
  Vec<T> weight = load(w), first = load(m);
  if constexpr (R == kAdamDecay || R == kSgd) g += step.decay * weight;
  first = step.keep_first * first + g;
  store(m, first);
  if constexpr (R == kSgd) {
    weight -= step.size * first;
  } else {
    Vec<T> second = g * g + step.keep_second * load(s);
    store(s, second);
    if constexpr (R == kAdamW) weight *= step.shrink;
    weight -= step.size * over_root(first, second, step.epsilon);
  }
  store(w, weight);
  return weight;
}

}  // namespace vbx
