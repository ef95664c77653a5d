// Building a lattice: from points to vertices, the sums they are made of, slabs and chains. Included by lattice.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <new>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "entry_sort.h"
#include "key_table.h"
#include "keys.h"
#include "lattice.h"
#include "neighbours.h"

namespace crfrnn {

constexpr int64_t smallest_slab_size = 4096;  // vertices

// Up to embedding_lanes points on their way into the lattice; lanes without a point have the first one. Coordinate or corner j
// of point p is number j · embedding_lanes + p.
template <class T, int Words>
struct EmbeddedPoints {
  static constexpr int lanes = embedding_lanes, most = (most_features + 1) * lanes;
  std::array<int32_t, most> cell, order;
  std::array<T, most> weight;
  std::array<uint64_t, Words * lanes> corner0{};  // the words of the keys of corner 0; those not in use stay 0
  // The keys of the corners, their places in the table and their numbers.
  std::array<Key<Words>, most> corner;
  std::array<int64_t, most> place;
  std::array<int32_t, most> number;
};

// Entries have the number of a row of sums in its chunk in so many bits, and above them the chunk.
inline int chunk_row_bits(const Chunks& chunks, int corners) {
  return std::bit_width(static_cast<uint64_t>(std::min(chunks.size, chunks.total) * corners));
}
// What the rows of all entries are below.
inline int64_t row_limit(const Chunks& chunks, int corners) { return chunks.count() << chunk_row_bits(chunks, corners); }

template <class T, int Words>
class LatticeBuilder {
 public:
  LatticeBuilder(const T* features, const int32_t* batch, const KeyLayout& layout, LatticeArrays<T>& lattice, Team& team,
                 int64_t most_bytes)
      : features_(features), batch_(batch), layout_(layout), lattice_(lattice), team_(team), most_bytes_(most_bytes),
        d_(lattice.d), corners_(lattice.corners), chunks_(lattice.chunks),
        chunk_row_bits_(chunk_row_bits(lattice.chunks, lattice.corners)), steps_(layout, lattice.d),
        cell_sums_(layout, lattice.d), scale_(feature_scales<T>(lattice.d)) {
    if (sizeof(T) == sizeof(float) && layout.reach >= far) exact_scale_ = feature_scales<double>(lattice.d);
  }

  void build(int neighbour_rounds) {
    neighbour_rounds_ = neighbour_rounds;
    find_corners();
    EntrySort<Words>(entries_, layout_, team_);
    for (int round = 0; round < neighbour_rounds; ++round) add_neighbours();
    number_vertices();
    divide_into_slabs();
    point_corners_to_vertices();
    entries_ = {};
    const auto next = NeighbourSearch<Words>(keys_, steps_).next_vertices(corners_, team_);
    keys_ = {};
    lattice_.chains = link_chains(next, lattice_.slabs, team_);
  }

 private:
  // Every chunk finds the vertices that its points touch. They become entries, one for each row of sums of the chunk.
  void find_corners() {
    std::vector<std::vector<Key<Words>>> keys(chunks_.count());
    team_.run(chunks_.count(), [&](int64_t chunk) { keys[chunk] = keys_of_chunk(chunk); });
    auto& first_row = lattice_.chunk_sums;
    first_row.assign(1, 0);
    for (const auto& of_chunk : keys) first_row.push_back(first_row.back() + static_cast<int64_t>(of_chunk.size()));
    require_room(3 * first_row.back(), 0);  // the keys, the entries and these sorted
    entries_ = Buffer<Key<Words>>(first_row.back());
    team_.run(chunks_.count(), [&](int64_t chunk) {
      auto row = static_cast<uint64_t>(chunk) << chunk_row_bits_;
      auto* entry = &entries_[first_row[chunk]];
      for (auto key : keys[chunk]) key.word[0] |= row++, *entry++ = key;
    });
  }

