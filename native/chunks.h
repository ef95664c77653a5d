// How work is divided: ranges into parts, points into chunks and these into tiles. docs/native.md defines the words.
#pragma once

#include <algorithm>
#include <cstdint>

#include "buffer.h"
#include "loops.h"
#include "team.h"

namespace crfrnn {

// A range [0, total) in parts of equal size; the last may be smaller.
struct Parts {
  int64_t count() const { return (total + size - 1) / size; }
  int64_t begin(int64_t part) const { return part * size; }
  int64_t end(int64_t part) const { return std::min(total, (part + 1) * size); }

  int64_t total, size;
};

// All points in chunks of consecutive ones. The chunks depend on the number of points alone, never on that of threads.
struct Chunks : Parts {
  explicit Chunks(int64_t points) : Parts{points, std::clamp<int64_t>(((points + 7) / 8 + 63) / 64 * 64, 8192, 65536)} {}
  // With more threads than chunks, the others would only wait.
  int useful_threads(int threads) const { return static_cast<int>(std::min<int64_t>(count(), threads)); }
};

// Points [begin, begin + n) of a chunk, at most tile_size of them.
struct Tile {
  int64_t chunk, begin, n;
  bool opens_chunk;  // the first tile of its chunk
};

// Calls work(tile) for the tiles of a chunk in turn.
template <class F>
void for_each_tile(const Chunks& chunks, int64_t chunk, F work) {
  const int64_t first = chunks.begin(chunk), end = chunks.end(chunk);
  for (int64_t begin = first; begin < end; begin += tile_size)
    work(Tile{chunk, begin, std::min<int64_t>(tile_size, end - begin), begin == first});
}

// The threads of a call and the points that they work on.
struct TileTeam {
  TileTeam(int64_t points, int threads) : chunks(points), team(chunks.useful_threads(threads)) {}

  // Calls work(tile, a, b, c) for all tiles, chunks in parallel. a, b and c are memory for the rows of a tile. Each chunk has
  // its own, set to zero before its first tile.
  template <class T, class F>
  void over_tiles(int channels, F work) {
    team.run(chunks.count(), [&](int64_t chunk) {
      const int64_t size = int64_t{tile_size} * channels;
      Buffer<T> rows(3 * size);
      std::fill(rows.begin(), rows.end(), T(0));
      T *const a = rows.get(), *const b = a + size, *const c = b + size;
      for_each_tile(chunks, chunk, [&](const Tile& tile) { work(tile, a, b, c); });
    });
  }

  const Chunks chunks;
  Team team;
};

}  // namespace crfrnn
