// Aligned memory for large arrays, uninitialised. A failed allocation is std::bad_alloc, MemoryError in Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace crfrnn {

// Freed blocks of a megabyte and more are kept for the next call, up to a fixed total: fresh pages cost more than the
// arithmetic done in them. Scratch, needed for a moment before larger arrays are, goes straight back to the system, so that
// it does not add to the peak. Huge pages are asked for where the system has them.
enum class Use { array, scratch };
struct Block {
  void* data = nullptr;
  std::size_t bytes = 0;
  Use use = Use::array;
};
Block take_block(std::size_t bytes, Use use);
void give_block(Block block) noexcept;
std::size_t release_blocks();  // all that is kept; returns the bytes

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size, Use use = Use::array)
      : block_(take_block(static_cast<std::size_t>(size) * sizeof(T), use)), size_(size) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() { give_block(block_); }
  void swap(Buffer& other) noexcept { std::swap(block_, other.block_), std::swap(size_, other.size_); }

  T* get() { return static_cast<T*>(block_.data); }
  const T* get() const { return static_cast<const T*>(block_.data); }
  T& operator[](int64_t i) { return get()[i]; }
  const T& operator[](int64_t i) const { return get()[i]; }
  int64_t size() const { return size_; }
  T* begin() { return get(); }
  T* end() { return get() + size_; }

 private:
  Block block_;
  int64_t size_ = 0;
};

}  // namespace crfrnn