  // Throws TooLarge unless there is memory for so many keys, and for the neighbours and chains of so many vertices.
  void require_room(int64_t keys, int64_t vertices) const {
    const int64_t points = lattice_.chunks.total, corner = 2 * sizeof(int32_t) + sizeof(T) + sizeof(uint8_t);
    const int64_t needed =
        points * corners_ * corner + keys * int64_t{sizeof(Key<Words>)} + vertices * corners_ * 2 * int64_t{sizeof(int32_t)};
    if (needed > most_bytes_) throw TooLarge(points, d_, neighbour_rounds_, needed, most_bytes_);
  }

  // The keys of the vertices that a chunk touches. Sets the weights of its corners, and as corner_sum their number among them.
  std::vector<Key<Words>> keys_of_chunk(int64_t chunk) {
    KeyTable<Words> table(layout_, chunks_.size);
    EmbeddedPoints<T, Words> points;
    for (int64_t begin = chunks_.begin(chunk); begin < chunks_.end(chunk); begin += embedding_lanes) {
      const int64_t n = std::min<int64_t>(embedding_lanes, chunks_.end(chunk) - begin);
      loops<T>().embed(features_ + begin * d_, n, d_, scale_.data(), exact_scale_.empty() ? nullptr : exact_scale_.data(),
                       points.cell.data(), points.order.data(), points.weight.data());
      std::copy_n(points.order.begin(), corners_ * embedding_lanes, &lattice_.coordinate_order[begin * corners_]);
      find_first_corners(points, begin, n);
      table.reserve(embedding_lanes * corners_);
      if (corners_ == 6) {  // a colour photo
        enter(points, begin, n, std::integral_constant<int, 6>{}, table);
      } else {
        enter(points, begin, n, corners_, table);
      }
    }
    return table.keys();
  }

  // The keys of corner 0 of points [begin, begin + n).
  void find_first_corners(EmbeddedPoints<T, Words>& points, int64_t begin, int64_t n) const {
    constexpr int L = embedding_lanes;
    cell_sums_.keys(loops<T>().weighted_sums, points.cell.data(), points.corner0.data(), L);
    if (!batch_) return;
    const auto& field = layout_.batch;
    for (int64_t p = 0; p < L; ++p)
      points.corner0[field.word * L + p] += static_cast<uint64_t>(batch_[begin + (p < n ? p : 0)] - field.lowest)
                                            << field.shift;
  }

  // Inserts the corners of points [begin, begin + n) into the table, and writes their weights and numbers.
  template <class Corners>
  void enter(EmbeddedPoints<T, Words>& points, int64_t begin, int64_t n, Corners corners, KeyTable<Words>& table) {
    list_corners(points, corners, table);
    table.insert(points.corner.data(), points.place.data(), corners * embedding_lanes, points.number.data());
    write_corners(points, begin, n, corners);
  }

  // The keys of all corners, those of corner k + 1 from those of corner k, and their places.
  template <class Corners>
  void list_corners(EmbeddedPoints<T, Words>& points, Corners corners, const KeyTable<Words>& table) const {
    constexpr int L = embedding_lanes;
    for (int p = 0; p < L; ++p) {
      Key<Words> key;
      for (int w = 0; w < Words; ++w) key.word[w] = points.corner0[w * L + p];
      for (int k = 0; k < corners; ++k) {
        if (k > 0) steps_.to_next_corner(key, points.order[(corners - k) * L + p]);
        points.corner[k * L + p] = key;
        points.place[k * L + p] = table.place(key);
      }
    }
  }

  template <class Corners>
  void write_corners(const EmbeddedPoints<T, Words>& points, int64_t begin, int64_t n, Corners corners) {
    T* weight = &lattice_.corner_weight[begin * corners];
    int32_t* sum = &lattice_.corner_sum[begin * corners];
    for (int64_t p = 0; p < n; ++p, weight += corners, sum += corners)
      for (int k = 0; k < corners; ++k) {
        weight[k] = points.weight[k * embedding_lanes + p];
        sum[k] = points.number[k * embedding_lanes + p];
      }
  }

