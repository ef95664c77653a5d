// Native tests, meant to run under AddressSanitizer and UndefinedBehaviorSanitizer (`make sanitize`). Python's tests check the
// numbers. These take the same paths to check their use of memory, and identities that need no second implementation.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <new>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "exact.h"
#include "filter.h"
#include "grid.h"
#include "lattice.h"
#include "meanfield.h"

using namespace crfrnn;

namespace {

int failures = 0;

void check(bool condition, const char* what, int line) {
  if (condition) return;
  ++failures;
  std::printf("line %d: %s\n", line, what);
}
#define CHECK(condition) check(condition, #condition, __LINE__)

std::mt19937 generator(7);

template <class T>
std::vector<T> random_numbers(int64_t size, double scale = 1) {
  std::normal_distribution<double> normal(0, scale);
  std::vector<T> numbers(size);
  for (auto& x : numbers) x = static_cast<T>(normal(generator));
  return numbers;
}

template <class T>
double dot(const std::vector<T>& a, const std::vector<T>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

template <class T>
std::vector<T> filtered(const Kernel<T>& kernel, const std::vector<T>& values, int64_t columns, bool transpose, int threads) {
  std::vector<T> result(values.size(), std::numeric_limits<T>::quiet_NaN());
  filter(kernel, values.data(), columns, transpose, threads, result.data());
  return result;
}

template <class T>
void filter_identities(const Kernel<T>& kernel, int64_t columns, double tolerance) {
  const auto x = random_numbers<T>(kernel.num_points() * columns), y = random_numbers<T>(kernel.num_points() * columns);
  const auto forward = filtered(kernel, x, columns, false, 1), backward = filtered(kernel, y, columns, true, 1);
  CHECK(forward == filtered(kernel, x, columns, false, 3));
  const double scale = std::sqrt(dot(forward, forward) * dot(y, y));
  CHECK(std::abs(dot(forward, y) - dot(x, backward)) <= tolerance * scale);
}

template <class T>
void lattices(double tolerance) {
  for (int d : {1, 2, 3, 5, 7, 16})
    for (int64_t n : {1, 3, 500, 20011}) {
      if (d > 5 && n > 1000) continue;
      const auto features = random_numbers<T>(n * d, 3);
      std::vector<int32_t> batch(n);
      for (int64_t i = 0; i < n; ++i) batch[i] = static_cast<int32_t>(i % 3);
      for (int rounds : {0, 1}) {
        if (rounds > 0 && n > 1000) continue;
        const Lattice<T> lattice(features.data(), n, d, rounds ? batch.data() : nullptr, rounds, 2);
        for (int64_t columns : {1, 2, 3, 5, 21, 70}) filter_identities(lattice, columns, tolerance);
        std::vector<int32_t> neighbours((d + 1) * lattice.num_vertices() * 2);
        lattice.neighbours(neighbours.data());
        CHECK(std::all_of(neighbours.begin(), neighbours.end(),
                          [&](int32_t v) { return v >= -1 && v < lattice.num_vertices(); }));
      }
    }
  // Keys of more than one word.
  const auto spread = random_numbers<T>(300 * 12, 2000);
  filter_identities(Lattice<T>(spread.data(), 300, 12, nullptr, 0, 1), 2, tolerance);
}

template <class T>
void grids(double tolerance) {
  const std::vector<std::vector<int64_t>> shapes{{1}, {37}, {70, 90}, {9, 1, 11}, {3, 4, 5, 130}};
  for (const auto& shape : shapes) {
    const std::vector<double> sigmas(shape.size(), 1.7);
    const GridGaussian<T> grid(shape, sigmas);
    for (int64_t columns : {1, 3, 21}) filter_identities(grid, columns, tolerance);
  }
}

template <class T>
void exact_kernels(double tolerance) {
  for (int d : {1, 5, 40})
    for (int64_t n : {1, 63, 64, 65, 500}) {
      const auto features = random_numbers<T>(n * d, 3);
      const ExactGaussian<T> kernel(features.data(), n, d);
      for (int64_t columns : {1, 2, 3, 5, 21, 70}) filter_identities(kernel, columns, tolerance);
    }
  // Several chunks of points, so far apart that most pairs of blocks are left out.
  const auto spread = random_numbers<T>(17000 * 5, 20);
  filter_identities(ExactGaussian<T>(spread.data(), 17000, 5), 3, tolerance);
}

// Loops over rows and columns against sums in double, for all widths of rows and numbers of them that leave remainders.
template <class T>
void softmax_loops(double tolerance) {
  for (int channels : {1, 2, 4, 8, 16, 24, 40})
    for (int64_t n : {1, 3, 16, 61, 64}) {
      const auto scores = random_numbers<T>(64 * channels, channels == 1 ? 100 : 15);
      std::vector<T> sum = random_numbers<T>(64), q(64 * channels);
      for (T& x : sum) x = std::abs(x);
      std::fill(sum.begin() + n, sum.end(), T(1e6));  // is not seen
      double share = 0;
      const T largest_share = loops<T>().softmax_with_rest(scores.data(), sum.data(), q.data(), channels, n);
      for (int64_t i = 0; i < n; ++i) {
        double total = sum[i], off = 0;
        for (int c = 0; c < channels; ++c) total += std::exp(double(scores[i * channels + c]));
        for (int c = 0; c < channels; ++c)
          off = std::max(off, std::abs(q[i * channels + c] - std::exp(double(scores[i * channels + c])) / total));
        CHECK(off <= tolerance);
        share = std::max(share, sum[i] / total);
      }
      CHECK(std::abs(largest_share - share) <= tolerance);
      if (channels == 1) continue;
      std::vector<T> alone(64 * channels), none(64, T(0));
      loops<T>().softmax(scores.data(), alone.data(), channels, n);
      CHECK(loops<T>().softmax_with_rest(scores.data(), none.data(), q.data(), channels, n) == 0);
      for (int64_t i = 0; i < n * channels; ++i) CHECK(std::abs(q[i] - alone[i]) <= tolerance);
    }
}

template <class T>
void column_loops(double tolerance) {
  for (int64_t n : {1, 2, 7, 8, 15, 16, 33, 64}) {
    const auto scores = random_numbers<T>(n, 4), others = random_numbers<T>(n, 4), factor = random_numbers<T>(n);
    std::vector<T> top = others, positive = factor, terms(n), sum(n, T(2)), tangents(n);
    for (T& x : positive) x = std::abs(x);
    loops<T>().raise(scores.data(), top.data(), n);
    loops<T>().add_exponentials(scores.data(), top.data(), terms.data(), sum.data(), n);
    loops<T>().tanh(scores.data(), tangents.data(), n);
    double largest = 0, off = 0;
    for (int64_t i = 0; i < n; ++i) {
      CHECK(top[i] == std::max(scores[i], others[i]));
      const double e = std::exp(double(scores[i] - top[i]));
      off = std::max(off, std::abs(sum[i] - 2 - e));
      off = std::max(off, std::abs(tangents[i] - std::tanh(double(scores[i]))));
      largest = std::max(largest, e * positive[i]);
    }
    CHECK(off <= tolerance);
    const T ends[3] = {0, std::numeric_limits<T>::max(), std::numeric_limits<T>::lowest()};
    loops<T>().tanh(ends, tangents.data(), std::min<int64_t>(n, 3));
    for (int64_t i = 0; i < std::min<int64_t>(n, 3); ++i) CHECK(tangents[i] == (i == 0 ? 0 : i == 1 ? 1 : -1));
    CHECK(std::abs(loops<T>().largest_product(terms.data(), positive.data(), n) - largest) <= tolerance);
  }
}

template <class T>
void loops_of_changes() {
  for (int channels : {1, 2, 4, 8, 24, 40, 72}) {
    for (int64_t n : {1, 5, run_size}) {
      auto q = random_numbers<T>(n * channels), sent = random_numbers<T>(n * channels), difference = q;
      for (T& x : q) x = std::abs(x);
      T found[3], largest = 0, total = 0, least_top = std::numeric_limits<T>::max();
      loops<T>().compare_run(q.data(), sent.data(), difference.data(), found, channels, n);
      for (int64_t i = 0; i < n; ++i) {
        T change = 0, top = 0;
        for (int64_t k = i * channels; k < (i + 1) * channels; ++k) {
          CHECK(difference[k] == q[k] - sent[k]);
          change = std::max(change, std::abs(q[k] - sent[k])), top = std::max(top, q[k]);
        }
        largest = std::max(largest, change), total += change, least_top = std::min(least_top, top);
      }
      CHECK(found[0] == largest && found[1] == total && found[2] == least_top);
    }
    // Rows of vertices, in planes of a cache line (simd.h).
    const int64_t count = 37, begin = 3, end = 30;
    constexpr int line = 64 / sizeof(T);
    const auto values = random_numbers<T>(count * channels), old = random_numbers<T>(count * channels);
    auto before = old, change = random_numbers<T>(count);
    const auto untouched = change;
    loops<T>().follow(values.data(), before.data(), count, change.data(), channels, begin, end);
    for (int64_t v = 0; v < count; ++v) {
      T largest = 0;
      const bool inside = v >= begin && v < end;
      for (int c = 0; c < channels; ++c) {
        const int first = c / line * line, width = std::min(line, channels - first);
        const int64_t at = first * count + v * width + c - first;
        largest = std::max(largest, std::abs(values[at] - old[at]));
        CHECK(before[at] == (inside ? values : old)[at]);
      }
      CHECK(change[v] == (inside ? largest : untouched[v]));
    }
  }
}

void thrown(const std::function<void()>& work, int line) {
  try {
    work();
    check(false, "no exception", line);
  } catch (const std::invalid_argument&) {
  }
}

void bad_input() {
  std::vector<double> features{0, std::nan(""), 1, 2};
  thrown([&] { Lattice<double>(features.data(), 2, 2, nullptr, 0, 2); }, __LINE__);
  features[1] = 1e300;
  thrown([&] { Lattice<double>(features.data(), 2, 2, nullptr, 0, 1); }, __LINE__);
  thrown([&] { Lattice<double>(features.data(), 2, 17, nullptr, 0, 1); }, __LINE__);
  thrown([&] { Lattice<double>(features.data(), 0, 2, nullptr, 0, 1); }, __LINE__);
  thrown([&] { ExactGaussian<double>(features.data(), 0, 2); }, __LINE__);
  thrown([&] { ExactGaussian<double>(features.data(), 4, 0); }, __LINE__);
  thrown([] { GridGaussian<double>({4}, {-1.0}); }, __LINE__);
  thrown([] { GridGaussian<double>({4, 0}, {1.0, 1.0}); }, __LINE__);
  thrown([] { GridGaussian<float>({int64_t{1} << 40}, {1e10}); }, __LINE__);
  thrown([] { GridGaussian<float>({longest_axis + 1}, {1.0}); }, __LINE__);
}

// Sizes that do not fit, and more memory than a lattice may take, are std::bad_alloc.
void too_large() {
  auto is_refused = [](const std::function<void()>& work, int line) {
    try {
      work();
      check(false, "no exception", line);
    } catch (const std::bad_alloc&) {
    }
  };
  is_refused([] { Buffer<double> memory(std::numeric_limits<int64_t>::max()); }, __LINE__);
  is_refused([] { Buffer<double> memory(-1); }, __LINE__);
  is_refused([] { product_of({int64_t{1} << 40, int64_t{1} << 40}); }, __LINE__);
  CHECK(product_of({3, 0, int64_t{1} << 62}) == 0);
  const int64_t axis = longest_axis;
  is_refused([=] { GridGaussian<float>({axis, axis, axis}, {1.0, 1.0, 1.0}); }, __LINE__);
  const auto rough = random_numbers<float>(200 * 8, 30);
  is_refused([&] { Lattice<float>(rough.data(), 200, 8, nullptr, 2, 1, 100'000); }, __LINE__);
}

// Scores that leave their precision are refused, at the end or on the way.
void overflow() {
  const std::vector<float> unary{1, -1, 2, 0, 1, 3};
  const GridGaussian<float> kernel({2}, {1.0});
  const float largest = std::numeric_limits<float>::max();
  for (const float weight : {-largest, largest})
    for (const int iterations : {1, 4}) {
      const std::vector<Pairwise<float>> terms(2, {&kernel, nullptr, nullptr, Pairwise<float>::Coupling::scalar, &weight});
      const MeanFieldSettings settings{{3, 2}, iterations, 0, 0, 0, 2};
      std::vector<int32_t> labels(2);
      thrown(
          [&] {
            mean_field<float>(settings, unary.data(), terms, {MeanFieldResult<float>::Form::labels, nullptr, labels.data()},
                              {});
          },
          __LINE__);
    }
}

// Points far from the origin have weights that sum to 1.
void far_points() {
  for (const int d : {1, 5, 16}) {
    auto features = random_numbers<float>(100 * d, 3);
    for (std::size_t i = 0; i < features.size(); i += 2) features[i] += 1e5f;
    const Lattice<float> lattice(features.data(), 100, d, nullptr, 0, 2);
    for (int64_t i = 0; i < 100; ++i) {
      const float* const weights = lattice.weights() + i * (d + 1);
      CHECK(std::abs(std::accumulate(weights, weights + d + 1, 0.0) - 1) < 4e-6);
    }
  }
}

// Compares the vector-Jacobian product with central differences of ⟨result, cotangent⟩ along a random direction, in scores and
// couplings together.
void gradients() {
  const int64_t height = 13, width = 17, n = height * width;
  const auto features = random_numbers<double>(n * 3, 1);
  const Lattice<double> lattice(features.data(), n, 3, nullptr, 0, 1);
  const GridGaussian<double> grid({height, width}, {1.5, 0.0});
  auto positive = random_numbers<double>(n);
  for (auto& x : positive) x = 0.02 + 0.01 * std::abs(x);
  using Term = Pairwise<double>;
  using Form = MeanFieldResult<double>::Form;
  for (int classes : {1, 2, 3, 9, 21, 37})
    for (double damping : {0.0, 0.3})
      for (int threads : {1, 2}) {
        const MeanFieldSettings settings{{classes, n, false}, 3, damping, 0, 0, threads};
        const auto unary = random_numbers<double>(classes * n), cotangent = random_numbers<double>(classes * n);
        const auto matrix = random_numbers<double>(classes * classes, 0.3), diagonal = random_numbers<double>(classes, 0.3);
        const std::vector<double> scalar{-0.4};
        const std::vector<const std::vector<double>*> couplings{&matrix, &diagonal, &scalar};
        const std::vector<Term::Coupling> kinds{Term::Coupling::matrix, Term::Coupling::per_class, Term::Coupling::scalar};
        std::vector<std::vector<double>> direction, gradient;
        for (const auto* coupling : couplings) {
          direction.push_back(random_numbers<double>(static_cast<int64_t>(coupling->size())));
          gradient.emplace_back(coupling->size());
        }
        const auto unary_direction = random_numbers<double>(classes * n);
        const int64_t kept_size = 3 * n * padded_channels(classes);
        std::vector<double> numbers(kept_size), unary_gradient(classes * n), result(classes * n);
        const KeptMarginals<double> marginals(numbers.data(), Storage::computed, n, padded_channels(classes));
        auto value = [&](double step, bool keep) {
          std::vector<std::vector<double>> moved;
          std::vector<Term> terms;
          for (std::size_t k = 0; k < couplings.size(); ++k) {
            moved.push_back(*couplings[k]);
            for (std::size_t i = 0; i < moved[k].size(); ++i) moved[k][i] += step * direction[k][i];
            const Kernel<double>* kernel = k == 1 ? static_cast<const Kernel<double>*>(&grid) : &lattice;
            terms.push_back(
                {kernel, k == 2 ? positive.data() : nullptr, k != 0 ? positive.data() : nullptr, kinds[k], nullptr});
          }
          for (std::size_t k = 0; k < couplings.size(); ++k) terms[k].coupling = moved[k].data();
          auto scores = unary;
          for (std::size_t i = 0; i < scores.size(); ++i) scores[i] += step * unary_direction[i];
          mean_field<double>(settings, scores.data(), terms, {Form::logits, [&] { return result.data(); }},
                             keep ? marginals : KeptMarginals<double>());
          if (keep) {
            std::vector<double*> pointers;
            for (auto& g : gradient) pointers.push_back(g.data());
            mean_field_vjp(settings, cotangent.data(), marginals, terms, unary_gradient.data(), pointers);
          }
          return dot(result, cotangent);
        };
        value(0, true);
        double slope = dot(unary_gradient, unary_direction);
        for (std::size_t k = 0; k < couplings.size(); ++k) slope += dot(gradient[k], direction[k]);
        const double step = 1e-6, numeric = (value(step, false) - value(-step, false)) / (2 * step);
        CHECK(std::abs(slope - numeric) <= 1e-5 * (1 + std::abs(numeric)));
      }
}

// 16 bits hold every number of theirs exactly, and those between are rounded to the nearest.
template <class T>
void sixteen_bits() {
  std::vector<T> numbers, back;
  for (int bits = 0; bits <= 0x3c00; ++bits)
    numbers.push_back(T(bits < 0x400 ? std::ldexp(bits, -24) : std::ldexp(1024 + bits % 1024, bits / 1024 - 25)));
  const auto size = static_cast<int64_t>(numbers.size());
  std::vector<uint16_t> stored(numbers.size());
  back.resize(numbers.size());
  loops<T>().to_float16(numbers.data(), stored.data(), size);
  for (int64_t i = 0; i < size; ++i) CHECK(stored[i] == i);
  loops<T>().from_float16(stored.data(), back.data(), size);
  CHECK(back == numbers);
  for (int64_t i = 0; i + 1 < size; ++i) back[i] = (numbers[i] + numbers[i + 1]) / 2;  // ties go to the even one
  loops<T>().to_float16(back.data(), stored.data(), size);
  for (int64_t i = 0; i + 1 < size; ++i) CHECK(stored[i] == (i + 1) / 2 * 2);
  numbers = {T(0), T(1), T(0.5), T(1 + 1.0 / 256), T(1 + 3.0 / 256), T(1e-30)};
  loops<T>().to_bfloat16(numbers.data(), stored.data(), 6);
  loops<T>().from_bfloat16(stored.data(), back.data(), 6);
  CHECK(back[0] == 0 && back[1] == 1 && back[2] == T(0.5) && back[3] == 1 && back[4] == T(1 + 4.0 / 256));
  CHECK(std::abs(back[5] / T(1e-30) - 1) <= T(1.0 / 256));
}

// Classes are let go between iterations. At a threshold that all of them reach, nothing changes. At any threshold the bits are
// the same for any number of threads.
void classes_left_out() {
  const int64_t height = 61, width = 283, n = height * width;  // three chunks
  const GridGaussian<float> grid({height, width}, {3.0, 3.0});
  using Form = MeanFieldResult<float>::Form;
  const auto raw = random_numbers<float>(21 * n);
  for (int classes : {2, 9, 21})
    for (double damping : {0.0, 0.3})
      for (auto kind : {Pairwise<float>::Coupling::scalar, Pairwise<float>::Coupling::matrix}) {
        std::vector<float> coupling(classes * classes, 0.001f);
        for (int c = 0; c < classes; ++c) coupling[c * (classes + 1)] = -0.05f;
        const std::vector<Pairwise<float>> terms{{&grid, nullptr, nullptr, kind, coupling.data()}};
        auto run = [&](double threshold, int threads) {
          auto unary = std::vector<float>(raw.begin(), raw.begin() + classes * n);
          for (int c = 0; c < classes; ++c)
            for (int64_t i = 0; i < n; ++i) unary[c * n + i] -= static_cast<float>(c);
          std::vector<float> result(classes * n);
          mean_field<float>({{classes, n, false}, 6, damping, threshold, 0, threads}, unary.data(), terms,
                            {Form::probabilities, [&] { return result.data(); }}, {});
          return result;
        };
        CHECK(run(1e-30, 1) == run(0, 1));
        const auto few = run(0.5, 1);
        CHECK(few == run(0.5, 2));
        CHECK((few != run(0, 1)) == (classes > 2));
      }
}

// Few runs are followed: most of the points are settled. The bits are the same for any number of threads, and near those of
// working everything out.
void runs_followed() {
  const int64_t height = 120, width = 241, n = height * width;
  const auto features = random_numbers<float>(n * 2, 4);
  const Lattice<float> lattice(features.data(), n, 2, nullptr, 0, 1);
  const GridGaussian<float> grid({height, width}, {2.0, 2.0});
  const std::vector<float> scalar{-0.02f}, factors(n, 0.5f);
  using Term = Pairwise<float>;
  for (const bool both : {true, false})
    for (int classes : {2, 5, 21}) {
      std::vector<Term> terms{{&grid, factors.data(), factors.data(), Term::Coupling::scalar, scalar.data()}};
      if (both) terms.push_back({&lattice, nullptr, nullptr, Term::Coupling::scalar, scalar.data()});
      auto unary = random_numbers<float>(classes * n, 0.3);
      for (int64_t i = 2000; i < n; ++i) unary[i] += 14;
      auto run = [&](double tolerance, int threads, Activity* activity) {
        std::vector<float> result(classes * n);
        mean_field<float>({{classes, n, false}, 8, 0, 0, tolerance, threads, activity}, unary.data(), terms,
                          {MeanFieldResult<float>::Form::probabilities, [&] { return result.data(); }}, {});
        return result;
      };
      Activity activity;
      activity.evaluated = Buffer<uint8_t>(8 * n);
      const auto found = run(1e-3, 1, &activity), dense = run(0, 1, nullptr);
      double off = 0;
      for (std::size_t i = 0; i < found.size(); ++i) off = std::max(off, std::abs(double(found[i]) - dense[i]));
      CHECK(off <= 2e-3);
      CHECK(std::count(activity.evaluated.begin(), activity.evaluated.end(), 0) > n);
      CHECK(found == run(1e-3, 3, nullptr));
    }
}

}  // namespace

int main() {
  lattices<double>(1e-12);
  lattices<float>(1e-5);
  grids<double>(1e-12);
  grids<float>(1e-5);
  exact_kernels<double>(1e-12);
  exact_kernels<float>(1e-5);
  softmax_loops<double>(1e-14);
  softmax_loops<float>(1e-6);
  column_loops<double>(1e-14);
  column_loops<float>(1e-6);
  loops_of_changes<double>();
  loops_of_changes<float>();
  bad_input();
  too_large();
  overflow();
  far_points();
  gradients();
  classes_left_out();
  sixteen_bits<float>();
  sixteen_bits<double>();
  runs_followed();
  std::printf("%s: %d failures\n", instruction_set(), failures);
  return failures != 0;
}
