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
    const bool are_rows = columns == channels;  // the values themselves
    const auto message = kernel.message(channels);
    points.over_tiles<T>(channels, [&](const Tile& tile, T* rows, T*, T*) {
      const T* const from = values + tile.begin * columns + first;
      if (tile.opens_chunk) message->open(tile.chunk);
      for (int64_t i = 0; i < tile.n && !are_rows; ++i) std::copy_n(from + i * columns, width, rows + i * channels);
      message->send(tile.begin, tile.n, are_rows ? from : rows, nullptr);
    });
    message->propagate(points.team, transpose);
    points.over_tiles<T>(channels, [&](const Tile& tile, T* rows, T*, T*) {
      T* const to = result + tile.begin * columns + first;
      message->receive(tile.begin, tile.n, are_rows ? to : rows, nullptr, nullptr, nullptr);
      for (int64_t i = 0; i < tile.n && !are_rows; ++i) std::copy_n(rows + i * channels, width, to + i * columns);
    });
  }
}

template <class T>
void filter_gradient(const Kernel<T>& kernel, const T* values, const T* cotangent, int64_t columns, int threads, T* result) {
  TileTeam points(kernel.num_points(), threads);
  const int channels = padded_channels(static_cast<int>(std::min(most_columns, columns)));
  const auto message = kernel.message(channels);
  const auto gradient = kernel.gradient(*message, channels, {});
  Buffer<T> cotangents(points.chunks.total * channels);
  for (int64_t first = 0; first < columns; first += most_columns) {
    const int64_t width = std::min(most_columns, columns - first);
    auto read = [&](int64_t begin, int64_t n, const T* from, T* rows) {
      std::fill_n(rows, n * channels, T(0));
      for (int64_t i = 0; i < n; ++i) std::copy_n(from + (begin + i) * columns + first, width, rows + i * channels);
    };
    points.over_tiles<T>(channels, [&](const Tile& tile, T*, T*, T*) {
      T* const g = &cotangents[tile.begin * channels];
      read(tile.begin, tile.n, cotangent, g);
      if (tile.opens_chunk) message->open(tile.chunk);
      message->send(tile.begin, tile.n, g, nullptr);
    });
    message->propagate(points.team, true);
    auto rows_of = [&](int64_t begin, int64_t n, T* rows) {
      read(begin, n, values, rows);
      return rows;
    };
    gradient->propagate(points, {tile_size * channels, rows_of}, cotangents.get());
    points.over_tiles<T>(channels, [&](const Tile& tile, T* spare, T* received, T*) {
      gradient->receive(tile.begin, tile.n, rows_of(tile.begin, tile.n, spare), &cotangents[tile.begin * channels], received);
    });
  }
  gradient->write(points.team, result, nullptr);
}

template void filter_gradient<float>(const Kernel<float>&, const float*, const float*, int64_t, int, float*);
template void filter_gradient<double>(const Kernel<double>&, const double*, const double*, int64_t, int, double*);
template void filter<float>(const Kernel<float>&, const float*, int64_t, bool, int, float*);
template void filter<double>(const Kernel<double>&, const double*, int64_t, bool, int, double*);

}  // namespace crfrnn
