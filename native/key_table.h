// The hash table of the vertices that a chunk touches. Included by lattice_builder.h.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "buffer.h"
#include "keys.h"

namespace crfrnn {

// Numbers keys in the order in which they are inserted. Open addressing, at most half full. A slot is a key with its number in
// place of the row; that of an empty slot is above all others. What a slot holds cannot be predicted, so there are no branches
// on it where many keys are looked for.
template <int Words>
class KeyTable {
 public:
  static constexpr int most_inserted = (most_features + 1) * embedding_lanes;  // at once

  KeyTable(const KeyLayout& layout, int64_t expected) : number_mask_(layout.no_row()) { resize(2 * expected); }

  // Makes room for so many more keys.
  void reserve(int64_t more) {
    if (2 * (count_ + more) > slots_.size()) resize(4 * (count_ + more));
  }
  // Where to look for a key first. It stays the same until reserve() is called.
  int64_t place(const Key<Words>& key) const {
    const auto at = static_cast<int64_t>(key.hash() >> shift_);
#if defined(__GNUC__)
    __builtin_prefetch(&slots_[at]);
#endif
    return at;
  }
  // The numbers of n keys, looked for from their places on, which change. There has to be room for them.
  void insert(const Key<Words>* keys, int64_t* places, int n, int32_t* numbers) {
    const Key<Words>* const slots = slots_.get();
    const uint64_t number_mask = number_mask_;
    std::array<int32_t, most_inserted> left;
    int count = 0;
    for (int i = 0; i < n; ++i) {
      const Key<Words> slot = slots[places[i]];
      numbers[i] = static_cast<int32_t>(slot.word[0] & number_mask);
      left[count] = i;
      count += slot.difference(keys[i], number_mask) != 0;
    }
    count = look_further(keys, places, left.data(), count, numbers);
    insert_left(keys, places, left.data(), count, numbers);
  }
  // All keys by number.
  std::vector<Key<Words>> keys() const { return {keys_.get(), keys_.get() + count_}; }

 private:
  // Looks for the n keys that are left in the slot after the one before, unless that was empty. Lists and counts those that are
  // not there either.
  int look_further(const Key<Words>* keys, int64_t* places, int32_t* left, int n, int32_t* numbers) const {
    const Key<Words>* const slots = slots_.get();
    const int64_t last = slots_.size() - 1;
    const uint64_t number_mask = number_mask_;
    int count = 0;
    for (int i = 0; i < n; ++i) {
      const int32_t which = left[i];
      const int64_t before = places[which], at = (before + (slots[before].word[0] != empty)) & last;
      const Key<Words> slot = slots[at];
      places[which] = at;
      numbers[which] = static_cast<int32_t>(slot.word[0] & number_mask);
      left[count] = which;
      count += slot.difference(keys[which], number_mask) != 0;
    }
    return count;
  }

  // Inserts the n keys that are left, unless they are further on. Most are new, and at their places.
  void insert_left(const Key<Words>* keys, const int64_t* places, const int32_t* left, int n, int32_t* numbers) {
    Key<Words>*const slots = slots_.get(), *const all = keys_.get();
    const int64_t last = slots_.size() - 1;
    const uint64_t number_mask = number_mask_;
    auto count = static_cast<uint64_t>(count_);
    for (int i = 0; i < n; ++i) {
      Key<Words> key = keys[left[i]];
      int64_t at = places[left[i]];
      auto has_other = [&] { return std::min(slots[at].difference(key, number_mask), ~slots[at].word[0]) != 0; };
      while (has_other()) at = (at + 1) & last;
      const uint64_t there = slots[at].word[0], number = std::min(there & number_mask, count);
      all[count] = key;
      count += there == empty;
      key.word[0] |= number;
      slots[at] = key;
      numbers[left[i]] = static_cast<int32_t>(number);
    }
    count_ = static_cast<int64_t>(count);
  }

  static constexpr uint64_t empty = ~uint64_t{0};  // in each word

  void resize(int64_t least_slots) {
    int bits = 10;
    while ((int64_t{1} << bits) < least_slots) ++bits;
    shift_ = 64 - bits;
    slots_ = Buffer<Key<Words>>(int64_t{1} << bits);
    Key<Words> no_key;
    no_key.word.fill(empty);
    std::fill(slots_.begin(), slots_.end(), no_key);
    Buffer<Key<Words>> keys(slots_.size() / 2 + 1);
    std::copy_n(keys_.get(), count_, keys.get());
    keys_.swap(keys);
    for (int64_t number = 0; number < count_; ++number) {
      auto at = static_cast<int64_t>(keys_[number].hash() >> shift_);
      while (slots_[at].word[0] != empty) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = keys_[number];
      slots_[at].word[0] |= static_cast<uint64_t>(number);
    }
  }

  const uint64_t number_mask_;
  int shift_ = 0;
  int64_t count_ = 0;
  Buffer<Key<Words>> slots_, keys_;
};

}  // namespace crfrnn
