"""The native core as a backend: a batch of images forward and back, side by side when there are threads for it.

The layers of all frameworks call this on the CPU. No result depends on the number of threads.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import check_finite, check_result, image_array, mask_array, points_first
from crfrnn.crf import CRF, Normalization
from crfrnn.inference.backend import Ability, Execution, Gradients, Inputs
from crfrnn.inference.coupling import fewest_axes
from crfrnn.inference.guide_gradients import Found, guide_gradients, of_batch
from crfrnn.inference.solver import SOLVERS as SOLVERS
from crfrnn.inference.solver import solver_for
from crfrnn.inference.terms import PairwiseTerm, Term, build_terms, terms_bytes
from crfrnn.kernels.exact import ExactGaussian
from crfrnn.kernels.features import Guide
from crfrnn.kernels.lattice import PermutohedralLattice
from crfrnn.kernels.native import Storage
from crfrnn.memory import mean_field_bytes, require_memory
from crfrnn.threads import thread_count

Result = TypeVar("Result")
Array = NDArray[Any]
KERNELS = frozenset({Ability.GRID, Ability.LATTICE, Ability.EXACT})
OFFERS = KERNELS | {
    Ability.REGIONS,
    Ability.CLASS_THRESHOLD,
    Ability.SIXTEEN_BITS,
    Ability.IMPLICIT_GRADIENT,
    Ability.GRADIENT_TO_GUIDE,
}


class Record(NamedTuple):
    """What the forward pass of one image leaves for its backward pass."""

    terms: list[Term]
    kept: Any


def forward(
    crf: CRF, inputs: Inputs, couplings: Sequence[Array], keep: bool, execution: Execution
) -> tuple[Array, list[Record]]:
    """As in `Backend`; a record for every image.

    If the logits have their classes last in memory, they are not copied, and the result has the same layout.
    """
    logits, solver = inputs.logits, solver_for(crf.solver)
    crf = _with_thetas(crf, inputs)
    # Forward, diagonal matrices cost no more than diagonals; their gradients have all C×C entries.
    fewest = [fewest_axes(coupling) for coupling in couplings]
    storage = _storage(execution, bool(inputs.thetas)) if keep else None

    def one(index: int, threads: int) -> tuple[Array, Record]:
        check_finite(logits[index], f"logits[{index}]")
        guide = _guide(inputs, index, crf.region_names)
        classes, points = logits.shape[1], logits[index, 0].size
        kept_rows = solver.kept_rows(crf.solver) if keep else 0
        # A photo's lattice has about as many vertices as points.
        kept_itemsize = 2 if execution.storage else (1 + (storage == "with messages")) * logits.itemsize
        marginals_bytes = mean_field_bytes(points, classes, logits.itemsize, kept_rows, kept_itemsize)
        require_memory(
            terms_bytes(crf, guide, logits.itemsize) + marginals_bytes,
            f"a mean field of {points} points and {classes} classes",
        )
        terms = build_terms(crf, guide, inputs.spacing, logits.dtype, threads)
        for coupling, name in zip(fewest, crf.names, strict=True):
            if not np.isfinite(coupling).all():
                raise ValueError(
                    f"{name}_weight times the compatibility is not a finite {logits.dtype} number: make one of them "
                    "smaller, or look at what training made of them"
                )
        refined, kept = solver.forward(crf.solver, _rows(logits[index]), terms, fewest, "logits", storage, threads)
        return refined, Record(terms, kept)

    refined, records = zip(*_each_image(len(logits), execution.threads, one), strict=True)
    return _stacked(refined, logits.shape), list(records)


def vjp(
    crf: CRF,
    inputs: Inputs,
    cotangent: Array,
    record: Sequence[Record],
    couplings: Sequence[Array],
    execution: Execution,
    guide: bool,
) -> Gradients:
    """As `Backend` tells."""
    solver = solver_for(crf.solver)
    crf = _with_thetas(crf, inputs)

    def one(index: int, threads: int) -> tuple[Array, list[Array], Found]:
        terms, kept = record[index]
        to_logits, to_couplings, to_terms = solver.vjp(
            crf.solver, _rows(cotangent[index]), kept, terms, couplings, threads, guide
        )
        found: Found = {}
        if guide:
            found = guide_gradients(
                crf, inputs.spacing, _guide(inputs, index, crf.region_names), terms, to_terms, cotangent.dtype
            )
        return to_logits, to_couplings, found

    to_logits, to_couplings, found = zip(*_each_image(len(cotangent), execution.threads, one), strict=True)
    totals = [np.asarray(np.sum(parts, axis=0)) for parts in zip(*to_couplings, strict=True)]
    return Gradients(_stacked(to_logits, cotangent.shape), totals, **of_batch(found, inputs) if guide else {})


def learns_guide(crf: CRF) -> bool:
    """Whether `vjp` has gradients to what the terms of this CRF are built from."""
    return not crf.regions


def lattices(
    features: Array, mask: Array | None, normalization: Normalization, neighbour_rounds: int, threads: int | None
) -> list[PairwiseTerm]:
    """The normalised lattice over the features (d, *spatial) of every image."""

    def one(index: int, threads: int) -> PairwiseTerm:
        rows = features[index].reshape(features.shape[1], -1).T
        kernel = PermutohedralLattice(rows, neighbour_rounds=neighbour_rounds, threads=threads)
        return PairwiseTerm(kernel, normalization=normalization, mask=None if mask is None else mask[index])

    return _each_image(len(features), threads, one)


def filtered(values: Array, terms: Sequence[PairwiseTerm], transpose: bool, threads: int | None) -> Array:
    """Values (B, C, *spatial) under the filter of their image, or under its transpose."""

    def one(index: int, threads: int) -> Array:
        if not transpose:
            check_finite(values[index], f"values[{index}]")
        rows = values[index].reshape(values.shape[1], -1).T
        result = terms[index].filter_rows(rows, transpose, threads)
        if not transpose:
            check_result(result, "filtered values", "values or mask")
        return np.ascontiguousarray(result.T)

    return _stacked(_each_image(len(values), threads, one), values.shape)


def lattice_gradient(cotangent: Array, values: Array, terms: Sequence[PairwiseTerm], threads: int | None) -> Array:
    """The gradient of ⟨cotangent, K values⟩ to features (B, d, *spatial), for the kernels of terms."""

    def one(index: int, threads: int) -> Array:
        rows = (array[index].reshape(array.shape[1], -1).T for array in (values, cotangent))
        kernel: Any = terms[index].kernel
        to_features: Array = kernel.gradient_rows(*rows, threads)
        return np.ascontiguousarray(to_features.T).reshape(-1, *values.shape[2:])

    return np.stack(_each_image(len(values), threads, one))


def pairwise(crf: CRF, inputs: Inputs, execution: Execution) -> list[Record]:
    """The kernels of every image for `pairwise_filtered`, over the points of the inputs' logits."""

    def one(index: int, threads: int) -> Record:
        guide, dtype = _guide(inputs, index, ()), inputs.logits.dtype
        require_memory(terms_bytes(crf, guide, dtype.itemsize), f"kernels over {inputs.logits[index, 0].size} points")
        return Record(build_terms(crf, guide, inputs.spacing, dtype, threads), np.empty(0))

    return _each_image(len(inputs.logits), execution.threads, one)


