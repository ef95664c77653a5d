"""Derivatives of a lattice's filter to the logarithms of its deviations that are smoother than its own.

For a Gaussian they are the filter with entries K[i, j] (f_i - f_j)². Here two stand-ins are computed from what the
vertices have: U, splatted from cotangents, and Q, splatted from values, with B the blur between them.
`experiments.theta_gradient` compares them with the exact filter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crfrnn import PermutohedralLattice
from crfrnn.reference import elevate

Array = NDArray[np.float64]


class Vertices:
    """The vertices of a lattice, their neighbours, and the step between neighbours of each direction in features."""

    def __init__(self, lattice: PermutohedralLattice) -> None:
        d = lattice.num_features
        self.lattice, self.count, self.directions = lattice, lattice.num_vertices, range(d + 1)
        self.steps: Array = np.linalg.pinv(elevate(np.eye(d)).T) @ (1 - (d + 1) * np.eye(d + 1))

    def splat(self, rows: Array) -> Array:
        sums = np.zeros((self.count, rows.shape[1]))
        for vertex, weight in zip(self.lattice.vertices.T, self.lattice.weights.T, strict=True):
            np.add.at(sums, vertex, weight[:, None] * rows)
        return sums

    def moved(self, direction: int, rows: Array) -> tuple[Array, Array]:
        """½ (after + before) and ½ (after - before): the half of the blur that moves values, and its first moment."""
        padded = np.concatenate([rows, np.zeros((1, rows.shape[1]))])
        before, after = (padded[side] for side in self.lattice.neighbours[direction].T)
        return (after + before) / 2, (after - before) / 2

    def factor(self) -> float:
        return float(1 / (1 + 2.0**-self.lattice.num_features))


def second_moments(vertices: Vertices, values: Array, cotangent: Array) -> Array:
    """Σ_vw U_v B_vw Q_w (p_v - p_w)² along each feature (d,), p the places of vertices; d more blurs of all channels.

    The blur has 3/4 of the variance of the filter, splat and slice the rest. If all were Gaussian, this would be
    9/16 of (f_i - f_j)² K, and a multiple of K, which normalisation takes away.
    """
    z = vertices.splat(values)
    first = [np.zeros_like(z) for _ in vertices.steps]
    second = [np.zeros_like(z) for _ in vertices.steps]
    for j in vertices.directions:
        for f, step in enumerate(vertices.steps[:, j]):
            even, _ = vertices.moved(j, second[f])
            first_even, first_odd = vertices.moved(j, first[f])
            z_even, z_odd = vertices.moved(j, z)
            second[f] += even + 2 * step * first_odd + step**2 * z_even
            first[f] += first_even + step * z_odd
        z = z + vertices.moved(j, z)[0]
    sums = [np.vdot(vertices.splat(cotangent), each) for each in second]
    return np.array(sums) * vertices.factor() * 16 / 9


def blur_strengths(vertices: Vertices, values: Array, cotangent: Array, groups: Sequence[Sequence[int]]) -> Array:
    """(f_i - f_j)² K summed up for each group of features, from ∂K/∂τ of the blurs 1 + τ_j [½ 0 ½] at τ = 1 (d + 1,).

    A blur moves by n = ±1 or 0 steps e. Given f_i - f_j, its mean is ½ e · (f_i - f_j) if all were Gaussian, and so the
    part of K that is moved, n² K, is ¼ (e · (f_i - f_j))² K and a multiple of K. Squares of differences count as equal
    for all features of a group, and as independent: then d + 1 numbers are enough.
    """
    stages = [vertices.splat(values)]
    for j in vertices.directions:
        stages.append(stages[-1] + vertices.moved(j, stages[-1])[0])
    u = vertices.splat(cotangent)
    found = np.zeros(len(vertices.directions))
    for j in reversed(vertices.directions):
        moved, _ = vertices.moved(j, u)
        found[j] = np.vdot(moved, stages[j])
        u = u + moved
    shares = [[np.mean(vertices.steps[list(group), j] ** 2) for group in groups] for j in vertices.directions]
    solution: Array = np.linalg.lstsq(np.array(shares), 4 * vertices.factor() * found, rcond=None)[0]
    return solution
