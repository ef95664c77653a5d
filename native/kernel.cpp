#include "kernel.h"

#include <algorithm>

namespace crfrnn {

template <class T>
void filter(const Kernel<T>& kernel, const T* values, int64_t columns, bool transpose, int threads, T* result) {
  const Chunks chunks(kernel.num_points());
  Team team(chunks.useful_threads(threads));
  constexpr int64_t most = 256;  // columns filtered together: bounds the buffers of a wide filter
  for (int64_t first = 0; first < columns; first += most) {
    const int classes = static_cast<int>(std::min(most, columns - first)), channels = padded_channels(classes);
    const auto message = kernel.message(channels);
    auto over_tiles = [&](auto work) {
      team.run(chunks.count(), [&](int64_t chunk) {
        const auto rows = std::make_unique<T[]>(tile * channels);
        for (int64_t begin = chunks.begin(chunk); begin < chunks.end(chunk); begin += tile)
          work(begin, std::min<int64_t>(tile, chunks.end(chunk) - begin), rows.get());
      });
    };
    team.run(chunks.count(), [&](int64_t chunk) { message->open(chunk); });
    over_tiles([&](int64_t begin, int64_t n, T* rows) {
      for (int64_t i = 0; i < n; ++i)
        std::copy_n(values + (begin + i) * columns + first, classes, rows + i * channels);
      message->send(begin, n, rows, nullptr);
    });
    message->propagate(team, transpose);
    over_tiles([&](int64_t begin, int64_t n, T* rows) {
      message->receive(begin, n, rows, nullptr, nullptr, nullptr);
      for (int64_t i = 0; i < n; ++i)
        std::copy_n(rows + i * channels, classes, result + (begin + i) * columns + first);
    });
  }
}

template void filter<float>(const Kernel<float>&, const float*, int64_t, bool, int, float*);
template void filter<double>(const Kernel<double>&, const double*, int64_t, bool, int, double*);

}  // namespace crfrnn
