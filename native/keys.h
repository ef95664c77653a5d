// Lattice points as keys: how they are packed, stepped to neighbours and hashed.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "lattice.h"

namespace crfrnn {

// How a lattice point is packed into a key. Each coordinate of a point of remainder k is (d + 1) · cell + k, and the
// coordinates sum to 0. A key has a field for each number that tells points apart. The lowest value of a field is subtracted so
// that none is negative. A step to a neighbour is then an addition. Fields do not overflow, as `margin` cells are left free on
// both sides.
//
// From the lowest to the highest bits these are: the row of sums, which is 0 in the key of a vertex; d + 1 − k, so that 0 is
// the remainder of no point; the cells of coordinates 1 … d − 1; the batch id; and `slab`, the difference between the cells of
// the last two coordinates. The cells of coordinates 0 and d follow from these. Slab does not change along any direction except
// the last two: vertices that are sorted by key fall into slabs, and most of the blur stays inside a slab.
struct KeyLayout {
  struct Field {
    int word = 0, shift = 0;
    int64_t lowest = 0;
  };
  std::array<Field, most_features> cell;  // that of coordinate 0 has no field
  Field batch, slab;
  int row_bits = 0, remainder_bits = 0;
  int words = 1, bits = 0;  // bits: those in use in the last word
  double reach = 0;         // what no coordinate on the hyperplane exceeds

  uint64_t no_row() const { return (uint64_t{1} << row_bits) - 1; }
};

// Cells so far from the origin are refused: float32 would not tell neighbouring cells apart, and a cell has to fit 32 bits.
template <class T>
constexpr double cell_limit = sizeof(T) == 4 ? 1 << 21 : 1 << 30;

template <int Words>
struct Key {
  std::array<uint64_t, Words> word{};
  bool operator==(const Key& k) const { return difference(k, 0) == 0; }
  bool operator<(const Key& k) const {
    for (int i = Words - 1; i > 0; --i)
      if (word[i] != k.word[i]) return word[i] < k.word[i];
    return word[0] < k.word[0];
  }
  Key& operator+=(const Key& k) {
    for (int i = 0; i < Words; ++i) word[i] += k.word[i];
    return *this;
  }
  friend Key operator+(Key a, const Key& b) { return a += b; }
  Key& operator-=(const Key& k) {
    for (int i = 0; i < Words; ++i) word[i] -= k.word[i];
    return *this;
  }
  Key without(uint64_t bits) const {  // of the first word
    Key k = *this;
    k.word[0] &= ~bits;
    return k;
  }
  // 0 if this key without some bits of the first word is k.
  uint64_t difference(const Key& k, uint64_t bits) const {
    uint64_t difference = (word[0] & ~bits) ^ k.word[0];
    for (int i = 1; i < Words; ++i) difference |= word[i] ^ k.word[i];
    return difference;
  }
  // Its highest bits are the best.
  uint64_t hash() const {
    uint64_t h = word[0] * 0x9E3779B97F4A7C15u;
    for (int i = 1; i < Words; ++i) h = (h ^ (h >> 29) ^ word[i]) * 0xBF58476D1CE4E5B9u;
    return h;
  }
};

// Steps between lattice points, as differences of their keys.
template <int Words>
class KeySteps {
 public:
  KeySteps(const KeyLayout& layout, int d)
      : d_(d), one_(uint64_t{1} << layout.row_bits), mask_(((uint64_t{1} << layout.remainder_bits) - 1) << layout.row_bits) {
    for (int j = 1; j < d; ++j) cell_[j].word[layout.cell[j].word] = uint64_t{1} << layout.cell[j].shift;
    const uint64_t slab = uint64_t{1} << layout.slab.shift;
    cell_[d - 1].word[layout.slab.word] += slab;
    cell_[d].word[layout.slab.word] -= slab;
    remainder_.word[0] -= one_;
    for (int j = 0; j <= d; ++j) {
      step_[j][0] = remainder_, step_[j][0] -= cell_[j];
      for (int i = 0; i <= d; ++i)
        if (i != j) step_[j][1] += cell_[i];
      for (int k = 0; k < d; ++k) step_[j][1] -= remainder_;
    }
  }

  // From corner k of a simplex to corner k + 1: one cell less along the coordinate whose rank is d - k.
  void to_next_corner(Key<Words>& key, int coordinate) const { key += step_[coordinate][0]; }

  // Towards the next neighbour in direction j, every coordinate grows by one and coordinate j falls by d. As a difference of
  // keys this is one of two steps: from remainder d to 0, or from any other one to the next.
  const Key<Words>& step(int j, bool wraps) const { return step_[j][wraps]; }
  Key<Words> after(Key<Words> key, int j) const {
    key += step_[j][is_last(key)];
    return key;
  }
  Key<Words> before(Key<Words> key, int j) const {
    key -= step_[j][is_first(key)];
    return key;
  }
  // Whether the remainder is 0, or d.
  bool is_first(const Key<Words>& key) const { return (key.word[0] & mask_) == one_ * static_cast<uint64_t>(d_ + 1); }
  bool is_last(const Key<Words>& key) const { return (key.word[0] & mask_) == one_; }

