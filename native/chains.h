// Chains of neighbours: the order in which the blur goes through the vertices.
#pragma once

#include <vector>

#include "buffer.h"
#include "team.h"

namespace crfrnn {

// All vertices with neighbours, listed along their chains of neighbours in one direction. The last vertex v of a chain is
// listed as ~v. A chain belongs to the slab of its first vertex, and the chains of a slab lie together.
struct Chains {
  Buffer<int32_t> list;
  std::vector<int64_t> slab_begins;  // where the chains of each slab begin in the list, and its end
};

// The chains of each direction. next: for each direction, the vertex after each vertex, or -1. slabs: the first vertex of each
// slab, and the number of vertices.
std::vector<Chains> link_chains(const std::vector<Buffer<int32_t>>& next, const std::vector<int64_t>& slabs, Team& team);

}  // namespace crfrnn
