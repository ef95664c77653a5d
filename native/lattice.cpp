#include "lattice.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

#include "keys.h"

namespace crfrnn {

namespace {

constexpr int64_t piece = 16384;  // entries or vertices that are one task

// The order of coordinates by rank in two numbers, 5 bits for each: with the base key it names the simplex.
struct Order {
  uint64_t low = 0, high = 0;
  bool operator==(const Order&) const = default;
};

}  // namespace

template <class T>
Lattice<T>::Lattice(const T* features, int64_t n, int d, const int32_t* batch, int neighbour_rounds, int threads)
    : n_(n), d_(d), chunks_(n) {
  if (d < 1 || d > most_features)
    throw std::invalid_argument("a permutohedral lattice takes 1 to 16 features, not " + std::to_string(d));
  if (n < 1) throw std::invalid_argument("a permutohedral lattice needs at least one point");
  if (n > std::numeric_limits<int32_t>::max() / (d + 1))
    throw std::invalid_argument("too many points for one lattice: " + std::to_string(n) + " points of " + std::to_string(d) +
                                " features; split the image into tiles");
  Team team(chunks_.useful_threads(threads));
  std::vector<std::vector<Range>> ranges(chunks_.count(), std::vector<Range>(d + 1));
  team.run(chunks_.count(), [&](int64_t chunk) {
    auto& range = ranges[chunk];
    bool finite = true;
    for (int64_t i = chunks_.begin(chunk); i < chunks_.end(chunk); ++i)
      for (int j = 0; j < d; ++j) {
        const double f = features[i * d + j];
        finite &= std::isfinite(f);
        range[j].cover(f);
      }
    for (int64_t i = chunks_.begin(chunk); i < chunks_.end(chunk); ++i) range[d].cover(batch ? batch[i] : 0);
    if (!finite) throw std::invalid_argument("features hold NaN or infinite values");
  });
  for (std::size_t chunk = 1; chunk < ranges.size(); ++chunk)
    for (int j = 0; j <= d; ++j) ranges[0][j].cover(ranges[chunk][j].low), ranges[0][j].cover(ranges[chunk][j].high);
  const Range batches = ranges[0].back();
  ranges[0].pop_back();
  const KeyLayout layout = layout_keys(ranges[0], batches, 4 + neighbour_rounds, cell_limit<T>);
  if (layout.words == 1) {
    build<1>(features, batch, neighbour_rounds, layout, team);
  } else if (layout.words == 2) {
    build<2>(features, batch, neighbour_rounds, layout, team);
  } else {
    build<most_features / 2 + 1>(features, batch, neighbour_rounds, layout, team);
  }
}

template <class T>
template <int Words>
void Lattice<T>::build(const T* features, const int32_t* batch, int neighbour_rounds, const KeyLayout& layout, Team& team) {
  const int d = d_, corners = d + 1;
  const auto scale = feature_scales<T>(d);
  std::array<Key<Words>, most_features + 1> unit{};  // one cell along each coordinate; the last is implied
  for (int j = 0; j < d; ++j) unit[j].word[layout.cell[j].word] = uint64_t{1} << layout.cell[j].shift;
  const uint64_t one_slab = uint64_t{1} << layout.slab.shift;
  unit[d - 1].word[layout.slab.word] += one_slab;
  unit[d].word[layout.slab.word] -= one_slab;
  Key<Words> one{};  // k → k + 1
  one.word[0] = 1;

  // Every chunk of points finds its own vertices.
  vertex_ = Buffer<int32_t>(n_ * corners);
  weight_ = Buffer<T>(n_ * corners);
  row_of_ = Buffer<int32_t>(n_ * corners);
  std::vector<std::vector<Key<Words>>> chunk_keys(chunks_.count());
  team.run(chunks_.count(), [&](int64_t chunk) {
    constexpr int L = embedding_lanes;
    std::array<int32_t, most_features * L> cell;
    std::array<int32_t, (most_features + 1) * L> order;
    std::array<T, (most_features + 1) * L> weights;
    std::array<Key<Words>, (most_features + 1) * L> keys;  // of each point in turn, all corners
    std::array<bool, L> repeated;
    KeyTable<Words> table(chunks_.size);
    Key<Words> previous_base{};
    Order previous_order{~uint64_t{0}, ~uint64_t{0}};
    for (int64_t begin = chunks_.begin(chunk); begin < chunks_.end(chunk); begin += L) {
      const int64_t count = std::min<int64_t>(L, chunks_.end(chunk) - begin);
      loops<T>().embed(features + begin * d, count, d, scale.data(), cell.data(), order.data(), weights.data());
      for (int64_t p = 0; p < count; ++p) {
        Key<Words> key{};
        int64_t slab = cell[(d - 1) * L + p];
        for (int j = 0; j < d; ++j) {
          slab += cell[j * L + p];
          key.word[layout.cell[j].word] += static_cast<uint64_t>(cell[j * L + p] - layout.cell[j].lowest) << layout.cell[j].shift;
        }
        key.word[layout.slab.word] += static_cast<uint64_t>(slab - layout.slab.lowest) << layout.slab.shift;
        if (batch)
          key.word[layout.batch.word] += static_cast<uint64_t>(batch[begin + p] - layout.batch.lowest) << layout.batch.shift;
        Order by_rank;
        for (int r = 0; r < corners && r < 12; ++r) by_rank.low |= static_cast<uint64_t>(order[r * L + p]) << (5 * r);
        for (int r = 12; r < corners; ++r) by_rank.high |= static_cast<uint64_t>(order[r * L + p]) << (5 * (r - 12));
        repeated[p] = key == previous_base && by_rank == previous_order;  // many pixels are in their neighbour's simplex
        if (repeated[p]) continue;
        previous_base = key, previous_order = by_rank;
        Key<Words>* const corner = &keys[p * corners];
        for (int k = 0;; ++k) {
          corner[k] = key;
          table.prefetch(key);
          if (k == d) break;
          key += one;
          key -= unit[order[(d - k) * L + p]];
        }
      }
      for (int64_t p = 0; p < count; ++p) {
        const int64_t at = (begin + p) * corners;
        for (int k = 0; k < corners; ++k) weight_[at + k] = weights[k * L + p];
        if (repeated[p]) {
          std::copy_n(&row_of_[at - corners], corners, &row_of_[at]);
        } else {
          for (int k = 0; k < corners; ++k) row_of_[at + k] = table.insert(keys[p * corners + k]);
        }
      }
    }
    chunk_keys[chunk] = table.keys();
  });

  // The next vertex in direction j: every coordinate grows by one and coordinate j falls by d; in cells and k, that is
  // k + 1 and one cell less along j, or from k = d back to k = 0 and one cell more along all but j.
  std::array<std::array<Key<Words>, 2>, most_features + 1> step{};
  for (int j = 0; j < corners; ++j) {
    step[j][0] = one, step[j][0] -= unit[j];
    for (int i = 0; i < corners; ++i)
      if (i != j) step[j][1] += unit[i];
    for (int k = 0; k < d; ++k) step[j][1] -= one;
  }
  auto k_of = [](const Key<Words>& key) { return static_cast<int>(key.word[0] & 31); };

  // Sorted by key, equal vertices of several chunks come together, in the order of chunks, and vertices that are neighbours
  // in one direction lie in parallel streams of memory.
  chunk_rows_.assign(1, 0);
  for (const auto& keys : chunk_keys) chunk_rows_.push_back(chunk_rows_.back() + static_cast<int64_t>(keys.size()));
  const int64_t rows = chunk_rows_.back();
  Buffer<Entry<Words>> entries(rows, Use::scratch);
  team.run(chunks_.count(), [&](int64_t chunk) {
    int64_t row = chunk_rows_[chunk];
    for (const auto& key : chunk_keys[chunk]) entries[row] = {key, static_cast<int32_t>(row)}, ++row;
  });
  chunk_keys.clear();
  sort_by_key(entries, layout.bits, team);
  for (int round = 0; round < neighbour_rounds; ++round) {
    int64_t present = 0;
    for (int64_t i = 0; i < entries.size(); ++i) present += i == 0 || !(entries[i].key == entries[i - 1].key);
    if (entries.size() + present * 2 * corners > std::numeric_limits<int32_t>::max()) throw std::bad_alloc();
    Buffer<Entry<Words>> more(entries.size() + present * 2 * corners, Use::scratch);
    auto* to = std::copy(entries.begin(), entries.end(), more.begin());
    for (int64_t i = 0; i < entries.size(); ++i) {
      if (i > 0 && entries[i].key == entries[i - 1].key) continue;
      for (int j = 0; j < corners; ++j) {
        Key<Words> after = entries[i].key, before = after;
        after += step[j][k_of(after) == d];
        before -= step[j][k_of(before) == 0];
        *to++ = {after, -1}, *to++ = {before, -1};
      }
    }
    sort_by_key(more, layout.bits, team);
    // Of equal keys, those with a row come first; of the rest one is enough, if it is the only one.
    auto* end = more.begin();
    for (auto* entry = more.begin(); entry != more.end(); ++entry)
      if (entry->row >= 0 || end == more.begin() || !(entry->key == end[-1].key)) *end++ = *entry;
    entries = Buffer<Entry<Words>>(end - more.begin(), Use::scratch);
    std::copy(more.begin(), end, entries.begin());
  }

  // Vertices, and the rows of each. Pieces of entries first count their vertices, then write them.
  const int64_t size = entries.size(), pieces = (size + piece - 1) / piece;
  auto starts_vertex = [&](int64_t i) { return i == 0 || i == size || !(entries[i].key == entries[i - 1].key); };
  std::vector<int64_t> first_vertex(pieces + 1, 0);
  team.run(pieces, [&](int64_t p) {
    for (int64_t i = p * piece; i < std::min(size, (p + 1) * piece); ++i) first_vertex[p + 1] += starts_vertex(i);
  });
  std::partial_sum(first_vertex.begin(), first_vertex.end(), first_vertex.begin());
  vertices_ = first_vertex.back();
  Buffer<Key<Words>> keys(vertices_ + 1, Use::scratch);
  keys[vertices_].word.fill(~uint64_t{0});  // above all others
  Buffer<int32_t> vertex_of_row(rows, Use::scratch);
  row_ = Buffer<int32_t>(size);
  team.run(pieces, [&](int64_t p) {
    auto v = static_cast<int32_t>(first_vertex[p]) - 1;
    for (int64_t i = p * piece; i < std::min(size, (p + 1) * piece); ++i) {
      const auto& [key, row] = entries[i];
      if (starts_vertex(i)) keys[++v] = key;
      if (row >= 0) vertex_of_row[row] = v;
      row_[i] = (row >= 0 ? row : static_cast<int32_t>(rows)) ^ -static_cast<int32_t>(starts_vertex(i + 1));
    }
  });

  // Slabs of at least a few thousand vertices, cut where the slab field changes.
  constexpr int64_t slab_size = 4096;
  auto slab_of = [&](int64_t v) { return keys[v].word[layout.slab.word] >> layout.slab.shift; };
  slabs_.assign(1, 0), slab_rows_.assign(1, 0);
  for (int64_t v = slab_size; v < vertices_; ++v)
    if (slab_of(v) != slab_of(v - 1)) {
      slabs_.push_back(v);
      const auto before = [](const Entry<Words>& entry, const Key<Words>& key) { return entry.key < key; };
      slab_rows_.push_back(std::lower_bound(entries.begin(), entries.end(), keys[v], before) - entries.begin());
      v += slab_size;
    }
  slabs_.push_back(vertices_), slab_rows_.push_back(size);
  team.run(chunks_.count(), [&](int64_t chunk) {
    const auto first = static_cast<int32_t>(chunk_rows_[chunk]);
    for (int64_t i = chunks_.begin(chunk) * corners; i < chunks_.end(chunk) * corners; ++i)
      row_of_[i] += first, vertex_[i] = vertex_of_row[row_of_[i]];
  });

  // Neighbours by merging: adding the same step to sorted keys keeps them sorted.
  std::vector<Buffer<int32_t>> next(corners);
  for (auto& buffer : next) buffer = Buffer<int32_t>(vertices_, Use::scratch);
  const int64_t parts = (vertices_ + piece - 1) / piece;
  team.run(corners * parts, [&](int64_t task) {
    const int64_t j = task / parts, begin = task % parts * piece, end = std::min(begin + piece, vertices_);
    std::array<Key<Words>*, 2> at{nullptr, nullptr};  // for steps from k < d and from k = d
    for (int64_t v = begin; v < end; ++v) {
      const int wrap = k_of(keys[v]) == d;
      Key<Words> key = keys[v];
      key += step[j][wrap];
      auto*& found = at[wrap];
      if (!found) found = std::lower_bound(keys.begin(), keys.begin() + vertices_, key);
      found += *found < key;  // mostly none, one or two: no branch to mispredict
      found += *found < key;
      while (*found < key) ++found;
      next[j][v] = *found == key ? static_cast<int32_t>(found - keys.begin()) : -1;
    }
  });

  chain_up(next, team);
}

template <class T>
void Lattice<T>::chain_up(std::vector<Buffer<int32_t>>& next, Team& team) {
  chains_.resize(next.size());
  team.run(static_cast<int64_t>(next.size()), [&](int64_t direction) {
    const auto& after = next[direction];
    Buffer<int8_t> has_before(vertices_ + 1, Use::scratch);  // of vertex v at v + 1, so that "none" has a place too
    std::fill(has_before.begin(), has_before.end(), 0);
    for (int64_t v = 0; v < vertices_; ++v) has_before[after[v] + 1] = 1;
    auto& chains = chains_[direction];
    chains.list = Buffer<int32_t>(vertices_);
    chains.cuts.assign(1, 0);
    std::vector<int32_t> heads;
    int64_t end = 0;
    for (std::size_t slab = 1; slab < slabs_.size(); ++slab) {
      heads.resize(slabs_[slab] - slabs_[slab - 1] + 1);
      int64_t count = 0;
      for (int64_t v = slabs_[slab - 1]; v < slabs_[slab]; ++v) {
        heads[count] = static_cast<int32_t>(v);
        count += int64_t(after[v] >= 0) & int64_t(has_before[v + 1] == 0);
      }
      for (int64_t i = 0; i < count; ++i) {
        for (int32_t v = heads[i]; v >= 0; v = after[v]) chains.list[end++] = v;
        chains.list[end - 1] = ~chains.list[end - 1];
      }
      chains.cuts.push_back(end);
    }
  });
}

template <class T>
void Lattice<T>::neighbours(int32_t* result) const {
  std::fill_n(result, (d_ + 1) * vertices_ * 2, -1);
  for (int j = 0; j <= d_; ++j, result += vertices_ * 2) {
    const auto& list = chains_[j].list;
    for (int64_t i = 0; i + 1 < chains_[j].cuts.back(); ++i) {
      if (list[i] < 0) continue;
      const int32_t here = list[i], after = list[i + 1] < 0 ? ~list[i + 1] : list[i + 1];
      result[2 * here + 1] = after, result[2 * after] = here;
    }
  }
}

template class Lattice<float>;
template class Lattice<double>;

}  // namespace crfrnn
