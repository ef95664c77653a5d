"""Solvers and CRFs that every backend runs, and what they give by dense matrices (crfrnn.reference_frank_wolfe)."""

from dataclasses import replace

import numpy as np

from crfrnn import reference, reference_frank_wolfe
from crfrnn.crf import CRF, FrankWolfe, MeanField
from kernel_lists import CRFS, _terms

FRANK_WOLFES = {
    "entropic": FrankWolfe(4, strength=1.3, tolerance=0),
    "entropic, open loop": FrankWolfe(4, strength=0.7, step="open-loop", tolerance=0),
    "Euclidean": FrankWolfe(4, "euclidean", 4.0, tolerance=0),
    "Euclidean, open loop": FrankWolfe(4, "euclidean", 3.0, "open-loop", tolerance=0),
}
CONVERGING = {
    "mean field": MeanField(150, tolerance=0),
    "damped mean field": MeanField(150, 0.3, tolerance=0),
    "entropic": FrankWolfe(150, strength=1.3, tolerance=1e-12),
    "Euclidean": FrankWolfe(150, "euclidean", 4.0, tolerance=1e-12),
}
KERNELS = ("standard", "three", "lattice and exact", "given exactly", "each its own", "empty")


def solved_by(solver, name: str = "standard", **changes) -> CRF:
    """A CRF of kernel_lists.py with another solver."""
    return replace(CRFS[name], solver=solver, **changes)


def operator_of(crf, one):
    """S of one image, as `Scene.item` returns it."""
    classes = len(one.logits)
    terms = _terms(crf, one, [kernel.weight for kernel in crf.kernels], 1.0)
    points = one.logits[0].size
    return reference_frank_wolfe.symmetric_operator(terms, crf.compatibility, classes, points)


def marginals_of(crf, given):
    """The last marginals (B, C, *spatial) of a scene."""
    found = []
    for index in range(len(given.logits)):
        one = given.item(index)
        unary = one.logits.reshape(len(one.logits), -1)
        found.append(reference_frank_wolfe.frank_wolfe(unary, operator_of(crf, one), crf.solver)[-1])
    return np.stack(found).reshape(given.logits.shape)


def softmax(logits):
    """Of a batch (B, C, *spatial)."""
    return np.moveaxis(reference.softmax(np.moveaxis(np.asarray(logits, np.float64), 1, 0)), 0, 1)
