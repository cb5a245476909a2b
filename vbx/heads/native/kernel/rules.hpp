// How one step moves a weight: Adam, AdamW and gradient descent with momentum, as `vbx/heads/optim.py` has them.
//
// Adam is rearranged so that a weight costs fewer operations. At step t gradients arrive multiplied by (1 - beta1) r^t,
// with r = beta2^(-1/2). Then both means are kept by one multiply-add each, m = (beta1 r) m + g and s = s + g^2: the
// first times r^t, the second times r^2t (1 - beta1)^2 / (1 - beta2). The growth r^t falls out of m / sqrt(s); what is
// left goes into one step size and one epsilon a step. `shrink_moments` takes it out before it has grown large.
#pragma once

#include <algorithm>

#include "simd.hpp"

namespace vbx {

enum Rule { kAdam, kAdamDecay, kAdamW, kSgd };

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kLeast = 1e-8;
constexpr long kStretchSteps = 1024;  // r^1024 is 1.67

struct Pace {  // of one run at one step, the first of which is 1
  double lr, weight_decay, momentum;
  long number;
};

template <class T> struct Step {
  T keep, size, inverse_size, epsilon, decay, shrink;
  double gradient;  // what losses are multiplied by before they are differentiated

  Step(Rule rule, const Pace& pace) {
    const bool adam = rule != kSgd;
    const double growth = std::pow(kBeta2, -0.5 * double((pace.number - 1) % kStretchSteps + 1));
    gradient = adam ? (1 - kBeta1) * growth : 1.0;
    const double unit = std::sqrt(1 - kBeta2) / (1 - kBeta1);
    const double correction = std::sqrt(1 - std::pow(kBeta2, double(pace.number)));
    const double full = adam ? pace.lr * correction / (unit * (1 - std::pow(kBeta1, double(pace.number)))) : pace.lr;
    keep = T(adam ? kBeta1 / std::sqrt(kBeta2) : pace.momentum);
    size = T(full);
    inverse_size = T(1 / std::max(full, 1e-30));  // a rate of 0 would make it infinite
    epsilon = T(kLeast * growth * correction / unit);
    decay = T(pace.weight_decay * gradient);
    shrink = T(1 - pace.lr * pace.weight_decay);
  }
};

// What the moments are multiplied by after the last step of a stretch.
template <class T> void shrink_moments(T* first, T* second, long count) {
  const double last = std::pow(kBeta2, 0.5 * double(kStretchSteps));
  for (long i = 0; i < count; i++) first[i] *= T(last), second[i] *= T(last * last);
}

// size m / (sqrt(s) + epsilon).
#if defined(__AVX512F__) && defined(__AVX512DQ__)
// A root and a division of sixteen floats would keep one port busy for twenty cycles. The root stays; the quotient is
// a 14-bit estimate and one round of Newton, right to the last bit or the one before.
VBX_INLINE Vec<float> descent(Vec<float> m, Vec<float> s, const Step<float>& step) {
  const Vec<float> denominator = root(s) * step.inverse_size + step.epsilon * step.inverse_size;
  const Vec<float> inverse = (Vec<float>)_mm512_maskz_rcp14_ps(0xFFFF, (__m512)denominator);
  return (m * inverse) * (2.0f - denominator * inverse);
}
#else
VBX_INLINE Vec<float> descent(Vec<float> m, Vec<float> s, const Step<float>& step) {
  return step.size * m / (root(s) + step.epsilon);
}
#endif
VBX_INLINE Vec<double> descent(Vec<double> m, Vec<double> s, const Step<double>& step) {
  return step.size * m / (root(s) + step.epsilon);
}

// Move the weights at `w` along the gradient `g`; `m` and `s` are what the rule remembers of them.
template <class T, Rule R> VBX_INLINE Vec<T> move(Vec<T> g, T* w, T* m, T* s, const Step<T>& step) {
  Vec<T> weight = load(w);
  if constexpr (R == kAdamDecay || R == kSgd) g += step.decay * weight;
  const Vec<T> first = step.keep * load(m) + g;
  store(m, first);
  if constexpr (R == kSgd) {
    weight -= step.size * first;
  } else {
    const Vec<T> second = g * g + load(s);
    store(s, second);
    if constexpr (R == kAdamW) weight *= step.shrink;
    weight -= descent(first, second, step);
  }
  store(w, weight);
  return weight;
}

}  // namespace vbx
