// The three passes over a layer's weights: products forward, gradients of the inputs, and learning.
//
// `learn` is where the time goes. It reads each weight once a step: its gradient, a sum over the rows of the batch, is
// made in a register, the rule moves the weight, and while the weight is still in a register the *next* batch's rows
// are multiplied by it. The gradient is never stored, and weights and moments pass through the cache once.
#pragma once

#include "feed.hpp"
#include "rules.hpp"
#include "tiles.hpp"

namespace vbx {

constexpr int kBlock = 8;        // rows of a batch at once
constexpr int kLargeBlock = 16;  // the same where `learn` has a large batch and 32 registers
constexpr long kStretch = 32;    // rows of weights at once where a batch has more rows than a block

template <class T, int B> VBX_INLINE void load_block(Vec<T>* to, const Tiles<T>& from, long row, long column) {
  for (int b = 0; b < B; b++) to[b] = load(from.at(row + b, column));
}
template <class T, int B> VBX_INLINE void store_block(const Vec<T>* from, const Tiles<T>& to, long row, long column) {
  for (int b = 0; b < B; b++) store(to.at(row + b, column), from[b]);
}

// Gradient of one register of weights: column k of `x` times the gradients of the outputs, summed over rows.
template <class T, int B> VBX_INLINE Vec<T> outer(const T* x, const Vec<T>* d) {
  Vec<T> even = x[0] * d[0];
  if constexpr (B == 1) return even;
  Vec<T> odd = x[kTile] * d[1];
#pragma GCC unroll 16
  for (int b = 2; b < B; b += 2) {
    even += x[b * kTile] * d[b];
    odd += x[(b + 1) * kTile] * d[b + 1];
  }
  return even + odd;
}
template <class T, int B> VBX_INLINE void multiply(const T* x, Vec<T> weight, Vec<T>* total) {
#pragma GCC unroll 16
  for (int b = 0; b < B; b++) total[b] += x[b * kTile] * weight;
}

// z += x w over one tile of columns; B rows of `x` at once, P panels.
template <class T, int B, int P>
VBX_INLINE void forward_block(const Tiles<T>& x, const Feed<T>* feed, const Panels<T>& panels, long tile, long panel,
                              const Tiles<T>& z) {
  constexpr int L = kLanes<T>;
  const long count = panels.rows_from(tile);
  const T* const weights = panels.weight + panels.place(panel, tile);
  for (long row = 0; row < z.rows; row += B) {
    const long at = panel * z.rows + row * P;
    if (feed) feed->prefetch(tile + kTile, {at, at + B * P, panels.count * z.rows});
    Vec<T> total[P][B];
    for (int p = 0; p < P; p++) load_block<T, B>(total[p], z, row, (panel + p) * L);
    const T *from = x.at(row, tile), *w = weights;
    for (long k = 0; k < count; k++) {
      Vec<T> weight[P];
      for (int p = 0; p < P; p++) weight[p] = load(w + (p * count + k) * L);
#pragma GCC unroll 16
      for (int b = 0; b < B; b++) {
        const Vec<T> value = spread(from[b * kTile + k]);
        for (int p = 0; p < P; p++) total[p][b] += value * weight[p];
      }
    }
    for (int p = 0; p < P; p++) store_block<T, B>(total[p], z, row, (panel + p) * L);
  }
}

// The panels of one tile from `panel` on: P at once, what is left by halves.
template <class T, int B, int P>
VBX_INLINE void forward_tile(const Tiles<T>& x, const Feed<T>* feed, const Panels<T>& panels, long tile, long panel,
                             const Tiles<T>& z) {
  for (; panel + P <= panels.count; panel += P) forward_block<T, B, P>(x, feed, panels, tile, panel, z);
  if constexpr (P > 1) forward_tile<T, B, P / 2>(x, feed, panels, tile, panel, z);
}

// z += x w. All rows see a tile's weights while these are in the nearest cache; a feed fills its `x` meanwhile.
template <class T, int B, int P>
void forward(const Tiles<T>& x, const Feed<T>* feed, const Panels<T>& panels, const Tiles<T>& z) {
  for (long tile = 0; tile < panels.depth; tile += kTile) {
    if (feed) feed->fill(tile);
    forward_tile<T, B, P>(x, feed, panels, tile, 0, z);
  }
}

// dx += d w'. Lanes run over the rows of the batch, so `d` comes transposed, `(width, rows)`.
template <class T, int B, int K>
VBX_INLINE void inputs_block(const T* d, long rows, const Panels<T>& panels, long k, const Tiles<T>& dx, long row) {
  using V = typename Rows<T, B>::type;
  constexpr int L = kLanes<T>;
  V total[K] = {};
  for (long panel = 0; panel < panels.count; panel++) {
    const T* w = panels.weight + panels.place(panel, k);
    const long width = panels.width - panel * L < L ? panels.width - panel * L : L;
    for (long j = 0; j < width; j++) {
      const V value = load_as<V>(d + (panel * L + j) * rows + row);
#pragma GCC unroll 16
      for (int i = 0; i < K; i++) total[i] += w[i * L + j] * value;
    }
  }
  if constexpr (B == K && B > 1) {
    transpose<T, B>(total);
    for (int b = 0; b < B; b++) store(dx.at(row + b, k), load_as<V>(dx.at(row + b, k)) + total[b]);
  } else {
    for (int i = 0; i < K; i++)
      for (int b = 0; b < B; b++) *dx.at(row + b, k + i) += total[i][b];
  }
}

template <class T, int B> void inputs(const T* d, const Panels<T>& panels, const Tiles<T>& dx) {
  for (long row = 0; row < dx.rows; row += B) {
    long k = 0;
    for (; k + 8 <= panels.depth; k += 8) inputs_block<T, B, 8>(d, dx.rows, panels, k, dx, row);
    for (; k < panels.depth; k++) inputs_block<T, B, 1>(d, dx.rows, panels, k, dx, row);
  }
}

// Where one stretch of weights lies: of one panel, within one tile of the batch.
template <class T> struct Stretch {
  T *weight, *first, *second;
  const T *x, *next;  // row 0 of the batch and of the next one, at the first column
  long count, column;
};

// A batch of at most a block: gradient, rule and the next batch's products in one go. Each round works on three rows
// of weights at once, on the gradient of one, the rule of another and the products of a third, so that no chain of
// operations has to be waited for. The round looks a row ahead, after the last at numbers that are not used.
template <class T, Rule R, int B, bool Next>
VBX_INLINE void learn_once(const Stretch<T>& s, const Step<T>& step, const Tiles<T>& d, const Tiles<T>& z) {
  constexpr int L = kLanes<T>;
  Vec<T> slopes[B], total[B];
  load_block<T, B>(slopes, d, 0, s.column);
  if (Next) load_block<T, B>(total, z, 0, s.column);
  Vec<T> weight = move<T, R>(outer<T, B>(s.x, slopes), s.weight, s.first, s.second, step);
  Vec<T> gradient = outer<T, B>(s.x + 1, slopes);
  for (long k = 1; k < s.count; k++) {
    const Vec<T> ahead = outer<T, B>(s.x + k + 1, slopes);
    if (Next) multiply<T, B>(s.next + k - 1, weight, total);
    weight = move<T, R>(gradient, s.weight + k * L, s.first + k * L, s.second + k * L, step);
    gradient = ahead;
  }
  if (Next) multiply<T, B>(s.next + s.count - 1, weight, total);
  if (Next) store_block<T, B>(total, z, 0, s.column);
}

// A larger batch: blocks of rows add up the gradient of a stretch, which stays in the nearest cache; at the last block
// the rule follows a row of weights behind.
template <class T, Rule R, int B, bool Next>
VBX_INLINE void learn_blocks(const Stretch<T>& s, const Step<T>& step, const Tiles<T>& d, const Tiles<T>& z) {
  constexpr int L = kLanes<T>;
  alignas(64) T sums[(kStretch + 1) * L];
  for (long row = 0; row < d.rows; row += B) {
    Vec<T> slopes[B];
    load_block<T, B>(slopes, d, row, s.column);
    const auto sum_at = [&](long k) {
      const Vec<T> g = outer<T, B>(s.x + row * kTile + k, slopes);
      return row ? g + load(sums + k * L) : g;
    };
    if (row + B < d.rows) {
      for (long k = 0; k < s.count; k++) store(sums + k * L, sum_at(k));
      continue;
    }
    Vec<T> gradient = sum_at(0);
    for (long k = 0; k < s.count; k++) {
      const Vec<T> ahead = sum_at(k + 1);
      move<T, R>(gradient, s.weight + k * L, s.first + k * L, s.second + k * L, step);
      gradient = ahead;
    }
  }
  for (long row = 0; Next && row < d.rows; row += B) {
    Vec<T> total[B];
    load_block<T, B>(total, z, row, s.column);
    for (long k = 0; k < s.count; k++) multiply<T, B>(s.next + row * kTile + k, load(s.weight + k * L), total);
    store_block<T, B>(total, z, row, s.column);
  }
}

// Move all weights of a layer along the gradient x' d and, with `next`, add next w to `z`.
template <class T, Rule R, int B, bool Next>
void learn(const Tiles<T>& x, const Feed<T>* next, const Tiles<T>& d, const Panels<T>& panels, const Step<T>& at,
           const Tiles<T>& z) {
  constexpr int L = kLanes<T>;
  const Step<T> step = at;  // a copy: the compiler then knows that no store changes it
  const bool once = B <= kBlock && d.rows == B;
  const long most = once ? kTile : kStretch;
  for (long tile = 0; tile < panels.depth; tile += kTile) {
    if (Next) next->fill(tile);
    for (long panel = 0; panel < panels.count; panel++) {
      if (Next) next->prefetch(tile + kTile, {panel, panel + 1, panels.count});
      for (long begin = tile; begin < tile + panels.rows_from(tile); begin += most) {
        const long place = panels.place(panel, begin), left = tile + panels.rows_from(tile) - begin;
        const Stretch<T> s{panels.weight + place, panels.first + place, panels.second + place, x.at(0, begin),
                           Next ? next->x.at(0, begin) : nullptr, left < most ? left : most, panel * L};
        if (once)
          learn_once<T, R, B, Next>(s, step, d, z);
        else
          learn_blocks<T, R, B, Next>(s, step, d, z);
      }
    }
  }
}

}  // namespace vbx
