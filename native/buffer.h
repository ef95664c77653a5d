// Aligned memory for large arrays, uninitialised. A failed allocation is std::bad_alloc, MemoryError in Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <new>
#include <utility>

namespace crfrnn {

// Memory from the system. A megabyte or more that is freed is kept for a later call, up to a fixed total, because fresh pages
// cost more than the arithmetic done in them. Huge pages are asked for where the system has them.
struct Memory {
  void* data = nullptr;
  std::size_t bytes = 0;
};
void prepare_memory();  // what allocations share; comes before threads and forks
Memory allocate(std::size_t bytes);
void free_or_keep(Memory memory) noexcept;
std::size_t release_kept();  // back to the system; returns the number of bytes

// The product of numbers that are not negative. One that does not fit is more than any memory holds: std::bad_alloc.
inline int64_t product_of(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (factor < 0 || (factor > 0 && product > std::numeric_limits<int64_t>::max() / factor)) throw std::bad_alloc();
    product *= factor;
  }
  return product;
}

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size)
      : memory_(allocate(static_cast<std::size_t>(product_of({size, int64_t{sizeof(T)}})))), size_(size) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() { free_or_keep(memory_); }
  void swap(Buffer& other) noexcept { std::swap(memory_, other.memory_), std::swap(size_, other.size_); }

  T* get() { return static_cast<T*>(memory_.data); }
  const T* get() const { return static_cast<const T*>(memory_.data); }
  T& operator[](int64_t i) { return get()[i]; }
  const T& operator[](int64_t i) const { return get()[i]; }
  int64_t size() const { return size_; }
  T* begin() { return get(); }
  T* end() { return get() + size_; }

 private:
  Memory memory_;
  int64_t size_ = 0;
};

}  // namespace crfrnn
