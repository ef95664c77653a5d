// Sorting the entries of a lattice. Included by lattice_builder.h.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "buffer.h"
#include "chunks.h"
#include "keys.h"

namespace crfrnn {

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
      sorted_ = Buffer<Key<Words>>(entries.size());
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

}  // namespace crfrnn
