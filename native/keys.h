// Lattice points as keys: how they are packed, stepped to neighbours, hashed and sorted.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "buffer.h"
#include "lattice.h"
#include "team.h"

namespace crfrnn {

// How a lattice point is packed into a key. Each coordinate of a point of remainder k is (d + 1) · cell + k, and the last one
// follows from the others. So a key holds k, d cells and the batch id. Each has a field of its own, from which the lowest value
// is subtracted so that none is negative. A step to a neighbour is then an addition. Fields do not overflow, as `margin` cells
// are left free on both sides.
//
// The highest field, `slab`, is the difference between the cells of the last two coordinates. It follows from the other fields,
// but it does not change along any direction except the last two: vertices that are sorted by key fall into slabs, and most of
// the blur stays inside a slab.
struct KeyLayout {
  struct Field {
    int word, shift;
    int64_t lowest;
  };
  std::array<Field, most_features> cell;
  Field batch, slab;
  int words = 1, bits = 0;  // bits: those in use in the last word
};

constexpr int remainder_bits = 5;  // the lowest field: k = 0 … d

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
  Key& operator-=(const Key& k) {
    for (int i = 0; i < Words; ++i) word[i] -= k.word[i];
    return *this;
  }
  uint64_t hash() const {
    uint64_t h = word[0] * 0x9E3779B97F4A7C15u;
    for (int i = 1; i < Words; ++i) h = (h ^ (h >> 29) ^ word[i]) * 0xBF58476D1CE4E5B9u;
    return h ^ (h >> 32);
  }
};

// Steps between lattice points, as differences of their keys.
template <int Words>
class KeySteps {
 public:
  KeySteps(const KeyLayout& layout, int d) : d_(d) {
    for (int j = 0; j < d; ++j) cell_[j].word[layout.cell[j].word] = uint64_t{1} << layout.cell[j].shift;
    const uint64_t slab = uint64_t{1} << layout.slab.shift;
    cell_[d - 1].word[layout.slab.word] += slab;
    cell_[d].word[layout.slab.word] -= slab;
    remainder_.word[0] = 1;
    for (int j = 0; j <= d; ++j) {
      step_[j][0] = remainder_, step_[j][0] -= cell_[j];
      for (int i = 0; i <= d; ++i)
        if (i != j) step_[j][1] += cell_[i];
      for (int k = 0; k < d; ++k) step_[j][1] -= remainder_;
    }
  }

  // From corner k of a simplex to corner k + 1: one cell less along the coordinate whose rank is d - k.
  void to_next_corner(Key<Words>& key, int coordinate) const {
    key += remainder_;
    key -= cell_[coordinate];
  }

  // The neighbours in direction j. Towards the next one, every coordinate grows by one and coordinate j falls by d.
  Key<Words> after(Key<Words> key, int j) const {
    key += step_[j][wraps_after(key)];
    return key;
  }
  Key<Words> before(Key<Words> key, int j) const {
    key -= step_[j][remainder(key) == 0];
    return key;
  }
  // Whether the next neighbour has the remainder 0 again.
  bool wraps_after(const Key<Words>& key) const { return remainder(key) == d_; }

 private:
  static int remainder(const Key<Words>& key) { return static_cast<int>(key.word[0] & ((1 << remainder_bits) - 1)); }

  const int d_;
  Key<Words> remainder_{};                            // k → k + 1
  std::array<Key<Words>, most_features + 1> cell_{};  // one cell more along each coordinate; the last one is implied
  // Along each direction: from k < d to k + 1, with one cell less along j; from k = d to 0, with one cell more along all but j.
  std::array<std::array<Key<Words>, 2>, most_features + 1> step_{};
};