  // A row of sums: its vertex, and its number among all rows.
  struct Row {
    int32_t vertex, number;
  };

  int64_t chunk_of(const Key<Words>& entry) const { return static_cast<int64_t>(row_of(entry) >> chunk_row_bits_); }
  int64_t row_in_chunk(const Key<Words>& entry) const {
    return static_cast<int64_t>(row_of(entry) & ((uint64_t{1} << chunk_row_bits_) - 1));
  }
  Key<Words> vertex_of(const Key<Words>& entry) const { return entry.without(layout_.no_row()); }
  bool has_row(const Key<Words>& entry) const { return row_of(entry) != layout_.no_row(); }
  uint64_t row_of(const Key<Words>& entry) const { return entry.word[0] & layout_.no_row(); }

  // Whether entry i is the first of its vertex; true at the end, too.
  bool begins_vertex(int64_t i) const {
    return i == 0 || i == entries_.size() || !(vertex_of(entries_[i]) == vertex_of(entries_[i - 1]));
  }

  // Adds entries without a row of sums for the vertices on both sides of each vertex, in all directions.
  void add_neighbours() {
    const int64_t size = entries_.size();
    int64_t present = 0;
    for (int64_t i = 0; i < size; ++i) present += begins_vertex(i);
    const int64_t more_size = size + present * 2 * corners_;
    require_room(size + 2 * more_size, 0);
    if (more_size > std::numeric_limits<int32_t>::max())
      throw std::invalid_argument(
          "too many vertices for one lattice: take fewer neighbour_rounds, or split the image into tiles");
    Buffer<Key<Words>> more(more_size);
    auto* to = std::copy(entries_.begin(), entries_.end(), more.begin());
    for (int64_t i = 0; i < size; ++i) {
      if (!begins_vertex(i)) continue;
      auto vertex = entries_[i];
      vertex.word[0] |= layout_.no_row();
      for (int j = 0; j < corners_; ++j) *to++ = steps_.after(vertex, j), *to++ = steps_.before(vertex, j);
    }
    EntrySort<Words>(more, layout_, team_);
    keep_needed(more);
  }

  // Keeps all entries with a row of sums, and one for each vertex that has none. Among equal keys, those with a row come first.
  void keep_needed(Buffer<Key<Words>>& sorted) {
    auto* end = sorted.begin();
    for (const auto& entry : sorted)
      if (has_row(entry) || end == sorted.begin() || !(vertex_of(entry) == vertex_of(end[-1]))) *end++ = entry;
    entries_ = Buffer<Key<Words>>(end - sorted.begin());
    std::copy(sorted.begin(), end, entries_.begin());
  }

  // Vertices are numbered by key. So equal vertices of several chunks come together, in the order of chunks, and vertices that
  // are neighbours in one direction lie in parallel streams of memory. The rows of sums of each chunk get new numbers in the
  // order of their vertices, so that gather reads them in turn. Parts of the entries count both, then write.
  void number_vertices() {
    const Parts parts{entries_.size(), build_part_size};
    const int64_t chunks = chunks_.count();
    std::vector<int64_t> first_vertex(parts.count() + 1, 0);
    std::vector<int32_t> first_row((parts.count() + 1) * chunks, 0);
    team_.run(parts.count(), [&](int64_t part) {
      int32_t* const count = &first_row[(part + 1) * chunks];
      for (int64_t i = parts.begin(part); i < parts.end(part); ++i) {
        first_vertex[part + 1] += begins_vertex(i);
        if (has_row(entries_[i])) ++count[chunk_of(entries_[i])];
      }
    });
    std::partial_sum(first_vertex.begin(), first_vertex.end(), first_vertex.begin());
    std::copy_n(lattice_.chunk_sums.begin(), chunks, first_row.begin());
    for (std::size_t i = chunks; i < first_row.size(); ++i) first_row[i] += first_row[i - chunks];
    num_vertices_ = lattice_.num_vertices = first_vertex.back();
    require_room(entries_.size() + num_vertices_, num_vertices_);
    keys_ = Buffer<Key<Words>>(num_vertices_ + 1);
    keys_[num_vertices_].word.fill(~uint64_t{0});  // above all others
    rows_ = Buffer<Row>(lattice_.chunk_sums.back());
    lattice_.vertex_sums = Buffer<int32_t>(entries_.size());
    team_.run(parts.count(), [&](int64_t part) {
      number_part(parts.begin(part), parts.end(part), static_cast<int32_t>(first_vertex[part]) - 1, &first_row[part * chunks]);
    });
  }

