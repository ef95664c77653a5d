"""`python -m experiments.theta_gradient`: gradients to θ and image through the lattice, beside the exact ones.

The loss is the cross-entropy of labels after T = 5, on validation photos of PASCAL VOC with the scores that come with
them, made smaller, and θ_α and θ_γ with them, so that the exact filter is affordable. For each starting θ it prints, of
several derivatives of the filter, the cosine with the exact gradient. 12 photos take about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crfrnn import CRFParameters, ExactGaussian, GridGaussian, PairwiseTerm, PermutohedralLattice, bilateral_features
from crfrnn.accuracy import shrunk
from crfrnn.crf import MeanField
from crfrnn.data import SegmentationData
from crfrnn.data.scored import ScoredPhotos
from crfrnn.files.classes import VOID, class_set
from crfrnn.files.progress import progress
from crfrnn.inference.meanfield import softmax
from crfrnn.kernels import native
from crfrnn.kernels.native import FusedTerm, NativeKernel
from experiments.vertex_derivatives import Vertices, blur_strengths, second_moments

Array = NDArray[np.float64]
CLASSES = class_set("voc")
THETAS = ((160.0, 3.0, 3.0), (80.0, 13.0, 3.0), (40.0, 5.0, 3.0))
WEIGHTS = (3.0, 5.0)
ITERATIONS = 5
SPATIAL = 2  # features of the bilateral kernel that are coordinates


class Case(NamedTuple):
    """A photo (H, W, 3), its logits (C, N) and labels (N,), and θ_α, θ_β, θ_γ for it."""

    image: NDArray[Any]
    logits: Array
    labels: NDArray[Any]
    theta: Array

    def features(self, theta: Array | None = None) -> Array:
        """Around their mean: then errors of the derivatives do not grow with the distance to a corner of the photo."""
        alpha, beta, _ = self.theta if theta is None else theta
        rows: Array = bilateral_features(self.image, alpha, beta, dtype=np.float64)
        return rows - rows.mean(axis=0)


class Found(NamedTuple):
    """∂L/∂log θ (3,) and ∂L/∂image (N, 3), where there is one."""

    theta: Array
    image: Array | None


class Backward(NamedTuple):
    """A mean field with its loss: kernels with their terms, marginals kept, and ∂L/∂a_T."""

    case: Case
    kernels: list[NativeKernel]
    terms: list[FusedTerm]
    loss: float
    kept: Array
    cotangent: Array

    def by_derivative(self) -> Found:
        """With the kernels' own gradients."""
        solver = MeanField(ITERATIONS, tolerance=0)
        _, _, gradients = native.mean_field_vjp(self.cotangent, self.kept, self.terms, solver, 1, guide=True)
        to_sigma, to_features = (
            gradient.kernel + kernel.gradient(np.ones(kernel.num_points), norm_cotangent(term, gradient.post))
            for kernel, term, gradient in zip(self.kernels, self.terms, gradients, strict=True)
        )
        of_features = -(to_features * self.case.features()).sum(axis=0)
        spatial = float(to_sigma.sum()) * self.case.theta[2]
        theta = np.array([of_features[:SPATIAL].sum(), of_features[SPATIAL:].sum(), spatial])
        return Found(theta, to_features[:, SPATIAL:] / self.case.theta[1])

    def by_moments(self) -> Found:
        """With the derivative of a Gaussian, -K[i, j] (f_i - f_j), K the lattice: it filters values times features."""
        kernel, f = self.kernels[1], self.case.features()
        to_log_theta, to_features = np.zeros(2), np.zeros_like(f)
        for values, cotangent in self.pairs():
            forward, backward = kernel.filter(values), kernel.filter(cotangent, transpose=True)
            for column in range(f.shape[1]):
                x = f[:, column, None]
                first, second = kernel.filter(values * x), kernel.filter(values * x**2)
                squared = x**2 * forward - 2 * x * first + second
                to_log_theta[int(column >= SPATIAL)] += np.vdot(cotangent, squared)
                to_features[:, column] -= (cotangent * (x * forward - first)).sum(axis=1)
                to_features[:, column] -= (values * (x * backward - kernel.filter(cotangent * x, transpose=True))).sum(
                    axis=1
                )
        spatial = self.by_derivative().theta[2]
        return Found(np.array([*to_log_theta, spatial]), to_features[:, SPATIAL:] / self.case.theta[1])

    def by_second_moments(self) -> Found:
        vertices = Vertices(self.kernels[1])  # type: ignore[arg-type]
        moments = sum(second_moments(vertices, *pair) for pair in self.pairs())
        return self.found([np.sum(moments[:SPATIAL]), np.sum(moments[SPATIAL:])])

    def by_blur_strengths(self) -> Found:
        vertices, features = Vertices(self.kernels[1]), range(self.kernels[1].num_features)  # type: ignore
        groups = features[:SPATIAL], features[SPATIAL:]
        return self.found(sum(blur_strengths(vertices, *pair, groups) for pair in self.pairs()))

    def found(self, to_log_theta: Any) -> Found:
        """With the gradient to θ_γ, which is exact."""
        return Found(np.array([*to_log_theta, self.by_derivative().theta[2]]), None)

    def pairs(self) -> Iterator[tuple[Array, Array]]:
        """Values and cotangents (N, C) of the bilateral kernel in NumPy (equation 22), and those of its norm (N, 1)."""
        solver = MeanField(ITERATIONS, tolerance=0)
        _, _, gradients = native.mean_field_vjp(self.cotangent, self.kept, self.terms, solver, 1, guide=True)
        to_norm = norm_cotangent(self.terms[1], gradients[1].post)
        yield np.ones((len(to_norm), 1)), to_norm[:, None]
        g = self.cotangent.T
        for q in self.kept[::-1, :, : g.shape[1]]:
            v = np.zeros_like(g)
            for term in self.terms:
                y = -term.coupling * g
                sent = y if term.post is None else term.post[:, None] * y
                v += term.kernel.filter(sent, transpose=True)
            yield q, sent
            g = q * (v - (q * v).sum(axis=1, keepdims=True))


