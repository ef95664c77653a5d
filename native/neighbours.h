// The neighbours of vertices. Included by lattice_builder.h.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "buffer.h"
#include "chunks.h"
#include "keys.h"

namespace crfrnn {

constexpr int64_t build_part_size = 16384;  // entries or vertices that are one task

// Finds, for each direction, the vertex after each vertex. Keys that are sorted stay so when the same step is added to all, so
// a merge of two lists finds them. There are two kinds of steps. That from remainder d to 0 has merges of its own, between the
// vertices with these remainders.
template <int Words>
class NeighbourSearch {
 public:
  // keys: of the vertices, sorted, and after them one that is above all others.
  NeighbourSearch(const Buffer<Key<Words>>& keys, const KeySteps<Words>& steps)
      : keys_(keys.get()), size_(keys.size() - 1), steps_(steps), firsts_(size_ + 1), lasts_(size_ + 1) {
    for (int64_t v = 0; v < size_; ++v) {
      firsts_[num_firsts_] = lasts_[num_lasts_] = static_cast<int32_t>(v);  // overwritten by the next vertex if it is neither
      num_firsts_ += steps_.is_first(keys_[v]);
      num_lasts_ += steps_.is_last(keys_[v]);
    }
    firsts_[num_firsts_] = static_cast<int32_t>(size_);
  }

  // For each of `directions`, the vertex after each vertex, or -1.
  std::vector<Buffer<int32_t>> next_vertices(int directions, Team& team) const {
    std::vector<Buffer<int32_t>> next(directions);
    for (auto& buffer : next) buffer = Buffer<int32_t>(size_);
    const Parts parts{size_, build_part_size};
    team.run(directions * parts.count(), [&](int64_t task) {
      const int64_t j = task / parts.count(), part = task % parts.count();
      find_next(static_cast<int>(j), parts.begin(part), parts.end(part), next[j].get());
    });
    return next;
  }

 private:
  // Where a merge is: query `at` of those before `end`, and the key that it is compared with.
  struct Place {
    int64_t at, end, key;
  };

  // Sets next[v] for vertices v in [begin, end).
  void find_next(int j, int64_t begin, int64_t end, int32_t* next) const {
    const auto *keys = keys_, *step = &steps_.step(j, false);
    merge(
        begin, end, size_, [=](int64_t v) { return keys[v]; }, *step, [=](int64_t v) -> const Key<Words>& { return keys[v]; },
        [=](int64_t v, int64_t after, bool equal) { next[v] = static_cast<int32_t>(after) | (int32_t(equal) - 1); });
    const int32_t *lasts = lasts_.get(), *firsts = firsts_.get();
    const int64_t first_last = std::lower_bound(lasts, lasts + num_lasts_, begin) - lasts;
    const int64_t end_last = std::lower_bound(lasts, lasts + num_lasts_, end) - lasts;
    merge(
        first_last, end_last, num_firsts_, [=](int64_t i) { return keys[lasts[i]]; }, steps_.step(j, true),
        [=](int64_t i) -> const Key<Words>& { return keys[firsts[i]]; },
        [=](int64_t i, int64_t after, bool equal) { next[lasts[i]] = firsts[after] | (int32_t(equal) - 1); });
  }

  // Looks for query(i) + step, i from `begin` to `end`, among `count` keys, and calls found(i, k, query(i) + step == key(k));
  // the last call for each i counts. Which list goes on cannot be predicted, so there is no branch on it. A single merge would
  // wait for each of its comparisons, so several parts of the queries are merged side by side.
  template <class Query, class KeyAt, class Found>
  static void merge(int64_t begin, int64_t end, int64_t count, Query query, const Key<Words>& step, KeyAt key, Found found) {
    constexpr int lanes = 4;
    std::array<Place, lanes> places;
    const Parts parts{end - begin, std::max<int64_t>(1, (end - begin + lanes - 1) / lanes)};
    for (int lane = 0; lane < lanes; ++lane) {
      Place& place = places[lane];
      place = {begin + std::min(parts.begin(lane), parts.total), begin + std::min(parts.end(lane), parts.total), 0};
      if (place.at < place.end) place.key = lower_bound(count, query(place.at) + step, key);
    }
    auto compare = [&](Place& place) {
      const Key<Words> wanted = query(place.at) + step, here = key(place.key);
      found(place.at, place.key, wanted == here);
      place.at += !(here < wanted), place.key += !(wanted < here);
    };
    auto least_left = [&] {
      int64_t left = end - begin;
      for (const Place& place : places) left = std::min(left, place.end - place.at);
      return left;
    };
    for (int64_t left = least_left(); left > 0; left = least_left())  // each comparison takes at most one query off
      for (int64_t i = 0; i < left; ++i)
        for (Place& place : places) compare(place);
    for (Place& place : places)
      while (place.at < place.end) compare(place);
  }

  // The first of `count` keys that is not below the one wanted.
  template <class KeyAt>
  static int64_t lower_bound(int64_t count, const Key<Words>& wanted, KeyAt key) {
    int64_t low = 0;
    for (int64_t high = count; low < high;) {
      const int64_t middle = (low + high) / 2;
      if (key(middle) < wanted) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  const Key<Words>* const keys_;
  const int64_t size_;
  const KeySteps<Words>& steps_;
  int64_t num_firsts_ = 0, num_lasts_ = 0;
  Buffer<int32_t> firsts_, lasts_;  // the vertices of remainder 0, and those of remainder d
};

}  // namespace crfrnn
