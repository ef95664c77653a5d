// The threads of one call, which share out a fixed number of tasks.
//
// A Team lives for one call into the library. No thread outlives it, so a process can fork at any time between calls and
// its children start clean. Threads claim tasks as they become free, but what a task computes does not depend on the
// thread that runs it: results have the same bits for any number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace crfrnn {

class Team {
 public:
  explicit Team(int threads) {
    for (int i = 1; i < threads; ++i) {
      try {
        workers_.emplace_back([this] { work(); });
      } catch (const std::system_error&) {
        break;  // the system gives no more threads: those that have started do all the work
      }
    }
  }

  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  ~Team() {
    ticket_.store(stop, std::memory_order_release);
    ticket_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(i) once for each i in [0, count) and returns when all are done. The first exception is rethrown here.
  void run(int64_t count, const std::function<void(int64_t)>& task) {
    if (workers_.empty() || count < 2) {
      for (int64_t i = 0; i < count; ++i) task(i);
      return;
    }
    for (int64_t first = 0; first < count; first += int64_t{most}) {
      const int64_t tasks = count - first < int64_t{most} ? count - first : int64_t{most};
      run_phase(first, static_cast<uint64_t>(tasks), task);
    }
  }

 private:
  // A ticket holds a phase, the number of its tasks and the next task. A task is claimed with a compare-and-swap of the
  // whole ticket, so a thread that wakes late cannot claim a task of a phase that it has not seen.
  static constexpr uint64_t bits = 20, most = (uint64_t{1} << bits) - 1, stop = ~uint64_t{0};
  static uint64_t next_of(uint64_t ticket) { return ticket & most; }
  static uint64_t tasks_of(uint64_t ticket) { return (ticket >> bits) & most; }

  void run_phase(int64_t first, uint64_t tasks, const std::function<void(int64_t)>& task) {
    task_ = &task;
    first_ = first;
    done_.store(0, std::memory_order_relaxed);
    phase_ = (phase_ + 1) & 0xFFFFFF;
    if (phase_ == 0xFFFFFF) phase_ = 1;  // never the pattern of `stop`
    ticket_.store((phase_ << (2 * bits)) | (tasks << bits), std::memory_order_release);
    ticket_.notify_all();
    claim_all();
    for (uint64_t done = done_.load(std::memory_order_acquire); done != tasks; done = done_.load(std::memory_order_acquire))
      pause_until_changed(done_, done);
    if (failure_) {
      auto failure = failure_;
      failure_ = nullptr;
      std::rethrow_exception(failure);
    }
  }

  void claim_all() {
    for (uint64_t ticket = ticket_.load(std::memory_order_acquire);;) {
      if (ticket == stop || next_of(ticket) == tasks_of(ticket)) return;
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
      try {
        (*task_)(first_ + static_cast<int64_t>(next_of(ticket)));
      } catch (...) {
        std::lock_guard lock(failure_mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == tasks_of(ticket)) done_.notify_all();
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  void work() {
    for (;;) {
      const uint64_t ticket = ticket_.load(std::memory_order_acquire);
      if (ticket == stop) return;
      if (next_of(ticket) != tasks_of(ticket)) {
        claim_all();
      } else {
        pause_until_changed(ticket_, ticket);
      }
    }
  }

  // Phases follow each other closely, so it pays to watch the value for a few microseconds. Then the thread sleeps, since
  // other processes may need the core.
  static void pause_until_changed(const std::atomic<uint64_t>& value, uint64_t old) {
    for (int i = 0; i < 2000; ++i) {
      if (value.load(std::memory_order_relaxed) != old) return;
#if defined(__x86_64__) && defined(__GNUC__)
      __builtin_ia32_pause();
#endif
    }
    value.wait(old, std::memory_order_acquire);
  }

  std::vector<std::thread> workers_;
  std::atomic<uint64_t> ticket_{0};
  std::atomic<uint64_t> done_{0};
  uint64_t phase_ = 0;
  int64_t first_ = 0;
  const std::function<void(int64_t)>* task_ = nullptr;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace crfrnn