  // Entries [begin, end): v is the vertex before the first that begins there, next_row the next row of each chunk.
  void number_part(int64_t begin, int64_t end, int32_t v, int32_t* next_row) {
    const auto untouched = static_cast<int32_t>(rows_.size());
    const int32_t before = v;
    Key<Words> key_before;  // that vertex may go on in this part; its key is written by the part where it begins
    bool begins = begins_vertex(begin);
    for (int64_t i = begin; i < end; ++i) {
      const Key<Words> entry = entries_[i];
      const bool next_begins = begins_vertex(i + 1);
      v += begins;
      (v == before ? key_before : keys_[v]) = vertex_of(entry);
      int32_t row = untouched;
      if (has_row(entry)) {
        const int64_t chunk = chunk_of(entry);
        row = next_row[chunk]++;
        rows_[lattice_.chunk_sums[chunk] + row_in_chunk(entry)] = {v, row};
      }
      lattice_.vertex_sums[i] = row ^ -static_cast<int32_t>(next_begins);
      begins = next_begins;
    }
  }

  // A slab ends where the slab field of the keys changes, once the slab is large enough.
  void divide_into_slabs() {
    auto slab_field = [&](int64_t v) { return keys_[v].word[layout_.slab.word] >> layout_.slab.shift; };
    auto& slabs = lattice_.slabs;
    auto& slab_sums = lattice_.slab_sums;
    slabs.assign(1, 0), slab_sums.assign(1, 0);
    for (int64_t v = smallest_slab_size; v < num_vertices_; ++v)
      if (slab_field(v) != slab_field(v - 1)) {
        slabs.push_back(v);
        slab_sums.push_back(first_entry(keys_[v]));
        v += smallest_slab_size;
      }
    slabs.push_back(num_vertices_), slab_sums.push_back(entries_.size());
  }

  int64_t first_entry(const Key<Words>& vertex) {
    return std::lower_bound(entries_.begin(), entries_.end(), vertex) - entries_.begin();
  }

  void point_corners_to_vertices() {
    team_.run(chunks_.count(), [&](int64_t chunk) {
      const Row* const rows = &rows_[lattice_.chunk_sums[chunk]];
      for (int64_t i = chunks_.begin(chunk) * corners_; i < chunks_.end(chunk) * corners_; ++i) {
        const Row row = rows[lattice_.corner_sum[i]];
        lattice_.corner_vertex[i] = row.vertex;
        lattice_.corner_sum[i] = row.number;
      }
    });
  }

  const T* const features_;
  const int32_t* const batch_;
  const KeyLayout& layout_;
  LatticeArrays<T>& lattice_;
  Team& team_;
  const int64_t most_bytes_;
  int neighbour_rounds_ = 0;
  const int d_, corners_;
  const Chunks& chunks_;
  const int chunk_row_bits_;
  const KeySteps<Words> steps_;
  const CellSums<Words> cell_sums_;
  const std::vector<T> scale_;
  std::vector<double> exact_scale_;  // none where no point is far
  Buffer<Key<Words>> entries_;       // the rows of sums, sorted by key
  int64_t num_vertices_ = 0;
  Buffer<Key<Words>> keys_;  // of the vertices
  Buffer<Row> rows_;         // of sums, as the chunks numbered them
};

}  // namespace crfrnn
