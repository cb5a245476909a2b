// Vectors as wide as the registers this translation may use: 64 bytes with AVX-512, 32 with AVX2, else 16.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <xmmintrin.h>
#endif

#define VBX_INLINE static inline __attribute__((always_inline))
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wpsabi"  // how vectors are handed to functions does not matter: all are inlined
#endif

namespace vbx {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int kBytes = 64;
constexpr const char* kPath = "avx512";
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kBytes = 32;
constexpr const char* kPath = "avx2";
#else
constexpr int kBytes = 16;
constexpr const char* kPath = "portable";
#endif

template <class T> struct Lanes;
template <> struct Lanes<float> {
  typedef float type __attribute__((vector_size(kBytes)));
  typedef uint32_t bits __attribute__((vector_size(kBytes)));
};
template <> struct Lanes<double> {
  typedef double type __attribute__((vector_size(kBytes)));
  typedef uint64_t bits __attribute__((vector_size(kBytes)));
};
template <class T> using Vec = typename Lanes<T>::type;
template <class T> using Bits = typename Lanes<T>::bits;
template <class T> constexpr int kLanes = kBytes / int(sizeof(T));

// Several rows of a batch side by side; as wide as the rows, not as the registers.
template <class T, int B> struct Rows {
  typedef T type __attribute__((vector_size(B * sizeof(T))));
};

template <class V, class T> VBX_INLINE V load_as(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}
template <class T> VBX_INLINE Vec<T> load(const T* from) { return load_as<Vec<T>>(from); }
template <class T, class V> VBX_INLINE void store(T* to, V value) { std::memcpy(to, &value, sizeof(V)); }
// The compiler sees through `value - 0`, not through `value + 0`, which would make +0 of -0.
template <class T> VBX_INLINE Vec<T> spread(T value) { return value - Vec<T>{}; }

template <class T> VBX_INLINE T sum(Vec<T> values) {
  // By halves, which is one fixed order, and short.
  T part[kLanes<T>];
  store(part, values);
  for (int width = kLanes<T> / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) part[i] += part[i + width];
  return part[0];
}

// B rows of B numbers become columns: log B rounds, each of which interleaves the first half of the rows with the rest.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define VBX_SHUFFLE 1
#endif
#endif
#if defined(VBX_SHUFFLE)
template <int B, class V, std::size_t... I> VBX_INLINE V interleave_low(V a, V b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, (I % 2 ? B + I / 2 : I / 2)...);
}
template <int B, class V, std::size_t... I> VBX_INLINE V interleave_high(V a, V b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, (I % 2 ? B + B / 2 + I / 2 : B / 2 + I / 2)...);
}
template <class T, int B> VBX_INLINE void transpose(typename Rows<T, B>::type* rows) {
  constexpr auto places = std::make_index_sequence<B>();
  for (int round = 1; round < B; round *= 2) {
    typename Rows<T, B>::type old[B];
    for (int i = 0; i < B; i++) old[i] = rows[i];
    for (int i = 0; i < B / 2; i++) {
      rows[2 * i] = interleave_low<B>(old[i], old[i + B / 2], places);
      rows[2 * i + 1] = interleave_high<B>(old[i], old[i + B / 2], places);
    }
  }
}
#else
template <class T, int B> VBX_INLINE void transpose(typename Rows<T, B>::type* rows) {
  for (int i = 0; i < B; i++)
    for (int j = 0; j < i; j++) {
      const T value = rows[i][j];
      rows[i][j] = rows[j][i];
      rows[j][i] = value;
    }
}
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
VBX_INLINE Vec<float> root(Vec<float> a) { return (Vec<float>)_mm512_maskz_sqrt_ps(0xFFFF, (__m512)a); }
VBX_INLINE Vec<double> root(Vec<double> a) { return (Vec<double>)_mm512_maskz_sqrt_pd(0xFF, (__m512d)a); }
#elif defined(__AVX2__) && defined(__FMA__)
VBX_INLINE Vec<float> root(Vec<float> a) { return (Vec<float>)_mm256_sqrt_ps((__m256)a); }
VBX_INLINE Vec<double> root(Vec<double> a) { return (Vec<double>)_mm256_sqrt_pd((__m256d)a); }
#else
template <class V> VBX_INLINE V root(V a) {
  V r;
  for (unsigned i = 0; i < sizeof(V) / sizeof(a[0]); i++) r[i] = std::sqrt(a[i]);
  return r;
}
#endif

// Numbers too small to matter become 0 while this is alive: arithmetic on them costs a hundred times as much.
class FlushTiny {
#if defined(__SSE2__)
  unsigned before_ = _mm_getcsr();

 public:
  FlushTiny() { _mm_setcsr(before_ | 0x8040); }
  ~FlushTiny() { _mm_setcsr(before_); }
#else
 public:
  FlushTiny() {}
  ~FlushTiny() {}
#endif
  FlushTiny(const FlushTiny&) = delete;
};

}  // namespace vbx
