"""What holds of the calls that take NumPy's arrays: their truth is crfrnn.reference, or a sum over all pairs."""

from collections.abc import Callable
from typing import Any

import numpy as np
from arrays import is_twin, made, plain, twin, value
from verdicts import Outcome, outcome, require, require_close, require_finite, require_same

import crfrnn
from crfrnn import CRF, CRFParameters, reference
from crfrnn.crf import Exact, FrankWolfe
from crfrnn.parameters import DEFAULT_PRESET, with_values
from kernel_lists import Scene, _terms

FEW = 80
"""Points up to which a dense kernel is worked out."""
BY_TYPE = {4: 1e-4, 8: 1e-9}
"""How far a result may be off by the bytes of a number: the table of the suite, for larger scores."""


def _twins(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: None if each is None else twin(each) for name, each in arrays.items()}


def _called(call: Callable[..., Any], example: dict[str, Any], **other: Any) -> Outcome:
    """A call on what is given; the same bits come of plain arrays and other threads."""
    arrays, options = example["arrays"], value(example["options"])
    given = {name: value(each) for name, each in arrays.items()}
    before = {name: each.copy() for name, each in given.items() if isinstance(each, np.ndarray)}
    found = outcome(lambda: call(**given, **options))
    for name, copy in before.items():
        kept = copy.dtype.kind == "O" or np.array_equal(
            np.asarray(copy), np.asarray(given[name]), equal_nan=copy.dtype.kind in "fc"
        )
        require(kept, f"{name} was written to")
    if all(each is None or is_twin(each) for each in arrays.values()):
        require_same(found, outcome(lambda: call(**_twins(arrays), **{**options, **other})), "plain arrays")
    return found


def refine(example: dict[str, Any]) -> bool:
    """Probabilities or labels; the reference, and torch's path, give the same."""
    options = value(example["options"])
    found = _called(crfrnn.refine, example, **({"threads": 3} if "threads" not in options else {}))
    if found.error:
        return True
    result = found.result[0] if isinstance(found.result, tuple) else found.result
    require_finite(result, "result")
    scores = plain(example["arrays"]["scores"])
    if result.dtype.kind == "u":
        require(result.max(initial=0) < max(2, _classes_of(scores, options)), "a label beyond the classes")
        return False
    require(
        result.min() >= 0 and result.max() <= 1 + 1e-6, "a probability outside 0 to 1", f"{result.min()} {result.max()}"
    )
    if _classes_first(example):
        bound = 2e-5 if result.dtype == np.float32 else 1e-9
        require_close(result.sum(axis=0), np.ones(result.shape[1:]), bound, "sum over classes")
        labels = crfrnn.refine(
            **{name: twin(each) for name, each in example["arrays"].items()},
            **{**options, "return_labels": True, "return_activity": False},
        )
        top = np.take_along_axis(result, labels[None].astype(np.int64), axis=0)[0]
        require_close(top, result.max(axis=0), 1e-5, "labels")
        _compare_with_reference(example, options, result)
    return False


def _classes_of(scores: np.ndarray, options: dict[str, Any]) -> int:
    given = options.get("num_classes")
    if isinstance(given, int | np.integer):
        return int(given)
    return int(scores.max(initial=0)) + 1 if options.get("input") == "labels" else max(scores.shape)


def _classes_first(example: dict[str, Any]) -> bool:
    """Whether scores (C, *grid) and an image (*grid, K) of another shape leave nothing open."""
    arrays, options = example["arrays"], example["options"]
    scores, image = arrays["scores"], arrays.get("image")
    if options.get("input", "logits") != "logits" or image is None or not all(map(is_twin, (scores, image))):
        return False
    if options.get("upsampling") or options.get("return_labels") or options.get("return_activity"):
        return False
    grid = scores["shape"][1:]
    return (
        len(scores["shape"]) > 1
        and scores["shape"][0] > 1
        and image["shape"] in ([*grid, 3], [*grid, 4])
        and len(grid) < 4
        and scores["shape"] != image["shape"]
        and not _batch(scores["shape"], image["shape"])
    )


def _batch(scores: list[int], image: list[int]) -> bool:
    return len(scores) > 3 and scores[0] == image[0]


