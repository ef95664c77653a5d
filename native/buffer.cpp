#include "buffer.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace crfrnn {
namespace {

constexpr std::size_t smallest_kept = std::size_t{1} << 20;
constexpr std::align_val_t cache_line{64}, huge_page{std::size_t{2} << 20};

// An eighth of the machine's memory, at most 2 GiB.
std::size_t most_kept() {
  static const std::size_t limit = [] {
    std::size_t eighth = std::size_t{256} << 20;
#if defined(__unix__) || defined(__APPLE__)
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0) eighth = static_cast<std::size_t>(pages) / 8 * static_cast<std::size_t>(page);
#endif
    return std::min(eighth, std::size_t{2} << 30);
  }();
  return limit;
}

struct KeptMemory {
  std::mutex mutex;
  std::vector<Memory> unused;  // in the order in which they were freed
  std::size_t bytes = 0;
};

// Never destroyed: Python may free arrays after static objects are gone.
KeptMemory& kept() {
  static auto* memory = new KeptMemory;
  return *memory;
}

std::align_val_t alignment(std::size_t bytes) { return bytes >= smallest_kept ? huge_page : cache_line; }

}  // namespace

void prepare_memory() { kept(), most_kept(); }

Memory allocate(std::size_t bytes) {
  if (bytes > std::numeric_limits<std::size_t>::max() / 4) throw std::bad_alloc();
  if (bytes < smallest_kept) return {::operator new(bytes + 64, cache_line), bytes};
  auto& store = kept();
  // The lock is only tried. A child that was forked while another thread held it would wait for ever; so it allocates.
  if (std::unique_lock lock(store.mutex, std::try_to_lock); lock) {
    auto best = store.unused.end();
    for (auto candidate = store.unused.begin(); candidate != store.unused.end(); ++candidate)
      if (candidate->bytes >= bytes && candidate->bytes <= bytes + bytes / 2 &&
          (best == store.unused.end() || candidate->bytes < best->bytes))
        best = candidate;
    if (best != store.unused.end()) {
      const Memory memory = *best;
      store.unused.erase(best);
      store.bytes -= memory.bytes;
      return memory;
    }
  }
  constexpr std::size_t step = std::size_t{256} << 10;
  bytes = (bytes + 64 + step - 1) / step * step;
  void* data = ::operator new(bytes, huge_page);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return {data, bytes};
}

void free_or_keep(Memory memory) noexcept {
  if (!memory.data) return;
  if (memory.bytes >= smallest_kept) {
    auto& store = kept();
    if (std::unique_lock lock(store.mutex, std::try_to_lock); lock && memory.bytes <= most_kept()) {
      try {
        store.unused.push_back(memory);
        store.bytes += memory.bytes;
        std::size_t dropped = 0;
        for (; store.bytes > most_kept(); ++dropped) {  // those that were unused for longest go first
          store.bytes -= store.unused[dropped].bytes;
          ::operator delete(store.unused[dropped].data, huge_page);
        }
        store.unused.erase(store.unused.begin(), store.unused.begin() + static_cast<std::ptrdiff_t>(dropped));
        return;
      } catch (const std::bad_alloc&) {  // there is no memory to list it in, so it is freed
      }
    }
  }
  ::operator delete(memory.data, alignment(memory.bytes));
}

std::size_t release_kept() {
  auto& store = kept();
  std::unique_lock lock(store.mutex, std::try_to_lock);
  if (!lock) return 0;
  for (const auto& memory : store.unused) ::operator delete(memory.data, huge_page);
  store.unused.clear();
  return std::exchange(store.bytes, 0);
}

}  // namespace crfrnn
