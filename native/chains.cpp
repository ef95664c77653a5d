#include "chains.h"

#include <algorithm>
#include <array>
#include <utility>

#include "chunks.h"

namespace crfrnn {
namespace {

constexpr int walkers = 3;  // directions that are one task

// The chains of one direction while they are listed.
struct Direction {
  // A chain begins at each vertex that has one after it and none before.
  Direction(const Buffer<int32_t>& next, const std::vector<int64_t>& slabs) : after(next.get()) {
    const int64_t size = next.size(), most_heads = size / 2;
    heads = Buffer<int32_t>(most_heads + 2);
    ends = Buffer<int32_t>(most_heads + 2);
    Buffer<int8_t> has_before(size + 1);  // of vertex v at v + 1, so that the place of -1 is 0
    std::fill(has_before.begin(), has_before.end(), 0);
    for (int64_t v = 0; v < size; ++v) has_before[after[v] + 1] = 1, length += after[v] >= 0;
    int64_t count = 0;
    for (std::size_t slab = 1; slab < slabs.size(); ++slab) {
      for (int64_t v = slabs[slab - 1]; v < slabs[slab]; ++v) {
        heads[count] = static_cast<int32_t>(v);  // overwritten by the next vertex unless it is a head
        count += int64_t(after[v] >= 0) & int64_t(has_before[v + 1] == 0);
      }
      slab_heads.push_back(count);
    }
    heads[count] = heads[count + (count <= most_heads)] = 0;
    length += count;
    list = Buffer<int32_t>(length);
  }

  Chains chains() {
    Chains result{std::move(list), {0}};
    for (const int64_t count : slab_heads) result.slab_begins.push_back(count == 0 ? 0 : ends[count - 1]);
    return result;
  }

  const int32_t* after;
  int64_t length = 0;               // of the list
  std::vector<int64_t> slab_heads;  // how many heads there are up to the end of each slab
  Buffer<int32_t> heads, ends;      // of each chain: its first vertex, and where it ends in the list
  Buffer<int32_t> list;
};

// Goes along the chains of a direction, one vertex at each step. Where a chain ends cannot be predicted, so there is no branch
// on it.
struct Walker {
  explicit Walker(Direction& d)
      : after(d.after), heads(d.heads.get()), ends(d.ends.get()), list(d.list.get()), left(d.length), vertex(*heads) {}

  void step() {
    const int32_t following = after[vertex], next_head = heads[1], last = following >> 31;
    *list++ = vertex ^ last;
    *ends = ++listed;
    heads -= last, ends -= last;
    vertex = last ? next_head : following;
  }

  const int32_t *after, *heads;
  int32_t *ends, *list;
  int64_t left;
  int32_t vertex, listed = 0;
};

// Lists the chains of several directions side by side: on its own, each walker would wait for memory at every step.
template <std::size_t... I>
void walk(std::array<Direction*, sizeof...(I)> directions, std::index_sequence<I...>) {
  std::array<Walker, sizeof...(I)> all{Walker(*directions[I])...};
  const int64_t common = std::min({all[I].left...});
  for (int64_t i = 0; i < common; ++i) (all[I].step(), ...);
  for (Walker& walker : all)
    for (int64_t i = common; i < walker.left; ++i) walker.step();
}

}  // namespace

std::vector<Chains> link_chains(const std::vector<Buffer<int32_t>>& next, const std::vector<int64_t>& slabs, Team& team) {
  std::vector<Chains> chains(next.size());
  const Parts groups{static_cast<int64_t>(next.size()), walkers};
  team.run(groups.count(), [&](int64_t group) {
    std::vector<Direction> directions;
    for (int64_t j = groups.begin(group); j < groups.end(group); ++j) directions.emplace_back(next[j], slabs);
    auto* const d = directions.data();
    switch (directions.size()) {
      case 3:
        walk<0, 1, 2>({d, d + 1, d + 2}, {});
        break;
      case 2:
        walk<0, 1>({d, d + 1}, {});
        break;
      default:
        walk<0>({d}, {});
    }
    for (int64_t j = groups.begin(group); j < groups.end(group); ++j) chains[j] = directions[j - groups.begin(group)].chains();
  });
  return chains;
}

}  // namespace crfrnn