def _compare_with_reference(example: dict[str, Any], options: dict[str, Any], result: np.ndarray) -> None:
    scores, image = (twin(example["arrays"][name]).astype(np.float64) for name in ("scores", "image"))
    if scores[0].size > FEW or "spacing" in options or "origin" in options or "mask" in example["arrays"]:
        return
    fields = {name: each for name, each in options.items() if name in CRFParameters.__dataclass_fields__}
    crf = with_values(crfrnn.preset(DEFAULT_PRESET), fields).crf.active
    exact = all(not hasattr(kernel.filter, "neighbour_rounds") for kernel in crf.kernels)
    if isinstance(crf.solver, FrankWolfe) or crf.solver.class_threshold or not (exact or result.dtype == np.float64):
        return
    if crf.solver.tolerance > 1e-3 or np.abs(scores).max() > 1e3 or np.abs(image).max() > 7e4 or _far(crf, image):
        return
    terms = _terms(crf, Scene(scores, image, None, {}), [kernel.weight for kernel in crf.kernels], 1.0)
    if any(kernel.normalization != "none" and abs(np.asarray(kernel.weight)).max() > 10 for kernel in crf.kernels):
        return
    rows = scores.reshape(len(scores), -1)
    logits, _ = reference.mean_field(
        rows, terms, iterations=crf.solver.iterations, compatibility=crf.compatibility, damping=crf.solver.damping
    )
    expected = reference.softmax(logits).reshape(result.shape)
    require_close(result, expected, 1e-2 if crf.solver.tolerance else 1e-3, "reference")


def _far(crf: CRF, image: np.ndarray) -> bool:
    """Whether features are so large that a lattice in float32 cannot tell neighbours apart."""
    least = min(
        (
            np.min(getattr(kernel.features, name))
            for kernel in crf.kernels
            for name in ("theta_beta", "theta_alpha")
            if hasattr(kernel.features, name)
        ),
        default=1.0,
    )
    return bool(max(np.abs(image).max(), *image.shape) / least > 1e4)


def refine_tiled(example: dict[str, Any]) -> bool:
    """With margins as wide as the image, every tile gives what `refine` gives."""
    options = value(example["options"])
    found = _called(crfrnn.refine_tiled, example)
    if found.error:
        return True
    shape = example["arrays"]["scores"]["shape"]
    grid = tuple(shape if options.get("input") == "labels" else shape[1:])
    require(found.result.shape == grid, "shape of labels", f"{found.result.shape}")
    if options.get("overlap") == 10_000 and example["arrays"]["image"] is not None and _classes_first(example):
        whole = {name: each for name, each in options.items() if name not in ("tile", "overlap", "memory")}
        labels = outcome(lambda: crfrnn.refine(**_twins(example["arrays"]), return_labels=True, **whole))
        require_same(found, labels, "refine")
    return False


def lattice_filter(example: dict[str, Any]) -> bool:
    """The lattice of the reference; weights of a simplex sum to 1."""
    found = _kernel(example, crfrnn.PermutohedralLattice, ("batch", "neighbour_rounds", "threads"))
    if found.error:
        return True
    kernel, result = found.result
    require_finite(result, "result")
    weights = kernel.weights
    bound = 1e-4 if weights.dtype == np.float32 else 1e-9
    require(weights.min() >= -bound, "a negative weight", f"{weights.min()}")
    require_close(weights.sum(axis=1), np.ones(len(weights)), bound, "weights of a simplex")
    require_finite(kernel.norm(), "norm")
    features, values = (twin(example["arrays"][name]) for name in ("features", "values"))
    if (
        len(features) <= FEW
        and features.shape[1] <= 4
        and not value(example["options"]).get("neighbour_rounds")
        and kernel.dtype == np.float64
        and np.abs(features).max() < 1e4
        and "batch" not in example["options"]
    ):
        expected = reference.Lattice(features.astype(np.float64)).filter(values.astype(np.float64))
        require_close(result, expected, 1e-9, "reference")
    return False


def exact_filter(example: dict[str, Any]) -> bool:
    """The sum over all pairs."""
    found = _kernel(example, crfrnn.ExactGaussian, ("threads",))
    if found.error:
        return True
    kernel, result = found.result
    require_finite(result, "result")
    features, values = (twin(example["arrays"][name]) for name in ("features", "values"))
    if len(features) <= FEW and np.abs(features).max() < 1e3:
        expected = reference.DenseGaussian(features).filter(values.astype(np.float64))
        require_close(result, expected, BY_TYPE[kernel.dtype.itemsize] * 10, "all pairs")
    return False


