"""A batch of images through the mean field and back, the images side by side when there are threads for it.

What the layers of all frameworks call. Arrays are channels first: logits (B, C, *spatial), image (B, K, *spatial),
mask (B, *spatial) or None, couplings (), (C,) or (C, C). No result depends on the number of threads.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import check_finite, points_first
from crfrnn.coupling import simplest
from crfrnn.exact import ExactGaussian
from crfrnn.lattice import PermutohedralLattice
from crfrnn.meanfield import run, run_vjp
from crfrnn.pairwise import PairwiseTerm, pairwise_terms
from crfrnn.parameters import CRFParameters, Filter, Normalization, SpatialKernel
from crfrnn.threads import thread_count

Result = TypeVar("Result")
Array = NDArray[Any]


class Settings(NamedTuple):
    """The numbers of a mean field. A θ holds one number, or one for each axis or channel.

    The last two are for torch on other devices than the CPU: whether sums have a fixed order, and the dtype of 16 bits
    that marginals are stored in, None for that of the logits.
    """

    theta_alpha: Sequence[float]
    theta_beta: Sequence[float]
    theta_gamma: Sequence[float]
    normalization: Normalization
    spatial: SpatialKernel
    filter: Filter
    neighbour_rounds: int
    iterations: int
    damping: float
    threads: int | None
    deterministic: bool = True
    storage: Any = None

    def parameters(self) -> CRFParameters:
        """The same, validated. Weights are the default ones: the real ones come as couplings."""
        thetas = map(tuple, self[:3])
        return _parameters(*thetas, *self[3:9])


class Record(NamedTuple):
    """What the forward pass of one image leaves for its backward pass."""

    terms: list[PairwiseTerm]
    marginals: Array


def mean_field(
    logits: Array, image: Array, mask: Array | None, couplings: Sequence[Array], settings: Settings, keep: bool
) -> tuple[Array, list[Record]]:
    """Logits after the last iteration, and a record of every image; its marginals are empty unless `keep`.

    The result has its classes last in memory if the logits have, which then are not copied.
    """
    parameters = settings.parameters()
    batch, _, *spatial = logits.shape
    # Forward, diagonal matrices cost no more than diagonals; their gradients have all C×C entries.
    fewest = [simplest(coupling) for coupling in couplings]

    def one(index: int, threads: int) -> tuple[Array, Record]:
        check_finite(logits[index], f"logits[{index}]")
        terms = pairwise_terms(
            np.moveaxis(image[index], 0, -1),
            parameters,
            shape=spatial,
            mask=None if mask is None else mask[index],
            threads=threads,
            dtype=logits.dtype,
        )
        refined, marginals = run(
            _rows(logits[index]),
            terms,
            fewest,
            iterations=parameters.iterations,
            damping=parameters.damping,
            keep_marginals=keep,
            threads=threads,
        )
        return refined, Record(terms, marginals)

    refined, records = zip(*_each_image(batch, settings.threads, one), strict=True)
    return _stacked(refined, logits.shape), list(records)


def mean_field_vjp(
    cotangent: Array, records: Sequence[Record], couplings: Sequence[Array], settings: Settings
) -> tuple[Array, list[Array]]:
    """Gradients of ⟨cotangent, refined logits⟩ to the logits and, summed over the batch, to the couplings."""

    def one(index: int, threads: int) -> tuple[Array, list[Array]]:
        terms, marginals = records[index]
        g = _rows(cotangent[index])
        return run_vjp(g, marginals, terms, couplings, damping=settings.damping, threads=threads)

    to_logits, to_couplings = zip(*_each_image(len(cotangent), settings.threads, one), strict=True)
    totals = [np.asarray(np.sum(parts, axis=0)) for parts in zip(*to_couplings, strict=True)]
    return _stacked(to_logits, cotangent.shape), totals


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
        return np.ascontiguousarray(_normalised(terms[index], rows, transpose, threads).T)

    return _stacked(_each_image(len(values), threads, one), values.shape)


def exact_filtered(values: Array, features: Array, threads: int | None) -> Array:
    """Values (B, C, N) under the exact kernel of features (B, d, N), not normalised."""
    result = np.empty(values.shape, values.dtype)

    def one(index: int, threads: int) -> None:
        kernel = ExactGaussian(features[index].T)
        result[index] = kernel._native.filter(np.ascontiguousarray(values[index].T), False, threads).T

    _each_image(len(values), threads, one)
    return result


def _normalised(term: PairwiseTerm, rows: Array, transpose: bool, threads: int) -> Array:
    """`term.filter` without its check: gradients that are not finite go on as they do elsewhere in torch."""
    kernel: Any = term.kernel
    before, after = (term.post, term.pre) if transpose else (term.pre, term.post)
    sent = rows if before is None else rows * before[:, None]
    received: Array = kernel._native.filter(np.ascontiguousarray(sent), transpose, threads)
    return received if after is None else received * after[:, None]


def as_list(theta: Any) -> list[float]:
    """A deviation, or one for each axis or channel, as `Settings` hold it."""
    return [float(theta)] if isinstance(theta, int | float) else [float(each) for each in theta]


@lru_cache(maxsize=64)
def _parameters(
    theta_alpha: tuple[float, ...],
    theta_beta: tuple[float, ...],
    theta_gamma: tuple[float, ...],
    normalization: Normalization,
    spatial: SpatialKernel,
    filter: Filter,
    neighbour_rounds: int,
    iterations: int,
    damping: float,
) -> CRFParameters:
    return CRFParameters(
        theta_alpha=theta_alpha,
        theta_beta=theta_beta,
        theta_gamma=theta_gamma,
        normalization=normalization,
        iterations=iterations,
        spatial=spatial,
        filter=filter,
        damping=damping,
        neighbour_rounds=neighbour_rounds,
    )


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
