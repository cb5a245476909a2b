// Memory: aligned arrays, and the values of a batch in tiles of 128 columns.
//
// In a tile the rows lie one after the other, 128 numbers each, so that the places of a column in all rows are a
// constant apart: the address of each is one register and a number known to the compiler.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "simd.hpp"

namespace vbx {

constexpr long kTile = 128;

inline long round_up(long n, long unit) { return (n + unit - 1) / unit * unit; }

// Numbers from a 64-byte boundary on, 0 to begin with.
template <class T> class Array {
 public:
  explicit Array(long size = 0) : size_(size) {
    const std::size_t bytes = std::size_t(round_up(size * long(sizeof(T)) + 1, 64));
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
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
  Tiles(long rows, long columns) : rows(rows), data_(rows * round_up(columns, kTile)) {}
  T* at(long row, long column) const {
    return data_.get() + (column / kTile * rows + row) * kTile + column % kTile;
  }
  void clear() { std::memset(data_.get(), 0, std::size_t(data_.size()) * sizeof(T)); }

  long rows = 0;

 private:
  Array<T> data_;
};

// A row of plain numbers into a row of tiles, and back.
template <class T> inline void put_row(const Tiles<T>& tiles, long row, const T* from, long columns) {
  for (long k = 0; k < columns; k += kTile)
    std::memcpy(tiles.at(row, k), from + k, std::size_t(columns - k < kTile ? columns - k : kTile) * sizeof(T));
}
template <class T> inline void take_row(const Tiles<T>& tiles, long row, T* to, long columns) {
  for (long k = 0; k < columns; k += kTile)
    std::memcpy(to + k, tiles.at(row, k), std::size_t(columns - k < kTile ? columns - k : kTile) * sizeof(T));
}

// The weights of a linear layer `(depth, width)`, in panels as wide as a register: in a panel one row of the layer
// after the other, so that passes over it run straight through memory.
template <class T> struct Panels {
  long depth = 0, width = 0, count = 0;
  T *weight = nullptr, *first = nullptr, *second = nullptr;  // and what the rule remembers

  long size() const { return count * depth * kLanes<T>; }
};

}  // namespace vbx