def _kernel(example: dict[str, Any], build: Any, building: tuple[str, ...]) -> Outcome:
    def call(features: Any, values: Any, **options: Any) -> Any:
        kernel = build(features, **{name: each for name, each in options.items() if name in building})
        transpose = options.get("transpose", False)
        result = kernel.filter(values, transpose)
        gradient = kernel.gradient(values, result)
        require(gradient.shape == np.shape(features), "shape of the gradient")
        return result, gradient

    arrays = {name: example["arrays"][name] for name in ("features", "values")}
    found = _called(call, {**example, "arrays": arrays})
    if found.error:
        return found
    options = {name: each for name, each in value(example["options"]).items() if name in building}
    return Outcome((build(twin(arrays["features"]), **options), found.result[0]))


def grid_filter(example: dict[str, Any]) -> bool:
    """The grid of the reference."""
    options = value(example["options"])

    def call(values: Any, shape: Any, sigma: Any, **more: Any) -> Any:
        return crfrnn.GridGaussian(shape, sigma, **more).filter(values)

    found = _called(call, example, **({"threads": 3} if "threads" not in options else {}))
    if found.error:
        return True
    require_finite(found.result, "result")
    if found.result.size <= 4000:
        expected = reference.GridGaussian(options["shape"], options["sigma"]).filter(
            twin(example["arrays"]["values"]).astype(np.float64)
        )
        require_close(found.result, expected, BY_TYPE[found.result.itemsize], "reference")
    return False


def mean_field(example: dict[str, Any]) -> bool:
    """The reference over the same kernels, forward and backward."""
    options = value(example["options"])

    def terms() -> list[Any]:
        return [_term(value(each)) for each in example["terms"]]

    def call(unary: Any, **more: Any) -> Any:
        return crfrnn.mean_field(unary, terms(), **more)

    found = _called(call, example)
    if found.error:
        return True
    require_finite(found.result, "result")
    unary = twin(example["arrays"]["unary"]).astype(np.float64)
    if unary[0].size > FEW or np.abs(unary).max() > 1e3 or options.get("class_threshold"):
        return False
    pairs = [reference.Term(_dense(term.kernel), term.weight, term.normalization, term.mask) for term in terms()]
    numbers = {name: options[name] for name in ("iterations", "damping", "compatibility") if name in options}
    logits, _ = reference.mean_field(unary.reshape(len(unary), -1), pairs, **numbers)
    expected = reference.softmax(logits) if options.get("return_probabilities") else logits
    single = found.result.dtype == np.float32
    if options.get("tolerance", 1) == 0 or options.get("return_probabilities"):
        bound = 1e-2 if options.get("tolerance", 1e-3) else 1e-3 if single else 1e-8
        require_close(found.result.reshape(expected.shape), expected, bound, "reference")
    return False


def _term(described: dict[str, Any]) -> Any:
    kind, numbers = described["kernel"], np.asarray(described["numbers"], np.float64)
    if kind == "grid":
        kernel: Any = crfrnn.GridGaussian(described["grid"], described["sigma"], np.float64)
    elif kind == "lattice":
        kernel = crfrnn.PermutohedralLattice(numbers)
    elif kind == "exact":
        kernel = crfrnn.ExactGaussian(numbers)
    else:
        kernel = np.exp(-((numbers[:, :1] - numbers[:, :1].T) ** 2))
    return crfrnn.PairwiseTerm(kernel, described["weight"], described["normalization"], described.get("mask"))


def _dense(kernel: Any) -> Any:
    """A kernel as a matrix: what it makes of every unit vector, which its own property compares with the truth."""
    return reference.MatrixKernel(kernel.filter(np.eye(kernel.num_points)))


