// The core as Python sees it. Functions check shapes, release the GIL and call the core. The Python modules of the package
// convert what users give, and explain what is wrong with it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>

#include "exact.h"
#include "filter.h"
#include "grid.h"
#include "lattice.h"
#include "meanfield.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace crfrnn {
namespace {

template <class T, class... Shape>
using In = nb::ndarray<const T, nb::numpy, nb::c_contig, nb::device::cpu, Shape...>;
template <class T>
using Rows = In<T, nb::shape<-1, -1>>;
// Classes × points, either of them contiguous.
template <class T>
using Scores = nb::ndarray<const T, nb::numpy, nb::device::cpu, nb::shape<-1, -1>>;
template <class T>
using Factors = In<T, nb::shape<-1>>;
template <class T>
using Out = nb::ndarray<nb::numpy, T>;

// A NumPy array that owns the buffer, C-contiguous without strides.
template <class T>
Out<T> as_array(Buffer<T> buffer, std::initializer_list<std::size_t> shape, std::initializer_list<int64_t> strides = {}) {
  auto owned = std::make_unique<Buffer<T>>(std::move(buffer));
  T* data = owned->get();
  nb::capsule owner(owned.get(), [](void* p) noexcept { delete static_cast<Buffer<T>*>(p); });
  owned.release();
  return Out<T>(data, shape, owner, strides);
}

template <class T>
Out<T> new_array(std::initializer_list<std::size_t> shape, T** data) {
  int64_t size = 1;
  for (const auto length : shape) size = product_of({size, static_cast<int64_t>(length)});
  Buffer<T> buffer(size);
  *data = buffer.get();
  return as_array(std::move(buffer), shape);
}

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

template <class T>
int feature_count(const Rows<T>& features) {
  return static_cast<int>(std::min<std::size_t>(features.shape(1), std::numeric_limits<int>::max()));  // more than any takes
}

// Throws std::invalid_argument if scores are neither class-major nor point-major.
template <class T>
ScoreLayout layout_of(const Scores<T>& scores) {
  const auto classes = static_cast<int64_t>(scores.shape(0)), points = static_cast<int64_t>(scores.shape(1));
  require(classes > 0 && points > 0, "scores need classes and points");
  require(classes <= most_classes, "scores have more classes than the 2^24 that a mean field takes");
  auto steps = [&](int64_t of_class, int64_t of_point) {
    return (classes == 1 || scores.stride(0) == of_class) && (points == 1 || scores.stride(1) == of_point);
  };
  const ScoreLayout layout{static_cast<int>(classes), points, !steps(points, 1)};
  require(!layout.point_major || steps(1, classes), "scores need to be contiguous, class after class or point after point");
  return layout;
}

// An array of classes × points over a buffer of that layout.
template <class T>
Out<T> scores_array(Buffer<T> buffer, const ScoreLayout& layout) {
  const auto classes = static_cast<std::size_t>(layout.classes), points = static_cast<std::size_t>(layout.points);
  if (!layout.point_major) return as_array(std::move(buffer), {classes, points}, {layout.points, 1});
  return as_array(std::move(buffer), {classes, points}, {1, layout.classes});
}

template <class T>
Out<T> filter_array(const Kernel<T>& kernel, const Rows<T>& values, bool transpose, int threads) {
  require(static_cast<int64_t>(values.shape(0)) == kernel.num_points(), "values need one row for each point");
  T* result;
  auto array = new_array<T>({values.shape(0), values.shape(1)}, &result);
  nb::gil_scoped_release unlocked;
  filter(kernel, values.data(), static_cast<int64_t>(values.shape(1)), transpose, threads, result);
  return array;
}

// An array for a gradient to what a kernel was built from.
template <class T>
Out<T> gradient_array(const Kernel<T>& kernel, T** data) {
  const auto shape = kernel.gradient_shape();
  return shape.size() == 1 ? new_array<T>({shape[0]}, data) : new_array<T>({shape[0], shape[1]}, data);
}

template <class T>
Out<T> filter_gradient_array(const Kernel<T>& kernel, const Rows<T>& values, const Rows<T>& cotangent, int threads) {
  require(static_cast<int64_t>(values.shape(0)) == kernel.num_points() && cotangent.shape(0) == values.shape(0) &&
              cotangent.shape(1) == values.shape(1),
          "values and cotangent need one row for each point, and as many columns");
  T* result;
  auto array = gradient_array(kernel, &result);
  nb::gil_scoped_release unlocked;
  filter_gradient(kernel, values.data(), cotangent.data(), static_cast<int64_t>(values.shape(1)), threads, result);
  return array;
}

template <class T>
using OptionalFactors = std::vector<std::optional<Factors<T>>>;

template <class T>
std::vector<Pairwise<T>> pairwise_terms(const ScoreLayout& layout, const std::vector<const Kernel<T>*>& kernels,
                                        const OptionalFactors<T>& pre, const OptionalFactors<T>& post,
                                        const std::vector<In<T>>& couplings, const std::vector<double>& row_sums = {}) {
  using Coupling = typename Pairwise<T>::Coupling;
  require(kernels.size() == pre.size() && kernels.size() == post.size() && kernels.size() == couplings.size() &&
              (row_sums.empty() || kernels.size() == row_sums.size()),
          "pre, post, couplings and row_sums need one entry for each kernel");
  std::vector<Pairwise<T>> terms;
  auto factors = [&](const std::optional<Factors<T>>& f) -> const T* {
    if (!f) return nullptr;
    require(static_cast<int64_t>(f->shape(0)) == layout.points, "pre and post need one factor for each point");
    return f->data();
  };
  for (std::size_t k = 0; k < kernels.size(); ++k) {
    require(kernels[k]->num_points() == layout.points, "every kernel needs as many points as the scores");
    const auto& coupling = couplings[k];
    require(coupling.ndim() <= 2, "a coupling is a number, one per class, or classes x classes");
    for (std::size_t axis = 0; axis < coupling.ndim(); ++axis)
      require(static_cast<int64_t>(coupling.shape(axis)) == layout.classes, "a coupling needs as many classes as the scores");
    const Coupling kind = coupling.ndim() == 0   ? Coupling::scalar
                          : coupling.ndim() == 1 ? Coupling::per_class
                                                 : Coupling::matrix;
    terms.push_back({kernels[k], factors(pre[k]), factors(post[k]), kind, coupling.data(), row_sums.empty() ? 0 : row_sums[k]});
  }
  return terms;
}

// Marginals that were kept, in NumPy: a bfloat16 is uint16 there.
using Kept = nb::ndarray<nb::numpy, nb::c_contig, nb::device::cpu, nb::ndim<3>>;
using AnyKept = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu, nb::ndim<3>>;

template <class T>
nb::dlpack::dtype dtype_of(Storage storage) {
  if (storage == Storage::computed) return nb::dtype<T>();
  if (storage == Storage::bfloat16) return nb::dtype<uint16_t>();
  return {static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
}

// An array for the marginals of all iterations; without a storage it is empty.
template <class T>
std::pair<Kept, KeptMarginals<T>> new_marginals(int iterations, const ScoreLayout& layout, std::optional<Storage> storage,
                                                KeptMessages<T>* messages) {
  const Storage kind = storage.value_or(Storage::computed);
  const int channels = padded_channels(layout.classes);
  const std::size_t shape[] = {storage ? std::size_t(iterations) : 0, std::size_t(layout.points), std::size_t(channels)};
  const int64_t itemsize = kind == Storage::computed ? sizeof(T) : 2;
  auto owned = std::make_unique<Buffer<uint8_t>>(product_of({storage ? iterations : 0, layout.points, channels, itemsize}));
  void* data = owned->get();
  nb::capsule owner(owned.get(), [](void* p) noexcept { delete static_cast<Buffer<uint8_t>*>(p); });
  owned.release();
  return {Kept(data, 3, shape, owner, nullptr, dtype_of<T>(kind)),
          storage ? KeptMarginals<T>(data, kind, layout.points, channels, messages) : KeptMarginals<T>()};
}

template <class T>
KeptMarginals<T> marginals_of(const AnyKept& array, const ScoreLayout& layout, KeptMessages<T>* messages) {
  const int channels = padded_channels(layout.classes);
  require(static_cast<int64_t>(array.shape(1)) == layout.points && static_cast<int>(array.shape(2)) == channels,
          "marginals are not those that mean_field kept for scores of this shape");
  for (const auto storage : {Storage::computed, Storage::float16, Storage::bfloat16})
    if (array.dtype() == dtype_of<T>(storage))
      return {const_cast<void*>(array.data()), storage, layout.points, channels, messages};
  throw std::invalid_argument("marginals need the precision of the scores, float16, or bfloat16 as uint16");
}

// What a mean field did: how many iterations ran, how many classes sent in each, and, if asked, the points worked out in
// each (iterations asked for × points).
using Happened = std::tuple<int, std::vector<int>, std::optional<Out<uint8_t>>>;

// The points are recorded where there is memory for them.
Activity new_activity(int iterations, int64_t points, bool return_evaluated) {
  Activity activity;
  if (return_evaluated) activity.evaluated = Buffer<uint8_t>(product_of({iterations, points}));
  return activity;
}

Happened happened(Activity activity, const MeanFieldSettings& settings, bool return_evaluated) {
  const auto& layout = settings.scores;
  if (!return_evaluated) return {activity.iterations, std::move(activity.classes), std::nullopt};
  const auto rows = static_cast<std::size_t>(settings.iterations), points = static_cast<std::size_t>(layout.points);
  return {activity.iterations, std::move(activity.classes), as_array(std::move(activity.evaluated), {rows, points})};
}

template <class T>
std::tuple<Out<T>, Kept, Happened, nb::object> mean_field_array(
    const Scores<T>& unary, const std::vector<const Kernel<T>*>& kernels, const OptionalFactors<T>& pre,
    const OptionalFactors<T>& post, const std::vector<In<T>>& couplings, const std::vector<double>& row_sums, int iterations,
    double damping, double class_threshold, double tolerance, std::optional<Storage> keep, bool keep_messages,
    bool return_probabilities, bool return_evaluated, int threads) {
  require(iterations >= 0, "mean_field needs iterations >= 0");
  require((class_threshold == 0 && tolerance == 0) || !keep,
          "mean_field keeps the marginals of all classes and points or of none");
  const auto layout = layout_of(unary);
  Activity activity = new_activity(iterations, layout.points, return_evaluated);
  const MeanFieldSettings settings{layout, iterations, damping, class_threshold, tolerance, threads, &activity};
  const auto terms = pairwise_terms(layout, kernels, pre, post, couplings, row_sums);
  Buffer<T> scores;
  auto messages = keep_messages ? std::make_unique<KeptMessages<T>>() : nullptr;
  auto [array, marginals] = new_marginals<T>(iterations, layout, keep, messages.get());
  {
    nb::gil_scoped_release unlocked;
    auto new_scores = [&] {
      scores = Buffer<T>(layout.classes * layout.points);
      return scores.get();
    };
    using Form = typename MeanFieldResult<T>::Form;
    const MeanFieldResult<T> result{return_probabilities ? Form::probabilities : Form::logits, new_scores};
    mean_field(settings, unary.data(), terms, result, marginals);
  }
  return {scores_array(std::move(scores), layout), std::move(array), happened(std::move(activity), settings, return_evaluated),
          messages ? nb::cast(std::move(*messages)) : nb::none()};
}

template <class T>
std::pair<Out<int32_t>, Happened> mean_field_labels(const Scores<T>& unary, const std::vector<const Kernel<T>*>& kernels,
                                                    const OptionalFactors<T>& pre, const OptionalFactors<T>& post,
                                                    const std::vector<In<T>>& couplings, const std::vector<double>& row_sums,
                                                    int iterations, double damping, double class_threshold, double tolerance,
                                                    bool return_evaluated, int threads) {
  require(iterations >= 0, "mean_field needs iterations >= 0");
  const auto layout = layout_of(unary);
  Activity activity = new_activity(iterations, layout.points, return_evaluated);
  const MeanFieldSettings settings{layout, iterations, damping, class_threshold, tolerance, threads, &activity};
  const auto terms = pairwise_terms(layout, kernels, pre, post, couplings, row_sums);
  int32_t* labels;
  auto labels_array = new_array<int32_t>({unary.shape(1)}, &labels);
  {
    nb::gil_scoped_release unlocked;
    const MeanFieldResult<T> result{MeanFieldResult<T>::Form::labels, nullptr, labels};
    mean_field<T>(settings, unary.data(), terms, result, {});
  }
  return {std::move(labels_array), happened(std::move(activity), settings, return_evaluated)};
}

// Gradients to the unary and to the couplings; and, if asked, of each term to the kernel, and to pre and post if it has them.
template <class T>
using Gradients =
    std::tuple<Out<T>, std::vector<Out<T>>, std::vector<std::tuple<Out<T>, std::optional<Out<T>>, std::optional<Out<T>>>>>;

template <class T>
Gradients<T> mean_field_vjp_array(const Scores<T>& cotangent, const AnyKept& marginals, KeptMessages<T>* messages,
                                  const std::vector<const Kernel<T>*>& kernels, const OptionalFactors<T>& pre,
                                  const OptionalFactors<T>& post, const std::vector<In<T>>& couplings,
                                  const std::vector<double>& row_sums, double damping, double tolerance, bool guide,
                                  int threads) {
  const MeanFieldSettings settings{layout_of(cotangent), static_cast<int>(marginals.shape(0)), damping, 0, tolerance, threads};
  const auto& layout = settings.scores;
  const auto kept = marginals_of<T>(marginals, layout, messages);
  const auto terms = pairwise_terms(layout, kernels, pre, post, couplings, row_sums);
  Buffer<T> unary_gradient(layout.classes * layout.points);
  std::vector<Out<T>> arrays;
  std::vector<T*> gradients;
  std::vector<std::tuple<Out<T>, std::optional<Out<T>>, std::optional<Out<T>>>> term_arrays;
  std::vector<TermGradient<T>> term_gradients;
  const auto classes = cotangent.shape(0);
  for (const auto& term : terms) {
    using Coupling = typename Pairwise<T>::Coupling;
    T* gradient;
    if (term.kind == Coupling::scalar) {
      arrays.push_back(new_array<T>({}, &gradient));
    } else if (term.kind == Coupling::per_class) {
      arrays.push_back(new_array<T>({classes}, &gradient));
    } else {
      arrays.push_back(new_array<T>({classes, classes}, &gradient));
    }
    gradients.push_back(gradient);
    if (!guide) continue;
    TermGradient<T> to{};
    auto to_kernel = gradient_array(*term.kernel, &to.kernel);
    std::optional<Out<T>> to_pre, to_post;
    if (term.pre) to_pre = new_array<T>({cotangent.shape(1)}, &to.pre);
    if (term.post) to_post = new_array<T>({cotangent.shape(1)}, &to.post);
    term_arrays.emplace_back(std::move(to_kernel), std::move(to_pre), std::move(to_post));
    term_gradients.push_back(to);
  }
  {
    nb::gil_scoped_release unlocked;
    mean_field_vjp(settings, cotangent.data(), kept, terms, unary_gradient.get(), gradients, term_gradients);
  }
  return {scores_array(std::move(unary_gradient), layout), std::move(arrays), std::move(term_arrays)};
}

template <class T>
void bind(nb::module_& m, const std::string& bits) {
  nb::class_<Kernel<T>>(m, ("Kernel" + bits).c_str())
      .def_prop_ro("num_points", &Kernel<T>::num_points)
      .def("filter", &filter_array<T>, "values"_a, "transpose"_a, "threads"_a)
      .def("gradient", &filter_gradient_array<T>, "values"_a, "cotangent"_a, "threads"_a);
  nb::class_<Lattice<T>, Kernel<T>>(m, ("Lattice" + bits).c_str())
      .def(
          "__init__",
          [](Lattice<T>* self, const Rows<T>& features, std::optional<In<int32_t, nb::shape<-1>>> batch, int neighbour_rounds,
             int threads, int64_t most_bytes) {
            const auto n = features.shape(0);
            require(!batch || batch->shape(0) == n, "batch needs one id for each point");
            nb::gil_scoped_release unlocked;
            new (self) Lattice<T>(features.data(), static_cast<int64_t>(n), feature_count(features),
                                  batch ? batch->data() : nullptr, neighbour_rounds, threads, most_bytes);
          },
          "features"_a, "batch"_a.none(), "neighbour_rounds"_a, "threads"_a, "most_bytes"_a)
      .def_prop_ro("num_features", &Lattice<T>::num_features)
      .def_prop_ro("num_vertices", &Lattice<T>::num_vertices)
      .def("vertices",
           [](const Lattice<T>& self) {
             int32_t* data;
             auto array = new_array<int32_t>({std::size_t(self.num_points()), std::size_t(self.num_features() + 1)}, &data);
             std::copy_n(self.vertices(), array.size(), data);
             return array;
           })
      .def("weights",
           [](const Lattice<T>& self) {
             T* data;
             auto array = new_array<T>({std::size_t(self.num_points()), std::size_t(self.num_features() + 1)}, &data);
             std::copy_n(self.weights(), array.size(), data);
             return array;
           })
      .def("neighbours", [](const Lattice<T>& self) {
        int32_t* data;
        auto array = new_array<int32_t>({std::size_t(self.num_features() + 1), std::size_t(self.num_vertices()), 2}, &data);
        self.neighbours(data);
        return array;
      });
  nb::class_<GridGaussian<T>, Kernel<T>>(m, ("GridGaussian" + bits).c_str())
      .def(nb::init<std::vector<int64_t>, const std::vector<double>&>(), "shape"_a, "sigmas"_a);
  nb::class_<ExactGaussian<T>, Kernel<T>>(m, ("ExactGaussian" + bits).c_str())
      .def(
          "__init__",
          [](ExactGaussian<T>* self, const Rows<T>& features) {
            nb::gil_scoped_release unlocked;
            new (self) ExactGaussian<T>(features.data(), static_cast<int64_t>(features.shape(0)), feature_count(features));
          },
          "features"_a);
  nb::class_<KeptMessages<T>>(m, ("KeptMessages" + bits).c_str()).def_prop_ro("nbytes", &KeptMessages<T>::bytes);
  m.def(("mean_field" + bits).c_str(), &mean_field_array<T>, "unary"_a, "kernels"_a, "pre"_a, "post"_a, "couplings"_a,
        "row_sums"_a, "iterations"_a, "damping"_a, "class_threshold"_a, "tolerance"_a, "keep"_a.none(), "keep_messages"_a,
        "return_probabilities"_a, "return_evaluated"_a, "threads"_a);
  m.def(("mean_field_labels" + bits).c_str(), &mean_field_labels<T>, "unary"_a, "kernels"_a, "pre"_a, "post"_a, "couplings"_a,
        "row_sums"_a, "iterations"_a, "damping"_a, "class_threshold"_a, "tolerance"_a, "return_evaluated"_a, "threads"_a);
  m.def(("mean_field_vjp" + bits).c_str(), &mean_field_vjp_array<T>, "cotangent"_a, "marginals"_a, "messages"_a.none(),
        "kernels"_a, "pre"_a, "post"_a, "couplings"_a, "row_sums"_a, "damping"_a, "tolerance"_a, "guide"_a, "threads"_a);
}

}  // namespace
}  // namespace crfrnn

