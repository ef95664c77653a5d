#include "filter.h"

#include <algorithm>

namespace crfrnn {
namespace {

constexpr int64_t most_columns = 256;  // filtered together: this bounds the buffers of a wide filter

}  // namespace

template <class T>
void filter(const Kernel<T>& kernel, const T* values, int64_t columns, bool transpose, int threads, T* result) {
  TileTeam points(kernel.num_points(), threads);
  for (int64_t first = 0; first < columns; first += most_columns) {
    const int width = static_cast<int>(std::min(most_columns, columns - first)), channels = padded_channels(width);
    const auto message = kernel.message(channels);
    points.over_tiles<T>(channels, [&](const Tile& tile, T* rows, T*, T*) {
      if (tile.opens_chunk) message->open(tile.chunk);
      for (int64_t i = 0; i < tile.n; ++i) std::copy_n(values + (tile.begin + i) * columns + first, width, rows + i * channels);
      message->send(tile.begin, tile.n, rows, nullptr);
    });
    message->propagate(points.team, transpose);
    points.over_tiles<T>(channels, [&](const Tile& tile, T* rows, T*, T*) {
      message->receive(tile.begin, tile.n, rows, nullptr, nullptr, nullptr);
      for (int64_t i = 0; i < tile.n; ++i) std::copy_n(rows + i * channels, width, result + (tile.begin + i) * columns + first);
    });
  }
}

template void filter<float>(const Kernel<float>&, const float*, int64_t, bool, int, float*);
template void filter<double>(const Kernel<double>&, const double*, int64_t, bool, int, double*);

}  // namespace crfrnn