def pairwise_filtered(
    values: Array, records: Sequence[Record], own_pairs: bool, transpose: bool, execution: Execution
) -> Array:
    """Σ_k w_k N_k v for values (B, C, *spatial), or with the transposed filters; weights are numbers.

    Args:
        own_pairs: Whether the pair of a point with itself counts; it weighs 1 in K.
    """

    def one(index: int, threads: int) -> Array:
        if not transpose:
            check_finite(values[index], f"values[{index}]")
        rows = _rows(values[index]).T
        total = np.zeros_like(rows)
        pairs: list[Any] = records[index].terms
        for term in pairs:
            message = term.filter_rows(rows, transpose, threads)
            total += float(np.asarray(term.weight)) * (message if own_pairs else message - term.own[:, None] * rows)
        if not transpose:
            check_result(total, "filtered probabilities", "weights or mask")
        return total.T

    return _stacked(_each_image(len(values), execution.threads, one), values.shape)


def exact_filtered(values: Array, features: Array, threads: int | None) -> Array:
    """Values (B, C, N) under the exact kernel of features (B, d, N), not normalised."""
    result = np.empty(values.shape, values.dtype)

    def one(index: int, threads: int) -> None:
        kernel = ExactGaussian(features[index].T)
        result[index] = kernel.filter_rows(values[index].T, False, threads).T

    _each_image(len(values), threads, one)
    return result


def _with_thetas(crf: CRF, inputs: Inputs) -> CRF:
    """The CRF with the θ of a call."""
    if not inputs.thetas:
        return crf
    return crf.with_thetas(**{name: theta.tolist() for name, theta in inputs.thetas.items()})


def _storage(execution: Execution, learn_theta: bool) -> Storage:
    """How to keep marginals: by the name of a dtype of torch."""
    if execution.storage is None:
        return "with messages" if learn_theta else "computed"
    return "bfloat16" if str(execution.storage) == "torch.bfloat16" else "float16"


def _guide(inputs: Inputs, index: int, regions: Sequence[str]) -> Guide:
    """What the terms of one image are built from; segments are given under the names of regions."""
    logits = inputs.logits
    grid = logits.shape[2:]
    image = None if inputs.image is None else image_array(np.moveaxis(inputs.image[index], 0, -1), grid)
    mask = None if inputs.mask is None else mask_array(inputs.mask[index], grid)
    given = {name: value[index] if name in regions else _own(value, index) for name, value in inputs.given.items()}
    return Guide(grid, image, mask, given)


def _own(value: Any, index: int) -> Any:
    """A kernel as it is; features (B, d, *spatial) as (*spatial, d)."""
    return value if hasattr(value, "filter") else np.moveaxis(value[index], 0, -1)


def _each_image(count: int, threads: int | None, work: Callable[[int, int], Result]) -> list[Result]:
    """`work(index, threads)` of every image, with `threads` (None is `default_threads()`) shared among them."""
    available = thread_count(threads)
    workers = min(count, available)
    if workers == 1:
        return [work(index, available) for index in range(count)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda index: work(index, available // workers), range(count)))


def _rows(scores: Array) -> Array:
    """(C, N) of scores (C, *spatial): class after class in memory or, if they are given so, point after point."""
    if not points_first(scores):
        scores = np.ascontiguousarray(scores)
    return scores.reshape(len(scores), -1)


def _stacked(images: Sequence[Array], shape: tuple[int, ...]) -> Array:
    """(C, N) images as an array (B, C, *spatial) in the order that they have in memory; one image is not copied."""
    if points_first(images[0]):
        batch, classes, *spatial = shape
        return np.moveaxis(_stacked([image.T for image in images], (batch, *spatial, classes)), -1, 1)
    whole = images[0] if len(images) == 1 else np.stack(images)
    return whole.reshape(shape)
