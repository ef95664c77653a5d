// The core as JavaScript sees it: C functions over pointers into the memory of the module. package/engine.js calls them, once
// package/checks.js has checked what users give. Numbers are float, as photos and scores in a browser are.
#include <algorithm>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "buffer.h"
#include "exact.h"
#include "filter.h"
#include "grid.h"
#include "lattice.h"
#include "meanfield.h"

namespace {

using namespace crfrnn;

std::string failure;            // what the last call that failed has to say
bool is_out_of_memory = false;  // and whether that is about memory

// Calls work() and returns its result, or `failed` after an exception. Kept memory is given back before memory counts as used
// up, and work() starts again.
template <class Result, class Work>
Result attempt(Result failed, const Work& work) {
  for (const bool again : {true, false}) {
    try {
      is_out_of_memory = false;
      return work();
    } catch (const std::bad_alloc& error) {
      if (again && release_kept() > 0) continue;
      failure = error.what(), is_out_of_memory = true;
      return failed;
    } catch (const std::exception& error) {
      failure = error.what();
      return failed;
    }
  }
  return failed;
}

// What the blur of a lattice makes of the values of vertices, which points have sent.
Buffer<float> blurred(const Lattice<float>& lattice, const float* values, int threads) {
  TileTeam points(lattice.num_points(), threads);
  const auto message = lattice.message(1);
  points.over_tiles<float>(1, [&](const Tile& tile, float*, float*, float*) {
    if (tile.opens_chunk) message->open(tile.chunk);
    message->send(tile.begin, tile.n, values + tile.begin, nullptr);
  });
  message->propagate(points.team, false);
  return message->release_values();
}

std::vector<float> splatted(const Lattice<float>& lattice, const float* values) {
  const int corners = lattice.num_features() + 1;
  std::vector<float> sums(lattice.num_vertices(), 0);
  for (int64_t i = 0; i < lattice.num_points() * corners; ++i)
    sums[lattice.vertices()[i]] += lattice.weights()[i] * values[i / corners];
  return sums;
}

}  // namespace

extern "C" {

// A term of the mean field as JavaScript writes it: six words of 32 bits.
struct Term {
  const Kernel<float>* kernel;
  const float *pre, *post;  // factors of points, or null
  int32_t axes;             // of the coupling: 0 a number, 1 one for each class, 2 a matrix
  const float* coupling;
  float row_sum;
};

const char* crfrnn_failure() { return failure.c_str(); }
bool crfrnn_is_out_of_memory() { return is_out_of_memory; }
void crfrnn_release_memory() { release_kept(); }

// Kernels, or null. features: points × dimensions, finite.
const Kernel<float>* crfrnn_lattice(const float* features, int points, int dimensions, int neighbour_rounds, int threads,
                                    double most_bytes) {
  return attempt<const Kernel<float>*>(nullptr, [&] {
    return new Lattice<float>(features, points, dimensions, nullptr, neighbour_rounds, threads,
                              static_cast<int64_t>(most_bytes));
  });
}
const Kernel<float>* crfrnn_grid(int height, int width, double sigma_y, double sigma_x) {
  return attempt<const Kernel<float>*>(
      nullptr, [&] { return new GridGaussian<float>({height, width}, std::vector<double>{sigma_y, sigma_x}); });
}
const Kernel<float>* crfrnn_exact(const float* features, int points, int dimensions) {
  return attempt<const Kernel<float>*>(nullptr, [&] { return new ExactGaussian<float>(features, points, dimensions); });
}
void crfrnn_free_kernel(const Kernel<float>* kernel) { delete kernel; }
int crfrnn_num_vertices(const Kernel<float>* lattice) {
  return static_cast<int>(static_cast<const Lattice<float>*>(lattice)->num_vertices());
}

// result = K · values, points × columns.
bool crfrnn_filter(const Kernel<float>* kernel, const float* values, int columns, int threads, float* result) {
  return attempt(false, [&] { return filter(*kernel, values, columns, false, threads, result), true; });
}

// What lies in a lattice on the way of a filter of one column: splat and blur are N numbers, those of the vertex nearest to
// each point, divided by what is there if all points send 1.
bool crfrnn_lattice_steps(const Kernel<float>* kernel, const float* values, int threads, float* splat, float* blur) {
  return attempt(false, [&] {
    const auto& lattice = *static_cast<const Lattice<float>*>(kernel);
    const std::vector<float> ones(lattice.num_points(), 1);
    const auto sent = splatted(lattice, values), sent_ones = splatted(lattice, ones.data());
    const auto spread = blurred(lattice, values, threads), spread_ones = blurred(lattice, ones.data(), 1);
    const int corners = lattice.num_features() + 1;
    for (int64_t i = 0; i < lattice.num_points(); ++i) {
      const float* const weights = lattice.weights() + i * corners;
      const int32_t vertex = lattice.vertices()[i * corners + (std::max_element(weights, weights + corners) - weights)];
      splat[i] = sent[vertex] / sent_ones[vertex];
      blur[i] = spread[vertex] / spread_ones[vertex];
    }
    return true;
  });
}

// unary: classes × points. form: 0 logits, 1 probabilities, each classes × points floats; 2 labels, int32. Returns how many
// iterations ran, or -1.
int crfrnn_mean_field(const float* unary, int classes, int points, const Term* terms, int num_terms, int iterations,
                      double damping, double class_threshold, double tolerance, int form, int threads, void* result) {
  return attempt(-1, [&] {
    using Form = MeanFieldResult<float>::Form;
    using Coupling = Pairwise<float>::Coupling;
    constexpr Coupling kinds[] = {Coupling::scalar, Coupling::per_class, Coupling::matrix};
    std::vector<Pairwise<float>> pairwise;
    for (const Term* term = terms; term < terms + num_terms; ++term)
      pairwise.push_back({term->kernel, term->pre, term->post, kinds[term->axes], term->coupling, term->row_sum});
    Activity activity;
    const MeanFieldSettings settings{{classes, points}, iterations, damping, class_threshold, tolerance, threads, &activity};
    const MeanFieldResult<float> to{form == 0   ? Form::logits
                                    : form == 1 ? Form::probabilities
                                                : Form::labels,
                                    [&] { return static_cast<float*>(result); }, static_cast<int32_t*>(result)};
    mean_field<float>(settings, unary, pairwise, to, {});
    return activity.iterations;
  });
}

}  // extern "C"
