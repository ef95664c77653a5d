#include "lattice.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>

#include "keys.h"
#include "lattice_builder.h"

namespace crfrnn {
namespace {

int64_t checked_points(int64_t n, int d) {
  if (d < 1 || d > most_features)
    throw std::invalid_argument("a permutohedral lattice takes 1 to 16 features, not " + std::to_string(d));
  if (n < 1) throw std::invalid_argument("a permutohedral lattice needs at least one point");
  if (n > std::numeric_limits<int32_t>::max() / (d + 1))
    throw std::invalid_argument("too many points for one lattice: " + std::to_string(n) + " points of " + std::to_string(d) +
                                " features; split the image into tiles");
  return n;
}

// The range of each feature among n points, and whether all of them are finite. Several points are looked at side by side.
template <class T>
bool cover_features(const T* features, int64_t n, int d, std::vector<Range>& ranges) {
  constexpr int together = 16;
  std::array<T, most_features * together> low, high, nothing{};  // nothing: sums of x − x, which are 0 for finite x
  const int width = d * together;
  for (int k = 0; k < width; ++k) low[k] = high[k] = features[k % d];
  auto cover = [&](const T* f, int count) {
    for (int k = 0; k < count; ++k) {
      low[k] = f[k] < low[k] ? f[k] : low[k];
      high[k] = f[k] > high[k] ? f[k] : high[k];
      nothing[k] += f[k] - f[k];
    }
  };
  const int64_t whole = n / together * together;
  for (int64_t i = 0; i < whole; i += together) cover(features + i * d, width);
  cover(features + whole * d, static_cast<int>(n - whole) * d);
  for (int k = 0; k < width; ++k) ranges[k % d].cover(low[k]), ranges[k % d].cover(high[k]);
  return std::all_of(nothing.begin(), nothing.end(), [](T x) { return x == 0; });
}

// The range of each feature, and as the last one that of the batch ids.
template <class T>
std::vector<Range> checked_ranges(const T* features, int d, const int32_t* batch, const Chunks& chunks, Team& team) {
  std::vector<std::vector<Range>> ranges(chunks.count(), std::vector<Range>(d + 1));
  team.run(chunks.count(), [&](int64_t chunk) {
    const int64_t begin = chunks.begin(chunk), end = chunks.end(chunk);
    if (!cover_features(features + begin * d, end - begin, d, ranges[chunk]))
      throw std::invalid_argument("features hold NaN or infinite values");
    if (!batch) return ranges[chunk][d].cover(0);
    for (int64_t i = begin; i < end; ++i) ranges[chunk][d].cover(batch[i]);
  });
  for (std::size_t chunk = 1; chunk < ranges.size(); ++chunk)
    for (int j = 0; j <= d; ++j) ranges[0][j].cover(ranges[chunk][j].low), ranges[0][j].cover(ranges[chunk][j].high);
  return std::move(ranges[0]);
}

}  // namespace

TooLarge::TooLarge(int64_t points, int d, int neighbour_rounds, int64_t needed, int64_t available) {
  char text[256];
  std::snprintf(text, sizeof text,
                "a lattice of %lld points in %d dimensions with neighbour_rounds=%d needs %.3g GB of memory and %.3g GB is "
                "available; take fewer neighbour_rounds or dimensions, or a smaller image",
                static_cast<long long>(points), d, neighbour_rounds, double(needed) / 1e9, double(available) / 1e9);
  message_ = text;
}

template <class T>
Lattice<T>::Lattice(const T* features, int64_t n, int d, const int32_t* batch, int neighbour_rounds, int threads,
                    int64_t most_bytes)
    : arrays_(checked_points(n, d), d) {
  Team team(arrays_.chunks.useful_threads(threads));
  auto ranges = checked_ranges(features, d, batch, arrays_.chunks, team);
  const Range batches = ranges.back();
  ranges.pop_back();
  const KeyLayout layout =
      layout_keys(ranges, batches, 4 + neighbour_rounds, cell_limit<T>, row_limit(arrays_.chunks, arrays_.corners));
  if (layout.words == 1) {
    LatticeBuilder<T, 1>(features, batch, layout, arrays_, team, most_bytes).build(neighbour_rounds);
  } else if (layout.words == 2) {
    LatticeBuilder<T, 2>(features, batch, layout, arrays_, team, most_bytes).build(neighbour_rounds);
  } else {
    LatticeBuilder<T, most_features / 2 + 1>(features, batch, layout, arrays_, team, most_bytes).build(neighbour_rounds);
  }
}

template <class T>
void Lattice<T>::neighbours(int32_t* result) const {
  std::fill_n(result, (num_features() + 1) * num_vertices() * 2, -1);
  for (const auto& [list, slab_begins] : arrays_.chains) {
    for (int64_t i = 0; i + 1 < slab_begins.back(); ++i) {
      if (list[i] < 0) continue;
      const int32_t here = list[i], after = list[i + 1] < 0 ? ~list[i + 1] : list[i + 1];
      result[2 * here + 1] = after, result[2 * after] = here;
    }
    result += num_vertices() * 2;
  }
}

template class Lattice<float>;
template class Lattice<double>;

}  // namespace crfrnn
