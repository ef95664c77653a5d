// The permutohedral lattice (Adams, Baek & Davis 2010): a Gaussian filter over points of 1 to 16 features in O(N d² + M d).
#pragma once

#include <vector>

#include "buffer.h"
#include "kernel.h"

namespace crfrnn {

constexpr int most_features = 16;

// One direction's blur: vertices listed along chains of neighbours, the last of each chain as ~vertex. `cuts` split the
// list by the slab of each chain's first vertex; the pieces can be blurred in parallel.
struct Chains {
  Buffer<int32_t> list;
  std::vector<int64_t> cuts;
};

template <class T>
class Lattice final : public Kernel<T> {
 public:
  // features: N × d, row-major. batch: N ids or null; points with different ids share no vertex. neighbour_rounds: how
  // often to add the vertices next to those that points touch. Throws std::invalid_argument, std::bad_alloc.
  Lattice(const T* features, int64_t n, int d, const int32_t* batch, int neighbour_rounds, int threads);

  int64_t num_points() const override { return n_; }
  int num_features() const { return d_; }
  int64_t num_vertices() const { return vertices_; }
  std::unique_ptr<Message<T>> message(int channels) const override;

  // N × (d + 1) vertex ids and barycentric weights of each point.
  const int32_t* vertices() const { return vertex_.get(); }
  const T* weights() const { return weight_.get(); }
  // (d + 1) × M × 2: the vertices before and after each vertex in each direction, -1 where there is none.
  void neighbours(int32_t* result) const;

 private:
  template <class U>
  friend class LatticeMessage;
  template <int Words>
  void build(const T* features, const int32_t* batch, int neighbour_rounds, const struct KeyLayout& layout, Team& team);
  void chain_up(std::vector<Buffer<int32_t>>& next, Team& team);

  int64_t n_;
  int d_;
  Chunks chunks_;
  int64_t vertices_ = 0;
  Buffer<int32_t> vertex_;  // N × (d + 1)
  Buffer<T> weight_;        // N × (d + 1)
  // Each chunk of points sums into rows of its own, one for each vertex it touches.
  Buffer<int32_t> row_of_;           // N × (d + 1)
  std::vector<int64_t> chunk_rows_;  // chunks + 1: the first row of each
  // The rows that make up each vertex, in the order of chunks, the last of each as ~row. A vertex that no point touches
  // has the one row after all others, which stays zero.
  Buffer<int32_t> row_;
  std::vector<int64_t> slabs_;      // first vertex of each slab, and M: blurring in the first d - 1 directions stays inside
  std::vector<int64_t> slab_rows_;  // where the rows of each slab's vertices begin in row_
  std::vector<Chains> chains_;      // d + 1
};

}  // namespace crfrnn
