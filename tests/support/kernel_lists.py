"""CRFs of every kind of kernel list, inputs for them, and their truth by reference.py alone.

Deviations are no round numbers: on the border of two simplices rounding decides which vertices a point touches, and no
two implementations need to agree there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from crfrnn import reference
from crfrnn.crf import CRF, Bilateral, Exact, Given, Grid, Kernel, Lattice, MeanField, Spatial

CLASSES, CHANNELS, GIVEN = 4, 3, 2
SPATIAL = (5, 6)
MATRIX = ((0.9, -0.2, 0.1, 0.0), (0.3, 1.1, 0.0, -0.4), (0.0, 0.2, 0.7, 0.1), (-0.1, 0.0, 0.5, 1.3))
COMPATIBILITY = ((-1.0, 0.2, 0.0, 0.3), (0.1, -0.8, 0.4, 0.0), (0.0, 0.1, -1.2, 0.2), (0.3, 0.0, 0.1, -0.9))
SOLVER = MeanField(iterations=3, damping=0.1, tolerance=0)

near, far = Bilateral(5.13, 61.7), Bilateral((2.71, 3.3), (41.3, 77.7, 103.1))
smooth = Kernel(Spatial(1.57), 0.7)
similar = Kernel(near, (0.4, 0.6, 0.8, 1.1))


def _crf(*kernels: Kernel, **more: Any) -> CRF:
    return CRF(kernels, **{"solver": SOLVER, **more})


def _normalised(*names: str) -> CRF:
    weighted = zip((smooth, similar, Kernel(far, MATRIX)), names, strict=False)
    return _crf(*(replace(kernel, normalization=name) for kernel, name in weighted))


CRFS: dict[str, CRF] = {
    "spatial": _crf(smooth),
    "bilateral": _crf(similar),
    "standard": _crf(smooth, similar),
    "three": _crf(smooth, Kernel(near, MATRIX), Kernel(far, 0.5), compatibility=COMPATIBILITY),
    "two bilateral": _crf(similar, Kernel(far, MATRIX), compatibility=(-1.0, -0.5, -0.7, -0.9)),
    "lattice and exact": _crf(replace(smooth, filter=Lattice()), replace(similar, filter=Exact())),
    "more vertices": _crf(smooth, replace(similar, filter=Lattice(neighbour_rounds=1))),
    "given": _crf(Kernel(Given("learned"), MATRIX), smooth),
    "given exactly": _crf(Kernel(Given("learned"), 0.8, Exact()), similar),
    "empty": _crf(),
    "weights of 0": _crf(replace(smooth, weight=0), Kernel(near, MATRIX), Kernel(far, [0.0] * CLASSES)),
    "nothing but 0": _crf(replace(smooth, weight=0.0), replace(similar, weight=np.zeros((CLASSES, CLASSES)))),
    **{f"all {name}": _normalised(name, name) for name in ("none", "before", "symmetric")},
    "each its own": _normalised("symmetric", "before", "none"),
    "no iterations": _crf(smooth, solver=MeanField(0)),
}
ON_LATTICES = {name: crf for name, crf in CRFS.items() if not any(isinstance(k.filter, Exact) for k in crf.kernels)}


class Scene(NamedTuple):
    """A batch, channels first, in the order of `Inputs`."""

    logits: Any
    image: Any
    mask: Any
    given: Mapping[str, Any]

    def item(self, index: int) -> "Scene":
        """One image as `refine` takes it: scores (C, *spatial), all else channels last."""
        given = {name: np.moveaxis(features[index], 0, -1) for name, features in self.given.items()}
        mask = None if self.mask is None else self.mask[index]
        return Scene(self.logits[index], np.moveaxis(self.image[index], 0, -1), mask, given)


def scene(rng: Any, dtype: Any = np.float64, spatial: tuple[int, ...] = SPATIAL, size: int = 2) -> Scene:
    """Random values; a few pixels of the mask are 0."""

    def drawn(draw: Any, channels: int) -> Any:
        return draw(size=(size, channels, *spatial)).astype(dtype)

    return Scene(
        drawn(rng.normal, CLASSES),
        drawn(lambda size: rng.uniform(0, 255, size), CHANNELS),
        (rng.integers(0, 5, size=(size, *spatial)) / 2).astype(dtype),
        {"learned": drawn(lambda size: rng.uniform(0, 3, size), GIVEN)},
    )


@dataclass(frozen=True)
class Truth:
    """Of a batch: logits (B, C, *spatial), marginals (B, T, C, N) and, with a cotangent, gradients.

    Attributes:
        to_weights: For all kernels, those of weight 0 too, in the shape of the weight.
        to_couplings: To E = M W of each kernel as a full matrix: what backends return, for couplings (C, C).
    """

    logits: Any
    marginals: Any
    to_unary: Any = None
    to_weights: Any = None
    to_compatibility: Any = None
    to_couplings: Any = None


def truth(
    crf: CRF, given: Scene, cotangent: Any = None, weights: Any = None, compatibility: Any = None, spacing: Any = 1.0
) -> Truth:
    """The oracle's results; weights and compatibility may take the place of the specification's."""
    weights = [kernel.weight for kernel in crf.kernels] if weights is None else weights
    compatibility = crf.compatibility if compatibility is None else compatibility
    solver, found, gradients, couplings = crf.solver, [], [], []
    for index in range(len(given.logits)):
        one = given.item(index)
        classes = len(one.logits)
        terms = _terms(crf, one, weights, spacing)
        arguments = {"compatibility": compatibility, "damping": solver.damping}
        unary = one.logits.reshape(classes, -1)
        found.append(reference.mean_field(unary, terms, iterations=solver.iterations, **arguments))
        if cotangent is not None:
            g = cotangent[index].reshape(classes, -1)
            gradients.append(reference.mean_field_vjp(g, found[-1][1], terms, **arguments))
            # To E is to W where M is 1, of weights that are E.
            M = reference.as_matrix(-1.0 if compatibility is None else compatibility, classes)
            coupled = [replace(term, weight=M @ reference.as_matrix(term.weight, classes)) for term in terms]
            damped = {**arguments, "compatibility": 1.0}
            couplings.append(reference.mean_field_vjp(g, found[-1][1], coupled, **damped).weights)
    shape = given.logits.shape
    logits = np.stack([logits for logits, _ in found]).reshape(shape)
    marginals = np.stack([marginals for _, marginals in found])
    if cotangent is None:
        return Truth(logits, marginals)
    return Truth(
        logits,
        marginals,
        np.stack([each.unary for each in gradients]).reshape(shape),
        [sum(parts) for parts in zip(*(each.weights for each in gradients), strict=True)],
        sum(each.compatibility for each in gradients),
        [sum(parts) for parts in zip(*couplings, strict=True)],
    )


def _terms(crf: CRF, one: Scene, weights: Any, spacing: Any) -> list[reference.Term]:
    spatial = one.logits.shape[1:]
    grid = np.stack([axis.ravel() for axis in np.indices(spatial)[::-1]], axis=1) * np.float64(spacing)
    points = len(grid)
    mask = None if one.mask is None else np.asarray(one.mask, np.float64).reshape(-1)
    terms = []
    for kernel, weight in zip(crf.kernels, weights, strict=True):
        features = kernel.features
        if isinstance(features, Spatial):
            rows = grid / features.theta_gamma
        elif isinstance(features, Bilateral):
            colours = np.asarray(one.image, np.float64).reshape(points, -1)
            rows = np.concatenate([grid / features.theta_alpha, colours / features.theta_beta], axis=1)
        else:
            rows = np.asarray(one.given[features.name], np.float64).reshape(points, -1)
        built: Any
        if isinstance(kernel.filter, Grid):
            theta = np.broadcast_to(features.theta_gamma, len(spatial)) / np.broadcast_to(spacing, len(spatial))
            built = reference.GridGaussian(spatial, theta[::-1])
        elif isinstance(kernel.filter, Exact):
            built = reference.DenseGaussian(rows)
        else:
            built = reference.Lattice(rows, neighbour_rounds=kernel.filter.neighbour_rounds)
        terms.append(reference.Term(built, weight, kernel.normalization, mask))
    return terms
