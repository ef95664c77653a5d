// Native tests, meant to run under AddressSanitizer and UndefinedBehaviorSanitizer (`make sanitize`). Python's tests check the
// numbers. These take the same paths to check their use of memory, and identities that need no second implementation.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
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

}  // namespace

int main() {
  lattices<double>(1e-12);
  lattices<float>(1e-5);
  grids<double>(1e-12);
  grids<float>(1e-5);
  exact_kernels<double>(1e-12);
  exact_kernels<float>(1e-5);
  bad_input();
  gradients();
  classes_left_out();
  sixteen_bits<float>();
  sixteen_bits<double>();
  std::printf("%s: %d failures\n", instruction_set(), failures);
  return failures != 0;
}
