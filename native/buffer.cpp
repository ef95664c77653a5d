#include "buffer.h"

#include <algorithm>
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
constexpr std::align_val_t line{64}, huge_page{std::size_t{2} << 20};

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

struct KeptBlocks {
  std::mutex mutex;
  std::vector<Block> blocks;  // the latest freed last
  std::size_t bytes = 0;
};

// Never destroyed: arrays that Python still holds are freed after static objects are gone.
KeptBlocks& kept() {
  static auto* blocks = new KeptBlocks;
  return *blocks;
}

std::align_val_t alignment(std::size_t bytes) { return bytes >= smallest_kept ? huge_page : line; }

}  // namespace

Block take_block(std::size_t bytes, Use use) {
  if (bytes < smallest_kept) return {::operator new(bytes + 64, line), bytes, use};
  auto& store = kept();
  // Only ever try the lock: a child forked while another thread held it simply allocates.
  if (std::unique_lock lock(store.mutex, std::try_to_lock); lock && use == Use::array) {
    auto best = store.blocks.end();
    for (auto block = store.blocks.begin(); block != store.blocks.end(); ++block)
      if (block->bytes >= bytes && block->bytes <= bytes + bytes / 2 && (best == store.blocks.end() || block->bytes < best->bytes))
        best = block;
    if (best != store.blocks.end()) {
      const Block block = *best;
      store.blocks.erase(best);
      store.bytes -= block.bytes;
      return block;
    }
  }
  constexpr std::size_t page = std::size_t{256} << 10;
  bytes = (bytes + 64 + page - 1) / page * page;
  void* data = ::operator new(bytes, huge_page);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return {data, bytes, use};
}

void give_block(Block block) noexcept {
  if (!block.data) return;
  if (block.bytes >= smallest_kept && block.use == Use::array) {
    auto& store = kept();
    if (std::unique_lock lock(store.mutex, std::try_to_lock); lock && block.bytes <= most_kept()) {
      try {
        store.blocks.push_back(block);
        store.bytes += block.bytes;
        std::size_t dropped = 0;
        for (; store.bytes > most_kept(); ++dropped) {  // the longest unused go first
          store.bytes -= store.blocks[dropped].bytes;
          ::operator delete(store.blocks[dropped].data, huge_page);
        }
        store.blocks.erase(store.blocks.begin(), store.blocks.begin() + static_cast<std::ptrdiff_t>(dropped));
        return;
      } catch (const std::bad_alloc&) {  // nowhere to note it: free it
      }
    }
  }
  ::operator delete(block.data, alignment(block.bytes));
}

std::size_t release_blocks() {
  auto& store = kept();
  std::unique_lock lock(store.mutex, std::try_to_lock);
  if (!lock) return 0;
  for (const auto& block : store.blocks) ::operator delete(block.data, huge_page);
  store.blocks.clear();
  return std::exchange(store.bytes, 0);
}

}  // namespace crfrnn
