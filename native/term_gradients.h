// The gradients to the kernels of the terms and to their factors, equation (22).
#pragma once

#include <memory>
#include <vector>

#include "buffer.h"
#include "exchange.h"
#include "rows.h"

namespace crfrnn {

// Where the gradients of a term go: to what its kernel was built from, and to its N factors.
template <class T>
struct TermGradient {
  T *kernel, *pre, *post;
};

// Sums them up over the iterations. In each, cotangents g = ∂L/∂a go through a transposed exchange between all classes, and the
// values −E q go through the kernels of their own: so ⟨g, N (−E q)⟩ is what the messages of the iteration add to the loss.
template <class T>
class TermGradients {
 public:
  // The couplings E are multiplied by `factor`.
  TermGradients(const std::vector<Pairwise<T>>& pairwise, int classes, const Chunks& chunks, T factor, Exchange<T>& transposed)
      : pairwise_(pairwise), channels_(transposed.channels()), values_(chunks.count() * tile_size * channels_),
        pre_(pairwise.size() * chunks.total) {
    std::fill(pre_.begin(), pre_.end(), T(0));
    for (std::size_t k = 0; k < pairwise.size(); ++k) {
      const Pairwise<T>& term = pairwise[k];
      couplings_.emplace_back(term, classes, all_classes(classes), factor, false);
      gradients_.push_back(term.kernel->gradient(transposed.message(k), channels_, {term.pre, term.post}));
    }
  }

  // The marginals of a tile; their cotangents are sent to the exchange.
  void send(const Tile& tile, const T* q) {
    for (std::size_t k = 0; k < gradients_.size(); ++k) {
      if (tile.opens_chunk) gradients_[k]->open(tile.chunk);
      gradients_[k]->send(tile.begin, tile.n, values_of(k, tile, q));
    }
  }

  // Comes after propagate() of the exchange.
  void propagate(Team& team) {
    for (const auto& gradient : gradients_) gradient->propagate(team);
  }

  // What a tile adds to the gradients of term k. message: what it receives from the exchange, before its scale.
  void add(std::size_t k, const Tile& tile, const T* q, const T* cotangents, const T* message) {
    const T* const values = values_of(k, tile, q);
    gradients_[k]->add(tile.begin, tile.n, values, cotangents);
    loops<T>().row_products(values, message, pre(k) + tile.begin, channels_, tile.n);
  }

  void write(Team& team, const std::vector<TermGradient<T>>& to) {
    for (std::size_t k = 0; k < to.size(); ++k) {
      gradients_[k]->write(team, to[k].kernel, to[k].post);
      std::copy_n(pre(k), points(), to[k].pre);
    }
  }

 private:
  int64_t points() const { return pre_.size() / static_cast<int64_t>(pairwise_.size()); }
  T* pre(std::size_t k) { return &pre_[static_cast<int64_t>(k) * points()]; }

  // −E q, in memory of the chunk.
  const T* values_of(std::size_t k, const Tile& tile, const T* q) {
    T* const rows = &values_[tile.chunk * tile_size * channels_];
    couplings_[k].apply(q, nullptr, rows, channels_, tile.n);
    return rows;
  }

  const std::vector<Pairwise<T>>& pairwise_;
  const int channels_;
  std::vector<PaddedCoupling<T>> couplings_;
  std::vector<std::unique_ptr<KernelGradient<T>>> gradients_;
  Buffer<T> values_;  // the rows of a tile for each chunk
  Buffer<T> pre_;     // of each term and point
};

}  // namespace crfrnn