def norm_cotangent(term: FusedTerm, to_post: Array | None) -> Array:
    """From ∂L/∂post to that of the norm: post is its inverse."""
    assert term.post is not None
    assert to_post is not None
    return -to_post * term.post**2


def backward(case: Case, kernel: NativeKernel) -> Backward:
    """The mean field of a photo with a bilateral kernel, beside the spatial one on the grid."""
    shape = case.image.shape[:2]
    kernels = [GridGaussian(shape, case.theta[2], np.float64), kernel]
    terms = [PairwiseTerm(each, weight) for each, weight in zip(kernels, WEIGHTS, strict=True)]
    fused = [FusedTerm(each.kernel, None, each.post, np.asarray(-each.weight)) for each in terms]  # type: ignore[arg-type]
    solver = MeanField(ITERATIONS, tolerance=0)
    logits, kept, _ = native.mean_field(case.logits, fused, solver, "logits", "computed", 1)
    known = np.flatnonzero(case.labels != VOID)
    chosen = case.labels[known], known
    probabilities = softmax(logits, axis=0)
    cotangent = np.zeros_like(logits)
    cotangent[:, known] = probabilities[:, known] / len(known)
    cotangent[chosen] -= 1 / len(known)
    loss = float(-np.log(np.maximum(probabilities[chosen], 1e-300)).mean())
    return Backward(case, kernels, fused, loss, kept, cotangent)


def by_offsets(case: Case, count: int) -> Found:
    """The mean over lattices that lie elsewhere: features moved at random, by up to several simplices."""
    random = np.random.default_rng(0)
    found = [
        backward(case, PermutohedralLattice(case.features() + random.uniform(0, 8, 5))).by_derivative()
        for _ in range(count)
    ]
    return Found(*(np.mean([np.asarray(each[part]) for each in found], axis=0) for part in range(2)))


def by_differences(case: Case, step: float) -> Found:
    """Central differences of the loss in log θ, a lattice for each."""
    theta = []
    for which in range(2):
        losses = []
        for sign in (1, -1):
            changed = case.theta.copy()
            changed[which] *= np.exp(sign * step)
            losses.append(backward(case, PermutohedralLattice(case.features(changed))).loss)
        theta.append((losses[0] - losses[1]) / (2 * step))
    spatial = backward(case, PermutohedralLattice(case.features())).by_derivative().theta[2]
    return Found(np.array([*theta, spatial]), None)


def of_lattice(case: Case, neighbour_rounds: int = 0) -> Backward:
    return backward(case, PermutohedralLattice(case.features(), neighbour_rounds=neighbour_rounds))