 private:
  const int d_;
  const uint64_t one_, mask_;                         // of the field of the remainder
  Key<Words> remainder_{};                            // k → k + 1
  std::array<Key<Words>, most_features + 1> cell_{};  // one cell more along each coordinate
  // Along each direction: from k < d to k + 1, with one cell less along j; from k = d to 0, with one cell more along all but j.
  std::array<std::array<Key<Words>, 2>, most_features + 1> step_{};
};

// The key of a lattice point of remainder 0: a weighted sum of its d cells for each word.
template <int Words>
class CellSums {
 public:
  CellSums(const KeyLayout& layout, int d) : d_(d), words_(layout.words) {
    start_[0] = static_cast<uint64_t>(d + 1) << layout.row_bits;
    for (int j = 1; j < d; ++j) add(layout.cell[j], j, 1);
    // The cell of the last coordinate is −Σ of the others.
    for (int j = 0; j < d; ++j) add(layout.slab, j, j == d - 1 ? 2 : 1);
    for (int j = 1; j < d; ++j) start_[layout.cell[j].word] -= lowest(layout.cell[j]);
    start_[layout.slab.word] -= lowest(layout.slab);
  }

  // Word w of the key of point p is number w · stride + p of the words.
  template <class WeightedSums>
  void keys(WeightedSums weighted_sums, const int32_t* cell, uint64_t* words, int stride) const {
    for (int w = 0; w < words_; ++w) weighted_sums(cell, d_, factors_[w].data(), start_[w], words + w * stride);
  }

 private:
  void add(const KeyLayout::Field& field, int j, uint64_t times) { factors_[field.word][j] += times << field.shift; }
  static uint64_t lowest(const KeyLayout::Field& field) { return static_cast<uint64_t>(field.lowest) << field.shift; }

  const int d_, words_;
  std::array<std::array<uint64_t, most_features>, Words> factors_{};
  std::array<uint64_t, Words> start_{};
};

// The coordinates on the hyperplane are scaled so that the blur has the standard deviation of the Gaussian. The numbers are
// rounded where the original implementation rounds them: another last bit would move points that lie on the border of two
// simplices into the other one.
template <class T>
std::vector<T> feature_scales(int d) {
  const T deviation = static_cast<T>(std::sqrt(2.0 / 3.0) * (d + 1));
  std::vector<T> scale(d);
  for (int i = 0; i < d; ++i) scale[i] = static_cast<T>(1.0 / std::sqrt((i + 1.0) * (i + 2.0)) * deviation);
  return scale;
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void cover(double x) { low = x < low ? x : low, high = x > high ? x : high; }
};

// What is wrong with features (scaled to the lattice) that reach further than `limit` cells: it names the furthest one.
inline std::string too_far(const std::vector<Range>& feature, double limit) {
  const int d = static_cast<int>(feature.size());
  auto reach = [&](int i) { return std::max(-feature[i].low, feature[i].high); };
  int furthest = 0;
  for (int i = 1; i < d; ++i)
    if (reach(i) > reach(furthest)) furthest = i;
  const double scale = feature_scales<double>(d)[furthest];
  char text[320];
  std::snprintf(text, sizeof text,
                "features reach further than %lld lattice cells from the origin: feature %d of %d, counted from 0, goes from "
                "%.4g to %.4g. Divide it by a larger standard deviation (theta)%s subtract its mean%s",
                static_cast<long long>(limit), furthest, d, feature[furthest].low / scale, feature[furthest].high / scale,
                limit < cell_limit<double> ? "," : " or", limit < cell_limit<double> ? ", or use float64" : "");
  return text;
}

// Places the fields of a key. Their bounds come from the bounds of the features by interval arithmetic: a few bits more than
// needed, but no pass over the points. Rows are numbers below `rows` − 1.
inline KeyLayout layout_keys(std::vector<Range> feature, Range batch, int margin, double limit, int64_t rows) {
  const int d = static_cast<int>(feature.size());
  const auto scale = feature_scales<double>(d);
  for (int i = 0; i < d; ++i) feature[i].low *= scale[i], feature[i].high *= scale[i];
  KeyLayout layout;
  int used = 0;
  auto place = [&](KeyLayout::Field& field, double low, double high) {
    int bits = 1;
    while (std::ldexp(1.0, bits) <= high - low) ++bits;
    if (used + bits > 64) ++layout.words, used = 0;
    field = {layout.words - 1, used, static_cast<int64_t>(low)};
    used += bits;
  };
  layout.row_bits = std::bit_width(static_cast<uint64_t>(rows - 1));
  layout.remainder_bits = std::bit_width(static_cast<unsigned>(d + 1));
  used = layout.row_bits + layout.remainder_bits;
  for (int j = 0; j < d; ++j) {
    Range x{0, 0};
    for (int i = j; i < d; ++i) x.low += feature[i].low, x.high += feature[i].high;
    if (j > 0) x.low -= j * feature[j - 1].high, x.high -= j * feature[j - 1].low;
    const double low = std::floor(x.low / (d + 1)) - margin, high = std::ceil(x.high / (d + 1)) + margin;
    if (!(low > -limit && high < limit)) throw std::invalid_argument(too_far(feature, limit));
    layout.reach = std::max({layout.reach, -x.low, x.high});
    if (j > 0) place(layout.cell[j], low, high);
  }
  layout.batch.lowest = static_cast<int64_t>(batch.low);
  if (batch.high > batch.low) place(layout.batch, batch.low, batch.high);
  Range slab{(d + 1) * feature[d - 1].low, (d + 1) * feature[d - 1].high};
  if (d > 1) slab.low -= (d - 1) * feature[d - 2].high, slab.high -= (d - 1) * feature[d - 2].low;
  place(layout.slab, std::floor(slab.low / (d + 1)) - 2 * margin, std::ceil(slab.high / (d + 1)) + 2 * margin);
  layout.bits = used;
  return layout;
}

}  // namespace crfrnn
