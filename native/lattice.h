// The permutohedral lattice (Adams, Baek & Davis 2010): a Gaussian filter over points of 1 to 16 features in O(N d² + V d).
// docs/native.md explains how it is built and used.
#pragma once

#include <limits>
#include <new>
#include <string>
#include <vector>

#include "buffer.h"
#include "chains.h"
#include "kernel.h"

namespace crfrnn {

constexpr int most_features = 16;

// A lattice needs more memory than it may take.
class TooLarge final : public std::bad_alloc {
 public:
  TooLarge(int64_t points, int d, int neighbour_rounds, int64_t needed, int64_t available);
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

// The arrays that make up a lattice. Corner k of point i is number i · (d + 1) + k of the arrays over corners. Each chunk of
// points sums into rows of its own, one for each vertex that it touches and in their order, so that chunks can be splatted in
// parallel.
template <class T>
struct LatticeArrays {
  explicit LatticeArrays(int64_t n, int d)
      : d(d), corners(d + 1), chunks(n), corner_vertex(n * corners), corner_weight(n * corners), corner_sum(n * corners),
        coordinate_order((n + embedding_lanes - 1) / embedding_lanes * corners * embedding_lanes) {}

  const int d, corners;
  const Chunks chunks;
  int64_t num_vertices = 0;
  Buffer<int32_t> corner_vertex;
  Buffer<T> corner_weight;     // barycentric
  Buffer<int32_t> corner_sum;  // the row of sums that the corner adds to
  // The coordinates of each point by rank, for the gradient to its features: rank r of point p of a group of embedding_lanes
  // points is number r · embedding_lanes + p of the group.
  Buffer<uint8_t> coordinate_order;
  std::vector<int64_t> chunk_sums;  // the first row of sums of each chunk, and the number of all rows
  // The rows of sums that make up each vertex, in the order of chunks; the last row r of a vertex is listed as ~r. A vertex
  // that no point touches has the one row after those of all chunks, which stays zero.
  Buffer<int32_t> vertex_sums;
  std::vector<int64_t> slabs;      // the first vertex of each slab, and the number of vertices
  std::vector<int64_t> slab_sums;  // where the vertices of each slab begin in vertex_sums, and its end
  std::vector<Chains> chains;      // of each of the d + 1 directions
};

template <class T>
class Lattice final : public Kernel<T> {
 public:
  // features: N × d, row-major. batch: N ids or null; points with different ids share no vertex. neighbour_rounds: how often
  // the neighbours of the vertices so far are added. most_bytes: what building may take; how much it needs is known when the
  // vertices are counted. Throws std::invalid_argument, std::bad_alloc.
  Lattice(const T* features, int64_t n, int d, const int32_t* batch, int neighbour_rounds, int threads,
          int64_t most_bytes = std::numeric_limits<int64_t>::max());

  int64_t num_points() const override { return arrays_.chunks.total; }
  int num_features() const { return arrays_.d; }
  int64_t num_vertices() const { return arrays_.num_vertices; }
  std::unique_ptr<Message<T>> message(int channels) const override;
  std::vector<std::size_t> gradient_shape() const override {
    return {static_cast<std::size_t>(num_points()), static_cast<std::size_t>(num_features())};
  }
  std::unique_ptr<KernelGradient<T>> gradient(Message<T>& transposed, int channels, PointFactors<T> factors) const override;

  // N × (d + 1) vertex ids and barycentric weights of each point.
  const int32_t* vertices() const { return arrays_.corner_vertex.get(); }
  const T* weights() const { return arrays_.corner_weight.get(); }
  // (d + 1) × V × 2: the vertices before and after each vertex in each direction, -1 where there is none.
  void neighbours(int32_t* result) const;

 private:
  LatticeArrays<T> arrays_;
};

}  // namespace crfrnn