NB_MODULE(_native, m) {
  // Some frameworks keep our types alive until the process ends. Users cannot do anything about such warnings.
  nb::set_leak_warnings(false);
  nb::register_exception_translator([](const std::exception_ptr& error, void*) {
    try {
      std::rethrow_exception(error);
    } catch (const crfrnn::TooLarge& large) {
      PyErr_SetString(PyExc_MemoryError, large.what());
    } catch (const std::bad_alloc&) {
      PyErr_SetString(PyExc_MemoryError,
                      "there is not enough memory; work on a smaller image or on crops, or with fewer classes");
    }
  });
  crfrnn::prepare_memory();  // here, where no other thread can be forked away while it does so
  m.def("info", [] {
    nb::dict info;
#if defined(__clang__)
    info["compiler"] = __VERSION__;
#elif defined(__GNUC__)
    info["compiler"] = "GCC " __VERSION__;
#elif defined(_MSC_VER)
    info["compiler"] = ("MSVC " + std::to_string(_MSC_VER)).c_str();
#else
    info["compiler"] = "unknown";
#endif
    info["simd"] = crfrnn::instruction_set();
    info["hardware_threads"] = static_cast<int>(std::thread::hardware_concurrency());
    return info;
  });
  nb::enum_<crfrnn::Storage>(m, "Storage")
      .value("COMPUTED", crfrnn::Storage::computed)
      .value("FLOAT16", crfrnn::Storage::float16)
      .value("BFLOAT16", crfrnn::Storage::bfloat16);
  m.def("release_memory", &crfrnn::release_kept);
  m.def("padded_channels", &crfrnn::padded_channels, "channels"_a);
  m.attr("MAX_FEATURES") = crfrnn::most_features;
  m.attr("MAX_AXES") = crfrnn::most_axes;
  m.attr("GRID_CUTOFF") = crfrnn::grid_cutoff;
  crfrnn::bind<float>(m, "32");
  crfrnn::bind<double>(m, "64");
}
