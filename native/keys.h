// Lattice points as keys: how they are packed, stepped to neighbours, hashed and sorted.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "buffer.h"
#include "chunks.h"
#include "lattice.h"
#include "team.h"

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

  uint64_t no_row() const { return (uint64_t{1} << row_bits) - 1; }
};

// Cells so far from the origin are refused: float32 would not tell neighbouring cells apart, and a cell has to fit 32 bits.
template <class T>
constexpr double cell_limit = sizeof(T) == 4 ? 1 << 21 : 1 << 30;

template <int Words>
struct Key {
  std::array<uint64_t, Words> word{};
  bool operator==(const Key& k) const {
    uint64_t difference = 0;
    for (int i = 0; i < Words; ++i) difference |= word[i] ^ k.word[i];
    return difference == 0;
  }
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

// Numbers keys in the order in which they are first inserted. Open addressing, at most half full. A slot is a key with its
// number in place of the row.
template <int Words>
class KeyTable {
 public:
  KeyTable(const KeyLayout& layout, int64_t expected) : number_mask_(layout.no_row()) { resize(2 * expected); }

  // Makes room for so many more keys.
  void reserve(int64_t more) {
    if (2 * (count_ + more) > slots_.size()) resize(4 * (count_ + more));
  }
  // Where to look for a key. It stays the same until reserve() is called.
  int64_t place(const Key<Words>& key) const {
    const auto at = static_cast<int64_t>(key.hash() >> shift_);
#if defined(__GNUC__)
    __builtin_prefetch(&slots_[at]);
#endif
    return at;
  }
  // The numbers of n keys, looked for at their places. Whether a key is new cannot be predicted, so there is no branch on it.
  // There has to be room for them.
  void insert(const Key<Words>* keys, const int64_t* places, int64_t n, int32_t* numbers) {
    Key<Words>*const slots = slots_.get(), *const all = keys_.get();
    const int64_t last = slots_.size() - 1;
    const uint64_t number_mask = number_mask_;
    auto count = static_cast<uint64_t>(count_);
    for (int64_t i = 0; i < n; ++i) {
      const Key<Words> key = keys[i];
      int64_t at = places[i];
      bool is_new = is_empty(slots[at]);
      while (!(is_new | (slots[at].without(number_mask) == key))) {
        at = (at + 1) & last;
        is_new = is_empty(slots[at]);
      }
      const uint64_t number = is_new ? count : slots[at].word[0] & number_mask;
      all[count] = slots[at] = key;
      slots[at].word[0] |= number;
      count += is_new;
      numbers[i] = static_cast<int32_t>(number);
    }
    count_ = static_cast<int64_t>(count);
  }
  // All keys by number.
  std::vector<Key<Words>> keys() const { return {keys_.get(), keys_.get() + count_}; }

 private:
  static bool is_empty(const Key<Words>& slot) { return slot.word[0] == ~uint64_t{0}; }

  void resize(int64_t least_slots) {
    int bits = 10;
    while ((int64_t{1} << bits) < least_slots) ++bits;
    shift_ = 64 - bits;
    slots_ = Buffer<Key<Words>>(int64_t{1} << bits);
    Key<Words> empty;
    empty.word.fill(~uint64_t{0});
    std::fill(slots_.begin(), slots_.end(), empty);
    Buffer<Key<Words>> keys(slots_.size() / 2 + 1);
    std::copy_n(keys_.get(), count_, keys.get());
    keys_.swap(keys);
    for (int64_t number = 0; number < count_; ++number) {
      auto at = static_cast<int64_t>(keys_[number].hash() >> shift_);
      while (!is_empty(slots_[at])) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = keys_[number];
      slots_[at].word[0] |= static_cast<uint64_t>(number);
    }
  }

  const uint64_t number_mask_;
  int shift_ = 0;
  int64_t count_ = 0;
  Buffer<Key<Words>> slots_, keys_;
};

// Sorts entries, which are keys with a row, by key; equal keys keep their order. Keys of one or two words are sorted by digits,
// from the lowest to the highest. Each part of the entries counts how often each digit occurs, and then moves its entries to
// the places that are left for them, so that parts can run in parallel.
template <int Words>
class EntrySort {
 public:
  EntrySort(Buffer<Key<Words>>& entries, const KeyLayout& layout, Team& team)
      : entries_(entries), team_(team), parts_{entries.size(), std::max<int64_t>(16384, (entries.size() + 7) / 8)} {
    if constexpr (Words > 2) {
      std::stable_sort(entries.begin(), entries.end(), [&](const Key<Words>& a, const Key<Words>& b) {
        return a.without(layout.no_row()) < b.without(layout.no_row());
      });
    } else {
      sorted_ = Buffer<Key<Words>>(entries.size(), Use::scratch);
      for (int word = 0; word < Words; ++word) {
        const int low = word == 0 ? layout.row_bits : 0, high = word == Words - 1 ? layout.bits : 64;
        const int digits = (high - low + most_digit_bits - 1) / most_digit_bits;
        for (int i = 0; i < digits; ++i) {
          const int begin = low + (high - low) * i / digits, end = low + (high - low) * (i + 1) / digits;
          sort_by_digit(word, begin, end - begin);
        }
      }
    }
  }

 private:
  static constexpr int most_digit_bits = 13;

  void sort_by_digit(int word, int shift, int bits) {
    const int64_t digits = int64_t{1} << bits;
    places_.resize(parts_.count() * digits);
    auto digit_of = [=](const Key<Words>& entry) { return (entry.word[word] >> shift) & static_cast<uint64_t>(digits - 1); };
    team_.run(parts_.count(), [&](int64_t part) {
      int32_t* count = &places_[part * digits];
      std::fill_n(count, digits, 0);
      for (int64_t i = parts_.begin(part); i < parts_.end(part); ++i) ++count[digit_of(entries_[i])];
    });
    int32_t sum = 0;
    for (int64_t digit = 0; digit < digits; ++digit)
      for (int64_t part = 0; part < parts_.count(); ++part) sum += std::exchange(places_[part * digits + digit], sum);
    team_.run(parts_.count(), [&](int64_t part) {
      int32_t* next = &places_[part * digits];
      const auto* const from = entries_.get();
      auto* const to = sorted_.get();
      for (int64_t i = parts_.begin(part); i < parts_.end(part); ++i) to[next[digit_of(from[i])]++] = from[i];
    });
    entries_.swap(sorted_);
  }

  Buffer<Key<Words>>& entries_;
  Team& team_;
  const Parts parts_;
  Buffer<Key<Words>> sorted_;
  std::vector<int32_t> places_;
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

// Places the fields of a key. Their bounds come from the bounds of the features by interval arithmetic: a few bits more than
// needed, but no pass over the points. Rows are numbers below `rows`.
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
  layout.row_bits = std::bit_width(static_cast<uint64_t>(rows));
  layout.remainder_bits = std::bit_width(static_cast<unsigned>(d + 1));
  used = layout.row_bits + layout.remainder_bits;
  for (int j = 0; j < d; ++j) {
    Range x{0, 0};
    for (int i = j; i < d; ++i) x.low += feature[i].low, x.high += feature[i].high;
    if (j > 0) x.low -= j * feature[j - 1].high, x.high -= j * feature[j - 1].low;
    const double low = std::floor(x.low / (d + 1)) - margin, high = std::ceil(x.high / (d + 1)) + margin;
    if (!(low > -limit && high < limit))
      throw std::invalid_argument(
          "features reach further than " + std::to_string(static_cast<int64_t>(limit)) +
          " lattice cells from the origin; divide them by larger standard deviations (theta), move them closer to the "
          "origin, or use float64");
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