// Numbers keys in the order in which they are first inserted. Open addressing, at most half full.
template <int Words>
class KeyTable {
 public:
  explicit KeyTable(int64_t expected) {
    int bits = 10;
    while ((int64_t{1} << bits) < 2 * expected) ++bits;
    keys_.reserve(expected);
    resize(bits);
  }
  int32_t insert(const Key<Words>& key) {
    for (uint64_t at = key.hash() & mask_;; at = (at + 1) & mask_) {
      if (slots_[at].id < 0) {
        const auto id = static_cast<int32_t>(keys_.size());
        slots_[at] = {key, id};
        keys_.push_back(key);
        if (2 * keys_.size() > mask_) resize(bits_ + 1);
        return id;
      }
      if (slots_[at].key == key) return slots_[at].id;
    }
  }
  void prefetch(const Key<Words>& key) const {
#if defined(__GNUC__)
    __builtin_prefetch(&slots_[key.hash() & mask_]);
#else
    (void)key;
#endif
  }
  // All keys by number.
  const std::vector<Key<Words>>& keys() const { return keys_; }

 private:
  struct Slot {
    Key<Words> key;
    int32_t id = -1;
  };
  void resize(int bits) {
    bits_ = bits;
    mask_ = (uint64_t{1} << bits) - 1;
    slots_ = Buffer<Slot>(int64_t{1} << bits);
    std::fill(slots_.begin(), slots_.end(), Slot{});
    for (std::size_t id = 0; id < keys_.size(); ++id) {
      uint64_t at = keys_[id].hash() & mask_;
      while (slots_[at].id >= 0) at = (at + 1) & mask_;
      slots_[at] = {keys_[id], static_cast<int32_t>(id)};
    }
  }
  int bits_ = 0;
  uint64_t mask_ = 0;
  Buffer<Slot> slots_;
  std::vector<Key<Words>> keys_;
};

// A key, and the row of sums it stands for: -1 for a vertex that no point touches.
template <int Words>
struct Entry {
  Key<Words> key;
  int32_t row;
};

// Stable sort by key. Keys of one word are sorted by digits, from the lowest to the highest. Each part of the entries counts
// how often each digit occurs, and then moves its entries to the places that are left for them, so that parts can run in
// parallel.
template <int Words>
void sort_by_key(Buffer<Entry<Words>>& entries, int bits, Team& team) {
  if constexpr (Words > 1) {
    std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
  } else {
    constexpr int digit_bits = 11, digits = 1 << digit_bits;
    const int64_t size = entries.size();
    const Parts parts{size, std::max<int64_t>(16384, (size + 15) / 16)};
    Buffer<Entry<Words>> sorted(size, Use::scratch);
    std::vector<int64_t> place(parts.count() * digits);
    for (int shift = 0; shift < bits; shift += digit_bits) {
      auto digit_of = [shift](const Entry<Words>& entry) { return (entry.key.word[0] >> shift) & (digits - 1); };
      team.run(parts.count(), [&](int64_t part) {
        int64_t* count = &place[part * digits];
        std::fill_n(count, digits, 0);
        for (int64_t i = parts.begin(part); i < parts.end(part); ++i) ++count[digit_of(entries[i])];
      });
      int64_t sum = 0;
      for (int digit = 0; digit < digits; ++digit)
        for (int64_t part = 0; part < parts.count(); ++part) sum += std::exchange(place[part * digits + digit], sum);
      team.run(parts.count(), [&](int64_t part) {
        int64_t* next = &place[part * digits];
        for (int64_t i = parts.begin(part); i < parts.end(part); ++i) sorted[next[digit_of(entries[i])]++] = entries[i];
      });
      entries.swap(sorted);
    }
  }
}

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
// needed, but no pass over the points.
inline KeyLayout layout_keys(std::vector<Range> feature, Range batch, int margin, double limit) {
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
  used = remainder_bits;
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
    place(layout.cell[j], low, high);
  }
  place(layout.batch, batch.low, batch.high);
  Range slab{(d + 1) * feature[d - 1].low, (d + 1) * feature[d - 1].high};
  if (d > 1) slab.low -= (d - 1) * feature[d - 2].high, slab.high -= (d - 1) * feature[d - 2].low;
  place(layout.slab, std::floor(slab.low / (d + 1)) - 2 * margin, std::ceil(slab.high / (d + 1)) + 2 * margin);
  layout.bits = used;
  return layout;
}

}  // namespace crfrnn
