// Activations and their slopes, a register at a time.
//
// All rest on e^x - 1 = 2^n q + (2^n - 1), with x = n ln 2 + r and q = e^r - 1 from its Taylor series, |r| at most
// ln(2) / 2: as exact near 0 as far from it, which tanh and elu need.
#pragma once

#include "simd.hpp"

namespace vbx {

enum Activation { kElu, kGelu, kLeakyRelu, kRelu, kSilu, kTanh };

template <class T> struct Exponential;
template <> struct Exponential<float> {
  static constexpr float magic = 12582912.0f, lowest = -87.0f, highest = 88.0f;  // magic rounds: 1.5 * 2^23
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int mantissa = 23, bias = 127, terms = 8;
};
template <> struct Exponential<double> {
  static constexpr double magic = 6755399441055744.0, lowest = -708.0, highest = 709.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr int mantissa = 52, bias = 1023, terms = 14;
};

// 2^n and 2^n q of the above.
template <class T> VBX_INLINE void split_exponential(Vec<T> x, Vec<T>& power, Vec<T>& rest) {
  using E = Exponential<T>;
  x = x > E::highest ? spread<T>(E::highest) : x;
  x = x < E::lowest ? spread<T>(E::lowest) : x;  // nan stays nan
  Vec<T> shifted = x * T(1.4426950408889634) + E::magic;
  Vec<T> n = shifted - E::magic;
  Vec<T> r = (x - n * E::ln2_high) - n * E::ln2_low;
  Vec<T> series = spread<T>(0);
  for (int i = E::terms; i >= 2; i--) series = (series + T(1)) * (r * T(1.0 / i));
  Vec<T> q = r + r * series;
  Bits<T> bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + E::bias) << E::mantissa;
  std::memcpy(&power, &bits, sizeof bits);
  rest = power * q;
}

template <class T> VBX_INLINE Vec<T> exponential(Vec<T> x) {
  Vec<T> power, rest;
  split_exponential<T>(x, power, rest);
  return power + rest;
}
template <class T> VBX_INLINE Vec<T> exponential_less_one(Vec<T> x) {
  Vec<T> power, rest;
  split_exponential<T>(x, power, rest);
  return rest + (power - T(1));
}
template <class T> VBX_INLINE Vec<T> sigmoid(Vec<T> x) { return T(1) / (T(1) + exponential<T>(-x)); }
template <class T> VBX_INLINE Vec<T> tangent(Vec<T> x) {
  Vec<T> e = exponential_less_one<T>(x + x);
  return e / (e + T(2));
}

// Value of an activation; `slope` becomes its derivative. At 0 both are what torch takes them to be.
template <class T, Activation A> VBX_INLINE Vec<T> activate(Vec<T> x, Vec<T>& slope) {
  const Vec<T> one = spread<T>(1), zero = spread<T>(0);
  if constexpr (A == kRelu) {
    slope = x > zero ? one : zero;
    return x < zero ? zero : x;
  } else if constexpr (A == kLeakyRelu) {
    slope = x > zero ? one : spread<T>(T(0.01));
    return x * slope;
  } else if constexpr (A == kElu) {
    Vec<T> e = exponential_less_one<T>(x);
    slope = x > zero ? one : e + T(1);
    return x > zero ? x : e;
  } else if constexpr (A == kSilu) {
    Vec<T> s = sigmoid<T>(x);
    slope = s * (one + x * (one - s));
    return x * s;
  } else if constexpr (A == kTanh) {
    Vec<T> h = tangent<T>(x);
    slope = one - h * h;
    return h;
  } else {  // gelu: the error function has no short series, so one number after the other
    Vec<T> cumulated;
    for (int i = 0; i < kLanes<T>; i++) cumulated[i] = T(0.5) * (T(1) + std::erf(x[i] * T(0.7071067811865476)));
    slope = cumulated + x * T(0.3989422804014327) * exponential<T>(T(-0.5) * x * x);
    return x * cumulated;
  }
}

}  // namespace vbx
