// Rows of points, one number for each channel, from scores and back, and among fewer or more classes.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "loops.h"
#include "meanfield.h"

namespace crfrnn {

using Classes = std::vector<int>;  // ids, rising

inline Classes all_classes(int count) {
  Classes classes(count);
  std::iota(classes.begin(), classes.end(), 0);
  return classes;
}

// The rows of n points from begin on, of some of the classes: padded with `pad`.
template <class T>
void read_scores(const MeanFieldSettings& settings, const T* scores, int64_t begin, int64_t n, const Classes& classes, T pad,
                 T* rows) {
  const int count = static_cast<int>(classes.size()), channels = padded_channels(count);
  if (!settings.points_first) {
    loops<T>().rows_from_planes(scores + begin, settings.points, classes.data(), count, pad, rows, channels, n);
    return;
  }
  for (int64_t i = 0; i < n; ++i, rows += channels) {
    const T* point = scores + (begin + i) * settings.classes;
    if (count == settings.classes) {
      std::copy_n(point, count, rows);
    } else {
      for (int c = 0; c < count; ++c) rows[c] = point[classes[c]];
    }
    std::fill(rows + count, rows + channels, pad);
  }
}

// The inverse of `read_scores`, of all classes.
template <class T>
void write_scores(const MeanFieldSettings& settings, const T* rows, int64_t begin, int64_t n, T* scores) {
  const int classes = settings.classes, channels = padded_channels(classes);
  if (!settings.points_first) {
    loops<T>().planes_from_rows(rows, channels, scores + begin, settings.points, classes, n);
    return;
  }
  for (int64_t i = 0; i < n; ++i) std::copy_n(rows + i * channels, classes, scores + (begin + i) * classes);
}

// The likeliest class of each of n rows, of several the first.
template <class T>
void likeliest(const T* rows, int classes, int64_t n, int32_t* labels) {
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

constexpr double padding_score = -1e30;  // no probability: exp of it is exactly 0

// Channels of rows: those of some classes taken out of rows of more, or put into them.
template <class T>
void take(const T* rows, const Classes& of, int channels, const Classes& classes, T* to, int to_channels, int64_t n) {
  for (std::size_t k = 0, from = 0; k < static_cast<std::size_t>(to_channels); ++k) {
    if (k < classes.size())
      while (of[from] != classes[k]) ++from;
    for (int64_t i = 0; i < n; ++i) to[i * to_channels + k] = k < classes.size() ? rows[i * channels + from] : T(padding_score);
  }
}
template <class T>
void put(const T* rows, const Classes& classes, int channels, T* to, int to_channels, int64_t n) {
  for (std::size_t k = 0; k < classes.size(); ++k)
    for (int64_t i = 0; i < n; ++i) to[i * to_channels + classes[k]] = rows[i * channels + k];
}

}  // namespace crfrnn
