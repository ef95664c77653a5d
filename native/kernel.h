// A kernel K over N points: built once per image, it filters any number of channels any number of times.
#pragma once

#include <cstdint>
#include <memory>

#include "loops.h"
#include "parallel.h"

namespace crfrnn {

// One filter run and its buffers. Points send rows, the kernel propagates, points receive: out = K · in. Rows are
// `padded_channels` wide. Chunks may be sent and received in parallel. After propagate(), sending starts the next run
// and may go on while the messages of this one are still being received.
template <class T>
class Message {
 public:
  virtual ~Message() = default;
  // Before the first send of a chunk in each run.
  virtual void open(int64_t chunk) = 0;
  // Rows of points [begin, begin + n) times scale (may be null).
  virtual void send(int64_t begin, int64_t n, const T* rows, const T* scale) = 0;
  virtual void propagate(Team& team, bool transpose) = 0;
  // After the last propagate(): what only sending needs is freed.
  virtual void stop_sending() = 0;
  // rows = scale · message, or with a coupling (one number per channel), from − coupling ⊙ scale · message.
  virtual void receive(int64_t begin, int64_t n, T* rows, const T* scale, const T* coupling, const T* from) const = 0;
};

template <class T>
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual int64_t num_points() const = 0;
  virtual std::unique_ptr<Message<T>> message(int channels) const = 0;
};

// values and result: num_points × columns, row-major.
template <class T>
void filter(const Kernel<T>& kernel, const T* values, int64_t columns, bool transpose, int threads, T* result);

}  // namespace crfrnn
