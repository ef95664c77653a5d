#include "lattice.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace crfrnn {

// How a lattice point is packed into a key. All coordinates of a remainder-k point are (d + 1)·cell + k, and the last one
// follows from the others: a key holds k, d cells and the batch id, each in a field of its own, offset to be positive.
// Stepping to a neighbour is then an addition. Fields never overflow: `margin` cells are left free on both sides.
//
// The highest field, `slab`, is the difference of the last two coordinates' cells. It says nothing new, but all directions
// except the last two leave it as it is: vertices sorted by key fall into slabs that most of the blur never leaves.
struct KeyLayout {
  struct Field {
    int word, shift;
    int64_t lowest;
  };
  std::array<Field, most_features> cell;
  Field batch, slab;
  int words = 1, bits = 0;  // bits: those in use in the last word
};

namespace {

// Where float32 still tells neighbouring cells apart, and a cell fits 32 bits.
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

// Keys to consecutive ids, in the order of insertion. Open addressing; at most half full.
template <int Words>
class KeyTable {
 public:
  explicit KeyTable(int64_t expected) {
    int bits = 10;
    while ((int64_t{1} << bits) < 2 * expected) ++bits;
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

// Stable sort by key. One-word keys: by digits from the lowest, in fixed blocks, so that it may run in parallel.
template <int Words>
void sort_by_key(Buffer<Entry<Words>>& entries, int bits, Team& team) {
  if constexpr (Words > 1) {
    std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
  } else {
    constexpr int digit = 11, buckets = 1 << digit;
    const int64_t size = entries.size(), block = std::max<int64_t>(16384, (size + 15) / 16), blocks = (size + block - 1) / block;
    Buffer<Entry<Words>> sorted(size, Use::scratch);
    std::vector<int64_t> position(blocks * buckets);
    for (int shift = 0; shift < bits; shift += digit) {
      auto bucket_of = [shift](const Entry<Words>& entry) { return (entry.key.word[0] >> shift) & (buckets - 1); };
      team.run(blocks, [&](int64_t b) {
        int64_t* count = &position[b * buckets];
        std::fill_n(count, buckets, 0);
        for (int64_t i = b * block; i < std::min(size, (b + 1) * block); ++i) ++count[bucket_of(entries[i])];
      });
      int64_t sum = 0;
      for (int k = 0; k < buckets; ++k)
        for (int64_t b = 0; b < blocks; ++b) sum += std::exchange(position[b * buckets + k], sum);
      team.run(blocks, [&](int64_t b) {
        int64_t* next = &position[b * buckets];
        for (int64_t i = b * block; i < std::min(size, (b + 1) * block); ++i) sorted[next[bucket_of(entries[i])]++] = entries[i];
      });
      entries.swap(sorted);
    }
  }
}

// The hyperplane's coordinates are scaled so that the blur has the Gaussian's standard deviation. Rounded where the original
// implementation rounds: one bit of a scale puts points on the border of two simplices into the other one.
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

// Bounds on every cell coordinate by interval arithmetic from the bounds of the features: loose by a few bits, no pass more.
KeyLayout layout_keys(std::vector<Range> feature, Range batch, int margin, double limit) {
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
  used = 5;  // k = 0 … d
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
  Team team(threads);
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
  Buffer<Key<Words>> keys(vertices_, Use::scratch);
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
    const Key<Words>* const none = keys.begin() + vertices_;
    std::array<const Key<Words>*, 2> at{nullptr, nullptr};  // for steps from k < d and from k = d
    for (int64_t v = begin; v < end; ++v) {
      const int wrap = k_of(keys[v]) == d;
      Key<Words> key = keys[v];
      key += step[j][wrap];
      auto*& found = at[wrap];
      if (!found) found = std::lower_bound(static_cast<const Key<Words>*>(keys.begin()), none, key);
      while (found != none && *found < key) ++found;
      next[j][v] = found != none && *found == key ? static_cast<int32_t>(found - keys.begin()) : -1;
    }
  });

