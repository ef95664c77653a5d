// Calls from several threads at once, each with threads of its own, over the same kernels: meant to run under ThreadSanitizer
// (`make races`). Everything a call shares with others is here: kernels, memory that is kept between calls, and teams.
#include <atomic>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "buffer.h"
#include "exact.h"
#include "filter.h"
#include "grid.h"
#include "lattice.h"
#include "meanfield.h"
#include "team.h"

using namespace crfrnn;

namespace {

constexpr int64_t height = 90, width = 211, points = height * width;  // several chunks
constexpr int callers = 3, classes = 5;
std::atomic<int> failures{0};

void check(bool condition, const char* what) {
  if (condition) return;
  ++failures;
  std::printf("%s\n", what);
}

std::vector<float> random_numbers(int64_t size, double scale, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, scale);
  std::vector<float> numbers(size);
  for (auto& x : numbers) x = static_cast<float>(normal(generator));
  return numbers;
}

template <class Work>
void side_by_side(const Work& work) {
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; ++caller) threads.emplace_back([&work, caller] { work(caller); });
  for (auto& each : threads) each.join();
}

void many_teams() {
  side_by_side([](int caller) {
    for (int round = 0; round < 40; ++round) {
      Team team(2 + caller);
      std::vector<int64_t> done(57, 0);
      for (int phase = 0; phase < 5; ++phase) team.run(57, [&](int64_t i) { done[i] += i; });
      for (int64_t i = 0; i < 57; ++i) check(done[i] == 5 * i, "a task was lost");
      try {
        team.run(9, [&](int64_t i) {
          if (i % 4 == 3) throw std::runtime_error("a task");
        });
        check(false, "an exception of a task was lost");
      } catch (const std::runtime_error&) {
      }
      team.run(9, [&](int64_t i) { done[i] = 0; });
    }
  });
}

void kept_memory() {
  side_by_side([](int caller) {
    for (int round = 0; round < 60; ++round) {
      Buffer<float> one((1 << 18) + caller * 1000), other(1 << 19);
      one[0] = other[0] = 1;
      if (round % 16 == 0) release_kept();
    }
  });
}

void shared_kernels() {
  const auto features = random_numbers(points * 3, 6, 1), scores = random_numbers(classes * points, 2, 2);
  const Lattice<float> lattice(features.data(), points, 3, nullptr, 0, 2);
  const GridGaussian<float> grid({height, width}, {2.0, 2.0});
  const ExactGaussian<float> exact(features.data(), 2000, 3);
  const std::vector<float> coupling{-0.3f}, half(points, 0.5f);
  using Term = Pairwise<float>;
  const std::vector<Term> terms{{&lattice, half.data(), nullptr, Term::Coupling::scalar, coupling.data()},
                                {&grid, nullptr, half.data(), Term::Coupling::scalar, coupling.data()}};
  auto solved = [&](double tolerance, int threads) {
    std::vector<float> result(classes * points);
    mean_field<float>({{classes, points, false}, 4, 0, 0, tolerance, threads}, scores.data(), terms,
                      {MeanFieldResult<float>::Form::probabilities, [&] { return result.data(); }}, {});
    return result;
  };
  auto summed = [&](int threads) {
    std::vector<float> result(2000);
    filter(exact, scores.data(), 1, false, threads, result.data());
    return result;
  };
  const auto dense = solved(0, 1), near = solved(1e-3, 1), sums = summed(1);
  side_by_side([&](int caller) {
    check(solved(0, 2 + caller) == dense, "other bits");
    check(solved(1e-3, 2 + caller) == near, "other bits with a tolerance");
    check(summed(2 + caller) == sums, "other bits of the exact kernel");
    const Lattice<float> again(features.data(), points, 3, nullptr, 0, 2 + caller);
    check(again.num_vertices() == lattice.num_vertices(), "other vertices");
  });
}

}  // namespace

int main() {
  many_teams();
  kept_memory();
  shared_kernels();
  std::printf("%d failures\n", failures.load());
  return failures != 0;
}