def energies(example: dict[str, Any]) -> bool:
    """Numbers that are finite; marginals of 0 and 1 have the energy of their labels."""

    def call(unary: Any, labels: Any, **options: Any) -> Any:
        terms = [_term(value(each)) for each in example["terms"]]
        marginals = crfrnn.mean_field(unary, terms, iterations=1, return_probabilities=True, threads=1)
        return (
            crfrnn.energy(labels, unary, terms, **options),
            crfrnn.kl_divergence(marginals, unary, terms, **options),
            crfrnn.relaxed_energy(marginals, unary, terms, **options),
        )

    found = _called(call, example)
    if found.error:
        return True
    require_finite(found.result, "energy")
    return False


def unary_from_labels(example: dict[str, Any]) -> bool:
    """Logits of probabilities that sum to 1, of which known labels are the likeliest."""
    found = _called(crfrnn.unary_from_labels, example)
    if found.error:
        return True
    require_finite(found.result, "result")
    if len(found.result) > 1:
        sums = np.exp(found.result.astype(np.float64)).sum(axis=0)
        require_close(sums, np.ones(sums.shape), 1e-5, "sum over classes")
    return False


def unary_from_probabilities(example: dict[str, Any]) -> bool:
    """Logits of these probabilities, or of those above the floor."""
    found = _called(crfrnn.unary_from_probabilities, example)
    if found.error:
        return True
    require_finite(found.result, "result")
    given, options = twin(example["arrays"]["probabilities"]).astype(np.float64), value(example["options"])
    if len(given) > 1 and not options.get("scale"):
        floor = options.get("floor", 1e-5)
        require_close(np.exp(found.result.astype(np.float64)), np.maximum(given, floor), 1e-5, "logarithms")
    return False


def upsample(example: dict[str, Any]) -> bool:
    """Means of the scores: never beyond their range."""

    def call(scores: Any, image: Any, **options: Any) -> Any:
        features = crfrnn.Bilateral(*options.pop("features")) if "features" in options else None
        filter = Exact() if options.pop("exact", False) else None
        return crfrnn.upsample(scores, image, features, filter, **options)

    found = _called(call, example, **({"threads": 3} if "threads" not in example["options"] else {}))
    if found.error:
        return True
    require_finite(found.result, "result")
    scores = twin(example["arrays"]["scores"]).astype(np.float64)
    room = 1e-5 * (1 + np.abs(scores).max())
    require(scores.min() - room <= found.result.min() and found.result.max() <= scores.max() + room, "beyond the range")
    return False


def bilateral_solver(example: dict[str, Any]) -> bool:
    """Within the range of what is certain."""

    def call(target: Any, confidence: Any, image: Any, **options: Any) -> Any:
        features = crfrnn.Bilateral(*options.pop("features", (8, 4)))
        return crfrnn.bilateral_solver(target, confidence, image, features, **options)

    found = _called(call, example, **({"threads": 3} if "threads" not in example["options"] else {}))
    if found.error:
        return True
    require_finite(found.result, "result")
    target = twin(example["arrays"]["target"])
    require(target.min() <= found.result.min() and found.result.max() <= target.max(), "beyond the range")
    return False


def contrast_theta_beta(example: dict[str, Any]) -> bool:
    """A deviation that parameters take."""
    found = _called(crfrnn.contrast_theta_beta, example)
    if found.error:
        return True
    CRFParameters(theta_beta=found.result)
    return False


def features(example: dict[str, Any]) -> bool:
    """Features that are finite, a row for each pixel."""
    found = _called(crfrnn.bilateral_features, example)
    if found.error:
        return True
    require_finite(found.result, "result")
    return False


def parameters(example: dict[str, Any]) -> bool:
    """What is taken can be written, read, pickled and hashed."""
    import pickle

    options = value(example)
    found = outcome(lambda: CRFParameters(**options))
    if found.error:
        return True
    held = found.result
    require(pickle.loads(pickle.dumps(held)) == held and hash(held) == hash(held), "copies differ")
    require(CRF.from_text(held.crf.text) == held.crf, "text differs")
    return False


def crf_text(example: str) -> bool:
    """Text is a CRF, or refused."""
    return outcome(lambda: CRF.from_text(example)).error is not None


def made_array(example: dict[str, Any]) -> bool:
    """Of the fuzzer itself: a form holds the numbers of the plain array."""
    array = made(example)
    if is_twin(example) and 0 not in example["shape"] and np.dtype(example["dtype"]).kind in "biuf":
        require(np.array_equal(np.asarray(array), plain(example), equal_nan=True), "the form has other numbers")
    return False