WAYS: dict[str, Callable[[Case], Found]] = {
    "the lattice's derivative": lambda case: of_lattice(case).by_derivative(),
    "neighbour_rounds=1": lambda case: of_lattice(case, 1).by_derivative(),
    "mean of 4 lattices": lambda case: by_offsets(case, 4),
    "moments": lambda case: of_lattice(case).by_moments(),
    "second moments": lambda case: of_lattice(case).by_second_moments(),
    "blur strengths": lambda case: of_lattice(case).by_blur_strengths(),
    "differences, 0.02": lambda case: by_differences(case, 0.02),
    "differences, 0.1": lambda case: by_differences(case, 0.1),
    "differences, 0.3": lambda case: by_differences(case, 0.3),
}


def cosine(a: Array, b: Array) -> float:
    return float(np.vdot(a, b) / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300))


def report(theta: tuple[float, ...], exact: list[Found], found: dict[str, list[Found]]) -> str:
    """A table: cosines of the mean gradient and of each photo's, shares of equal signs, cosines of image gradients."""
    lines = [
        f"**θ_α, θ_β, θ_γ = {', '.join(f'{each:g}' for each in theta)}**, {len(exact)} photos",
        "",
        "| derivative | mean ∂L/∂log θ | ratio | one photo: median (lowest) | signs α, β, γ | image: median (lowest) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    truth = np.array([each.theta for each in exact])
    for name, gradients in [("exact", exact), *found.items()]:
        mine = np.array([each.theta for each in gradients])
        ratio = np.linalg.norm(mine.mean(axis=0)) / np.linalg.norm(truth.mean(axis=0))
        single = [cosine(a, b) for a, b in zip(mine, truth, strict=True)]
        signs = (np.sign(mine) == np.sign(truth)).mean(axis=0)
        images = [cosine(a.image, b.image) for a, b in zip(gradients, exact, strict=True) if a.image is not None]
        image = f"{np.median(images):.3f} ({min(images):.3f})" if images else ""
        lines.append(
            f"| {name} | {cosine(mine.mean(axis=0), truth.mean(axis=0)):.3f} | {ratio:.2f} | "
            f"{np.median(single):.3f} ({min(single):.3f}) | {', '.join(f'{share:.0%}' for share in signs)} | {image} |"
        )
    means = [", ".join(f"{each:.2e}" for each in rows.mean(axis=0)) for rows in (truth, np.abs(truth))]
    return "\n".join([*lines, "", f"Exact ∂L/∂log θ: mean {means[0]}; mean magnitude {means[1]}.", ""])


def load_case(photos: ScoredPhotos, index: int, theta: tuple[float, ...], side: int) -> Case:
    sample, logits = photos[index]
    parameters = CRFParameters(*theta)
    scores, image, smaller = shrunk(logits, sample.image, parameters, side)
    labels, _, _ = shrunk(sample.labels, sample.image, parameters, side, "labels")
    assert isinstance(smaller, CRFParameters)
    # Rounding makes the axes differ by less than a hundredth.
    thetas = np.array([np.mean(each) for each in (smaller.theta_alpha, smaller.theta_beta, smaller.theta_gamma)])
    return Case(image, scores.reshape(len(scores), -1).astype(np.float64), labels.reshape(-1), thetas)


def main() -> None:
    default_data = Path(os.environ.get("CRFRNN_DATA", "../shared/data")) / "voc_animals"
    parser = argparse.ArgumentParser(prog="python -m experiments.theta_gradient", description=__doc__)
    parser.add_argument("--data", type=Path, default=default_data, help="with logits33/ (default: %(default)s)")
    parser.add_argument("--photos", type=int, default=12, help="how many, spread over the set (default: %(default)s)")
    parser.add_argument("--side", type=int, default=160, help="pixels of their longer side (default: %(default)s)")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    options = parser.parse_args()
    photos = ScoredPhotos(SegmentationData(options.data, "val", CLASSES), options.data / "logits33", square=True)
    indices = [(2 * i + 1) * len(photos) // (2 * options.photos) for i in range(options.photos)]
    for theta in THETAS:
        exact: list[Found] = []
        found: dict[str, list[Found]] = {name: [] for name in options.ways}
        for index in progress(indices, "/".join(f"{each:g}" for each in theta)):
            case = load_case(photos, index, theta, options.side)
            exact.append(backward(case, ExactGaussian(case.features())).by_derivative())
            for name in options.ways:
                found[name].append(WAYS[name](case))
        print(report(theta, exact, found), flush=True)


if __name__ == "__main__":
    main()
