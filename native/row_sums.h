// The sums of the rows of normalised kernels, how far messages can move scores, and where they shrink errors.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "chunks.h"
#include "exchange.h"

namespace crfrnn {

// What points receive through a normalised kernel N_k if all send 1.
template <class T>
struct RowSums {
  double largest;
  Buffer<T> of_points;  // none where all are the largest, or where only that was asked for
  T operator[](int64_t point) const { return of_points.size() > 0 ? of_points[point] : T(largest); }
};

template <class T>
RowSums<T> row_sums(const Pairwise<T>& term, bool of_points, TileTeam& points) {
  const bool is_known = term.row_sum > 0;
  if (is_known && (!of_points || !term.pre)) return {term.row_sum, {}};
  const auto message = term.kernel->message(1);
  auto of_tile = [](const T* factors, const Tile& tile) { return factors ? factors + tile.begin : nullptr; };
  points.over_tiles<T>(1, [&](const Tile& tile, T* ones, T*, T*) {
    if (tile.opens_chunk) message->open(tile.chunk);
    std::fill_n(ones, tile.n, T(1));
    message->send(tile.begin, tile.n, ones, of_tile(term.pre, tile));
  });
  message->propagate(points.team, false);
  Buffer<T> sums(points.chunks.total);
  points.over_tiles<T>(1, [&](const Tile& tile, T* rows, T*, T*) {
    message->receive(tile.begin, tile.n, rows, of_tile(term.post, tile), nullptr, nullptr);
    std::copy_n(rows, tile.n, &sums[tile.begin]);
  });
  const double largest = is_known ? term.row_sum : std::max(T(0), *std::max_element(sums.begin(), sums.end()));
  return {largest, of_points ? std::move(sums) : Buffer<T>()};
}

// How far a score can move if all marginals move by 1: Σ_k of the largest row sums of |E_k| and N_k.
template <class T>
double message_weight(int classes, const std::vector<Pairwise<T>>& pairwise, const std::vector<RowSums<T>>& sums) {
  double weight = 0;
  for (std::size_t k = 0; k < pairwise.size(); ++k) {
    const PaddedCoupling<T> coupling(pairwise[k], classes, all_classes(classes), T(1), false);
    weight += double(coupling.largest_row_sum(padded_channels(classes))) * sums[k].largest;
  }
  return weight;
}

// What the largest marginal of a point has to reach so that an iteration at least halves errors there, equation (36).
inline double decided_marginal(double weight) { return weight <= 1 ? 0 : (1 + std::sqrt(1 - 1 / weight)) / 2; }

}  // namespace crfrnn
