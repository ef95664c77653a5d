// The marginals of all iterations, which the forward pass keeps for the backward pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "buffer.h"
#include "chunks.h"
#include "exchange.h"
#include "loops.h"

namespace crfrnn {

// Rows of T as they were computed, or of 16 bits, at t · points + point.
enum class Storage { computed, float16, bfloat16 };

// What the messages of these marginals released: for each iteration and kernel, which may be nothing.
template <class T>
struct KeptMessages {
  KeptMessages() = default;
  KeptMessages(KeptMessages&&) = default;

  std::vector<std::vector<Buffer<T>>> released;

  int64_t bytes() const {
    int64_t numbers = 0;
    for (const auto& of_kernels : released)
      for (const auto& values : of_kernels) numbers += values.size();
    return numbers * int64_t(sizeof(T));
  }
};

template <class T>
class KeptMarginals {
 public:
  KeptMarginals() = default;  // keeps nothing
  // messages: where those are kept as well, or null.
  KeptMarginals(void* numbers, Storage storage, int64_t points, int channels, KeptMessages<T>* messages = nullptr)
      : numbers_(numbers), storage_(storage), points_(points), channels_(channels), messages_(messages) {}

  explicit operator bool() const { return numbers_; }

  // Where to compute the rows of a tile so that keep() need not copy them; or `spare`.
  T* place(int t, const Tile& tile, T* spare) const { return is_in_place(tile) ? rows<T>(t, tile) : spare; }

  void keep(int t, const Tile& tile, const T* q) const {
    const int64_t size = tile.n * channels_;
    if (!numbers_ || is_in_place(tile)) return;
    if (storage_ == Storage::computed) {
      std::copy_n(q, size, rows<T>(t, tile));
    } else {
      (storage_ == Storage::float16 ? loops<T>().to_float16 : loops<T>().to_bfloat16)(q, rows<uint16_t>(t, tile), size);
    }
  }

  // Comes after all points have received the messages of q_t.
  void keep_messages(Exchange<T>& exchange, std::size_t kernels) const {
    if (!messages_) return;
    auto& of_kernels = messages_->released.emplace_back();
    for (std::size_t k = 0; k < kernels; ++k) of_kernels.push_back(exchange.message(k).release_values());
  }
  // Those of iteration t; null if none were kept.
  const std::vector<Buffer<T>>* messages(int t) const { return messages_ ? &messages_->released.at(t) : nullptr; }

  // The rows of a tile. `spare` is memory for them.
  const T* read(int t, const Tile& tile, T* spare) const {
    const int64_t size = tile.n * channels_;
    if (is_in_place(tile)) return rows<T>(t, tile);
    if (storage_ == Storage::computed) {
      std::copy_n(rows<T>(t, tile), size, spare);
    } else {
      (storage_ == Storage::float16 ? loops<T>().from_float16 : loops<T>().from_bfloat16)(rows<uint16_t>(t, tile), spare, size);
    }
    return spare;
  }

 private:
  // Loops read and write whole vectors, also beyond the last row, so a tile that is not full needs memory of its own.
  bool is_in_place(const Tile& tile) const { return numbers_ && storage_ == Storage::computed && tile.n == tile_size; }

  template <class Number>
  Number* rows(int t, const Tile& tile) const {
    return static_cast<Number*>(numbers_) + (t * points_ + tile.begin) * channels_;
  }

  void* numbers_ = nullptr;
  Storage storage_ = Storage::computed;
  int64_t points_ = 0;
  int channels_ = 0;
  KeptMessages<T>* messages_ = nullptr;
};

}  // namespace crfrnn
