// A kernel K over N points: built once for an image, it filters any number of channels any number of times.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "buffer.h"
#include "chunks.h"
#include "loops.h"
#include "team.h"

namespace crfrnn {

// The buffers of a filter run out = K · in, and its three steps: points send rows, the kernel propagates them, and points
// receive rows. Rows are `padded_channels` wide. Different chunks may be sent, and received, in parallel. After propagate(),
// points may send for the next run while others still receive from this one.
template <class T>
class Message {
 public:
  virtual ~Message() = default;
  // Comes before the first send of a chunk in each run.
  virtual void open(int64_t chunk) = 0;
  // Sends the rows of points [begin, begin + n), multiplied by scale unless that is null.
  virtual void send(int64_t begin, int64_t n, const T* rows, const T* scale) = 0;
  virtual void propagate(Team& team, bool transpose) = 0;
  // Frees what only sending needs; comes after the last propagate().
  virtual void stop_sending() = 0;
  // What points have received from, for a KernelGradient to take; empty if that would not help it. It is gone from here.
  virtual Buffer<T> release_values() { return {}; }

  // Following changes, so that points whose messages hardly change are not worked out again. A message that cannot be followed
  // says so. Otherwise the changes of each propagate() after this can be bounded.
  virtual bool follow(Team&) { return false; }
  // Whether points that have sent can send the difference to their new rows, without another open(). If not, all send again.
  virtual bool adds_up() const { return false; }
  // bounds[r] = the most by which a number that a point of run r receives, before its scale, changed in the last propagate().
  // changes[r]: Σ over the points of run r of the largest change of a number that they sent, scale included. The first time it
  // is not known.
  virtual void bound_changes(Team&, const T* /* changes */, T* /* bounds */) {}
  // rows = scale · message. With a coupling, one number for each channel, rows = from − coupling ⊙ scale · message.
  virtual void receive(int64_t begin, int64_t n, T* rows, const T* scale, const T* coupling, const T* from) const = 0;
};

// N factors by which points multiply what they send and what they receive; null for ones.
template <class T>
struct PointFactors {
  const T *pre = nullptr, *post = nullptr;
};

// Returns the rows of points [begin, begin + n), n ≤ tile_size. They may be in `memory`.
template <class T>
struct RowsOf {
  int64_t memory_size;
  std::function<const T*(int64_t begin, int64_t n, T* memory)> rows;
};

// Sums up the gradient of ⟨g, diag(post) K diag(pre) v⟩ over several runs, with rows of values v and cotangents g: to what K
// was built from, and to `post`. It comes with a transposed message, which sends post · g. Once that has been propagated, and
// before points send for its next run, the values are propagated as well, partly in the memory of that message; then tiles
// receive. Without factors `post`, there is no gradient to them.
//
// What a message of the rows w has released can be taken in place of propagating rows v = E w, for a matrix E of their channels
// that commutes with K. Then the cotangents with which tiles receive are Eᵀ g.
template <class T>
class KernelGradient {
 public:
  virtual ~KernelGradient() = default;
  // Another message of the kernel takes the place of the one so far, of fewer channels.
  virtual void use(Message<T>& transposed, int channels) = 0;
  // cotangents: rows of all points.
  virtual void propagate(TileTeam& points, const RowsOf<T>& values, const T* cotangents) = 0;
  // released: rows of `channels`. places: which of these are the channels here, −1 where none is.
  virtual void take(TileTeam& /* points */, const Buffer<T>& /* released */, int /* channels */,
                    const std::vector<int32_t>& /* places */) {}
  // Whether receive() reads values; otherwise they may be null.
  virtual bool needs_values() const { return false; }
  // Adds the shares of points, with rows of values and cotangents. rows = what they receive of the transposed message.
  virtual void receive(int64_t begin, int64_t n, const T* values, const T* cotangents, T* rows) = 0;
  // gradient: of the shape that the kernel says. post_gradient: N numbers, or null if there are no such factors.
  virtual void write(Team& team, T* gradient, T* post_gradient) const = 0;
};

template <class T>
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual int64_t num_points() const = 0;
  virtual std::unique_ptr<Message<T>> message(int channels) const = 0;
  // The shape of what the kernel was built from, and so of the gradient to it.
  virtual std::vector<std::size_t> gradient_shape() const = 0;
  // transposed: a message of this kernel of as many channels, which outlives the gradient.
  virtual std::unique_ptr<KernelGradient<T>> gradient(Message<T>& transposed, int channels, PointFactors<T> factors) const = 0;
};

}  // namespace crfrnn
