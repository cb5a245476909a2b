// The rows of the batch to come: they lie anywhere in memory, and passes fetch them while they compute.
#pragma once

#include <algorithm>
#include <vector>

#include "interface.h"
#include "tiles.hpp"

namespace vbx {

struct Share {  // of a whole: what lies between two of its marks
  long from, to, of;
};

template <class T> struct Feed {
  Tiles<T> x;           // what the rows are copied to
  bool filled = false;  // whether all are there, because a layer has seen them

  Feed() = default;
  Feed(long rows, long columns) : x(rows, columns), columns_(columns), nothing_(columns), rows_(std::size_t(rows)) {}

  // The batch begins at `begin` of the order, null for that of the split; rows that are not there are 0.
  void point(const VbxSplit& split, const int64_t* order, long begin, long batch) {
    const long count = std::max(0L, std::min(batch, long(split.rows) - begin));
    std::fill(rows_.begin(), rows_.end(), nothing_.get());
    for (long i = 0; i < count; i++)
      rows_[std::size_t(i)] = static_cast<const T*>(split.x) + (order ? order[begin + i] : begin + i) * split.stride;
    filled = false;
    prefetch(0, {0, 1, 1});
  }

  // Copy one tile of columns, to use it at once.
  void fill(long tile) const {
    if (filled) return;
    const long count = std::min(columns_ - tile, kTile);
    for (long row = 0; row < x.rows; row++) copy_row(rows_[std::size_t(row)] + tile, x.at(row, tile), count);
  }

  // Ask for a share of a tile, soon before it is filled: what is asked for early is pushed out of the cache again.
  void prefetch(long tile, const Share& share) const {
    if (filled || tile >= columns_) return;
    constexpr long line = 64 / long(sizeof(T));
    const long across = (std::min(columns_ - tile, kTile) + line - 1) / line, all = across * x.rows;
    for (long i = all * share.from / share.of; i < all * share.to / share.of; i++)
      __builtin_prefetch(rows_[std::size_t(i / across)] + tile + i % across * line, 0, 2);
  }

 private:
  long columns_ = 0;
  Array<T> nothing_;
  std::vector<const T*> rows_;
};

}  // namespace vbx
