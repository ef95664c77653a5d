// Rows of points, one number for each class: from scores and back, and between more classes and fewer.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "chunks.h"
#include "loops.h"

namespace crfrnn {

constexpr int64_t most_classes = int64_t{1} << 24;  // so that an int counts the numbers of a tile

// An array of scores, classes × points.
struct ScoreLayout {
  int classes = 1;
  int64_t points = 1;
  bool point_major = false;  // in memory, the scores of a point lie side by side; otherwise those of a class do
};

using Classes = std::vector<int>;  // ids, in rising order

inline Classes all_classes(int count) {
  Classes classes(count);
  std::iota(classes.begin(), classes.end(), 0);
  return classes;
}

// The score of a padding channel. As a probability it is 0, whatever the other scores are.
constexpr double padding_score = -std::numeric_limits<double>::infinity();

// Copies the scores of some classes to the rows of a tile and sets padding channels to `pad`.
template <class T>
void read_scores(const ScoreLayout& layout, const T* scores, const Tile& tile, const Classes& classes, T pad, T* rows) {
  const int count = static_cast<int>(classes.size()), channels = padded_channels(count);
  if (!layout.point_major) {
    loops<T>().rows_from_class_major(scores + tile.begin, layout.points, classes.data(), count, pad, rows, channels, tile.n);
    return;
  }
  for (int64_t i = 0; i < tile.n; ++i, rows += channels) {
    const T* point = scores + (tile.begin + i) * layout.classes;
    if (count == layout.classes) {
      std::copy_n(point, count, rows);
    } else {
      for (int c = 0; c < count; ++c) rows[c] = point[classes[c]];
    }
    std::fill(rows + count, rows + channels, pad);
  }
}

// The scores of one class at the points of a tile. `spare` is memory for them, for where they do not lie side by side.
template <class T>
const T* score_column(const ScoreLayout& layout, const T* scores, const Tile& tile, int which, T* spare) {
  if (!layout.point_major) return scores + which * layout.points + tile.begin;
  for (int64_t i = 0; i < tile.n; ++i) spare[i] = scores[(tile.begin + i) * layout.classes + which];
  return spare;
}

// Copies rows of all classes to the scores of a tile.
template <class T>
void write_scores(const ScoreLayout& layout, const T* rows, const Tile& tile, T* scores) {
  const int classes = layout.classes, channels = padded_channels(classes);
  if (!layout.point_major) {
    loops<T>().class_major_from_rows(rows, channels, scores + tile.begin, layout.points, classes, tile.n);
    return;
  }
  for (int64_t i = 0; i < tile.n; ++i) std::copy_n(rows + i * channels, classes, scores + (tile.begin + i) * classes);
}

// Throws std::invalid_argument unless the scores of n rows, besides those of padding channels, are finite.
template <class T>
void require_finite(const T* rows, int classes, int64_t n) {
  if (loops<T>().doubt(rows, padded_channels(classes), classes, n) == 0) return;
  throw std::invalid_argument(sizeof(T) == 4 ? "scores grow beyond what float32 can hold, 3.4e38: make weights, compatibility "
                                               "or mask smaller, or give scores as float64"
                                             : "scores grow beyond what float64 can hold, 1.8e308: make weights, "
                                               "compatibility or mask smaller");
}

// The likeliest class of each of n rows; of equally likely ones, the first.
template <class T>
void likeliest_classes(const T* rows, int classes, int64_t n, int32_t* labels) {
  const int channels = padded_channels(classes);
  for (int64_t i = 0; i < n; ++i, rows += channels) {
    T most = rows[0];
    int32_t label = 0;
    for (int c = 1; c < classes; ++c) {
      label = rows[c] > most ? c : label;
      most = std::max(most, rows[c]);
    }
    labels[i] = label;
  }
}

// Where the classes of padded rows of `to` lie in rows of `from`; -1 for those that do not, and for padding channels.
inline std::vector<int32_t> places_of(const Classes& to, const Classes& from) {
  std::vector<int32_t> places(padded_channels(static_cast<int>(to.size())), -1);
  for (std::size_t k = 0, source = 0; k < to.size(); ++k) {
    while (source < from.size() && from[source] < to[k]) ++source;
    if (source < from.size() && from[source] == to[k]) places[k] = static_cast<int32_t>(source);
  }
  return places;
}

// n rows of the classes `from` as rows of the classes `to`. Padding channels and classes that `from` lacks become `pad`. Rows
// that become wider can stay in their memory.
template <class T>
void change_classes(const T* rows, const Classes& from, const Classes& to, T pad, T* changed, int64_t n) {
  const auto places = places_of(to, from);
  loops<T>().rearrange(rows, padded_channels(static_cast<int>(from.size())), places.data(), pad, changed,
                       static_cast<int>(places.size()), n);
}

// n rows of some classes into rows of all classes. The other channels keep what they hold.
template <class T>
void scatter_classes(const T* rows, const Classes& classes, T* all, int all_channels, int64_t n) {
  const int count = static_cast<int>(classes.size()), channels = padded_channels(count);
  for (int k = 0; k < count; ++k)
    for (int64_t i = 0; i < n; ++i) all[i * all_channels + classes[k]] = rows[i * channels + k];
}

}  // namespace crfrnn