  chain_up(next, team);
}

template <class T>
void Lattice<T>::chain_up(std::vector<Buffer<int32_t>>& next, Team& team) {
  chains_.resize(next.size());
  team.run(static_cast<int64_t>(next.size()), [&](int64_t direction) {
    const auto& after = next[direction];
    Buffer<int8_t> has_before(vertices_, Use::scratch);
    std::fill(has_before.begin(), has_before.end(), 0);
    for (int64_t v = 0; v < vertices_; ++v)
      if (after[v] >= 0) has_before[after[v]] = 1;
    auto& chains = chains_[direction];
    chains.list = Buffer<int32_t>(vertices_);
    chains.cuts.assign(1, 0);
    int64_t end = 0;
    for (std::size_t slab = 1; slab < slabs_.size(); ++slab) {
      for (int64_t head = slabs_[slab - 1]; head < slabs_[slab]; ++head) {
        if (after[head] < 0 || has_before[head]) continue;
        for (auto v = static_cast<int32_t>(head); v >= 0; v = after[v]) chains.list[end++] = v;
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

template <class T>
int64_t Lattice<T>::bytes() const {
  int64_t ints = vertex_.size() + row_of_.size() + row_.size();
  for (const auto& chains : chains_) ints += chains.list.size();
  return ints * static_cast<int64_t>(sizeof(int32_t)) + weight_.size() * static_cast<int64_t>(sizeof(T));
}

template <class T>
class LatticeMessage final : public Message<T> {
 public:
  LatticeMessage(const Lattice<T>& lattice, int channels)
      : lattice_(lattice), channels_(channels), rows_(lattice.chunk_rows_.back() + 1), sums_(rows_ * channels),
        values_(lattice.vertices_ * channels) {
    clear(rows_ - 1, rows_);
  }

  void open(int64_t chunk) override {
    const auto& rows = lattice_.chunk_rows_;
    clear(rows[chunk], rows[chunk + 1]);
  }

  void send(int64_t begin, int64_t n, const T* rows, const T* scale) override {
    const int corners = lattice_.d_ + 1;
    loops<T>().splat(sums_.get(), rows_, &lattice_.row_of_[begin * corners], &lattice_.weight_[begin * corners], corners, rows,
                     scale, channels_, n);
  }

  void stop_sending() override { sums_ = {}; }

  // The blur along one direction is symmetric; the transpose of all is the reverse order.
  void propagate(Team& team, bool transpose) override {
    const int d = lattice_.d_;
    const auto slabs = static_cast<int64_t>(lattice_.slabs_.size()) - 1;
    auto gather = [&](int64_t slab) {
      const auto& starts = lattice_.slab_rows_;
      loops<T>().gather(values_.get(), lattice_.vertices_, sums_.get(), rows_, lattice_.row_.get() + starts[slab],
                        starts[slab + 1] - starts[slab], lattice_.slabs_[slab], channels_);
    };
    auto blur = [&](int direction, int64_t slab) {
      const auto& chains = lattice_.chains_[direction];
      loops<T>().blur(values_.get(), lattice_.vertices_, chains.list.get() + chains.cuts[slab], chains.cuts[slab + 1] - chains.cuts[slab], channels_);
    };
    if (!transpose) {
      team.run(slabs, [&](int64_t slab) {  // all that stays within a slab while it is in the cache
        gather(slab);
        for (int j = 0; j < d - 1; ++j) blur(j, slab);
      });
      team.run(slabs, [&](int64_t slab) { blur(d - 1, slab); });
      team.run(slabs, [&](int64_t slab) { blur(d, slab); });
    } else {
      team.run(slabs, gather);
      team.run(slabs, [&](int64_t slab) { blur(d, slab); });
      team.run(slabs, [&](int64_t slab) { blur(d - 1, slab); });
      team.run(slabs, [&](int64_t slab) {
        for (int j = d - 2; j >= 0; --j) blur(j, slab);
      });
    }
  }

  void receive(int64_t begin, int64_t n, T* rows, const T* scale, const T* coupling, const T* from) const override {
    const int corners = lattice_.d_ + 1;
    const T factor = T(1) / (T(1) + std::ldexp(T(1), -lattice_.d_));
    loops<T>().slice(values_.get(), lattice_.vertices_, &lattice_.vertex_[begin * corners], &lattice_.weight_[begin * corners], corners, factor, scale,
                     coupling, from, rows, channels_, n);
  }

 private:
  // Rows [begin, end) of every plane.
  void clear(int64_t begin, int64_t end) {
    constexpr int line = 64 / sizeof(T);
    for (int first = 0; first < channels_; first += line) {
      const int width = std::min(line, channels_ - first);
      std::fill(&sums_[first * rows_ + begin * width], &sums_[first * rows_ + end * width], T(0));
    }
  }

  const Lattice<T>& lattice_;
  const int channels_;
  const int64_t rows_;
  Buffer<T> sums_, values_;
};

template <class T>
std::unique_ptr<Message<T>> Lattice<T>::message(int channels) const {
  return std::make_unique<LatticeMessage<T>>(*this, channels);
}

template class Lattice<float>;
template class Lattice<double>;

}  // namespace crfrnn
