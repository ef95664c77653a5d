// The hash table of the vertices that a chunk touches. Included by lattice_builder.h.
#pragma once

#include <algorithm>
#include <vector>

#include "buffer.h"
#include "keys.h"

namespace crfrnn {

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

}  // namespace crfrnn
