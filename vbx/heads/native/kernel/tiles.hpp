// Memory: aligned arrays, and the values of a batch in tiles of 128 columns.
//
// In a tile the rows lie one after the other, 128 numbers each, so that the places of a column in all rows are a
// constant apart: the address of each is one register and a number known to the compiler.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "simd.hpp"

namespace vbx {

constexpr long kTile = 128;
constexpr std::size_t kHugePage = std::size_t(1) << 21;

inline long round_up(long n, long unit) { return (n + unit - 1) / unit * unit; }

// Numbers from a 64-byte boundary on, 0 to begin with.
template <class T> class Array {
 public:
  explicit Array(long size = 0) : size_(size) {
    const std::size_t bytes = std::size_t(round_up(size * long(sizeof(T)) + 1, 64));
    const std::size_t page = bytes >= kHugePage ? kHugePage : 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(page, (bytes + page - 1) / page * page)));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (page == kHugePage) madvise(data_.get(), bytes, MADV_HUGEPAGE);  // fewer misses when a page is looked up
#endif
    std::memset(data_.get(), 0, bytes);
  }
  T* get() const { return data_.get(); }
  T& operator[](long i) const { return data_.get()[i]; }
  long size() const { return size_; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  long size_;
};

// Values `(rows, columns)` of a batch.
template <class T> class Tiles {
 public:
  Tiles() = default;
  Tiles(long rows, long columns) : rows(rows), data_(rows * round_up(columns, kTile) + 1) {}  // `learn` looks ahead
  T* at(long row, long column) const {
    return data_.get() + (column / kTile * rows + row) * kTile + column % kTile;
  }
  void clear() const { std::memset(data_.get(), 0, std::size_t(data_.size()) * sizeof(T)); }

  long rows = 0;

 private:
  Array<T> data_;
};

// `count` numbers from one place to another, with room for a whole register at the end of both.
template <class T> VBX_INLINE void copy_row(const T* from, T* to, long count) {
  for (long i = 0; i < count; i += kLanes<T>) store(to + i, load(from + i));
}
// A row of tiles into plain numbers.
template <class T> inline void take_row(const Tiles<T>& tiles, long row, T* to, long columns) {
  for (long k = 0; k < columns; k += kTile)
    std::memcpy(to + k, tiles.at(row, k), std::size_t(columns - k < kTile ? columns - k : kTile) * sizeof(T));
}

// The weights of a linear layer `(depth, width)`, in the order in which `learn` goes through them: tiles of 128 rows;
// in a tile, panels as wide as a register; in a panel, row after row. A pass runs straight through memory.
template <class T> struct Panels {
  long depth = 0, width = 0, count = 0;
  T *weight = nullptr, *first = nullptr, *second = nullptr;  // and what the rule remembers

  long size() const { return count * depth * kLanes<T>; }
  long rows_from(long k) const { return depth - k < kTile ? depth - k : kTile; }
  long place(long panel, long k) const {
    const long begin = k / kTile * kTile;
    return (begin * count + panel * rows_from(begin) + (k - begin)) * kLanes<T>;
  }
};

}  // namespace vbx
