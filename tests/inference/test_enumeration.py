"""Mean field against the true marginals, found by enumerating every labelling of a tiny grid."""

import numpy as np
import pytest

from crfrnn import GridGaussian, PairwiseTerm, PermutohedralLattice, mean_field, reference


class WithoutSelf(reference.MatrixKernel):
    """A kernel without self-pairs, as equation 1 (i < j) has it."""

    def __init__(self, matrix):
        super().__init__(matrix - np.diag(np.diagonal(matrix)))


def grid_features(height, width, scale):
    y, x = np.mgrid[:height, :width]
    return np.stack([x.ravel(), y.ravel()], axis=1) / scale


def error(unary, kernel, coupling, compatibility=None):
    """Largest error of converged mean field (and of the unary alone) against enumeration."""
    M = -np.eye(len(unary)) if compatibility is None else compatibility
    truth = reference.enumerate_marginals(unary, [kernel.matrix], [M * coupling])
    terms = [PairwiseTerm(kernel, coupling, "none")]
    q = mean_field(unary, terms, iterations=50, compatibility=compatibility, return_probabilities=True)
    return np.abs(q - truth).max(), np.abs(reference.softmax(unary) - truth).max()


def test_without_coupling_mean_field_is_exact(rng):
    kernel = WithoutSelf(reference.DenseGaussian(grid_features(2, 3, 1.0)).matrix)
    assert error(rng.normal(size=(3, 6)), kernel, 0.0)[0] < 1e-12


@pytest.mark.parametrize(("classes", "height", "width"), [(2, 3, 4), (3, 2, 4), (4, 2, 3), (2, 1, 2)])
@pytest.mark.parametrize("potts", [True, False])
def test_weak_coupling_approaches_the_true_marginals(rng, classes, height, width, potts):
    """What mean field leaves out is of second order in the coupling: an eighth of it leaves a 64th of the error."""
    kernel = WithoutSelf(reference.DenseGaussian(grid_features(height, width, 1.2)).matrix)
    unary = rng.normal(size=(classes, height * width))
    compatibility = None
    if not potts:
        compatibility = rng.normal(size=(classes, classes))
        compatibility += compatibility.T
    strong, baseline = error(unary, kernel, 0.08, compatibility)
    weak, _ = error(unary, kernel, 0.01, compatibility)
    assert strong < 0.5 * baseline
    assert 40 < strong / weak < 100


@pytest.mark.parametrize("kind", ["grid", "lattice"])
def test_fast_kernels_approach_the_true_marginals(rng, kind):
    """The fast kernels send q_i to pixel i too, so their error is of first order: it shrinks with the coupling."""
    features = grid_features(3, 4, 1.2)
    fast = GridGaussian((3, 4), 1.2, dtype=np.float64) if kind == "grid" else PermutohedralLattice(features)
    exact = reference.DenseGaussian(features)
    unary = rng.normal(size=(2, 12))
    errors = []
    for coupling in (0.2, 0.02, 0.002):
        truth = reference.enumerate_marginals(unary, [exact.matrix], [-coupling])
        q = mean_field(unary, [PairwiseTerm(fast, coupling, "none")], iterations=50, return_probabilities=True)
        errors.append(np.abs(q - truth).max())
    assert errors[2] < 0.15 * errors[1] < 0.15 * 0.15 * errors[0] < 0.15 * 0.15
    assert errors[2] < 1e-3


def test_enumeration_by_hand():
    """Two pixels, two classes: p(x) ∝ exp(U_1[x_1] + U_2[x_2] + w [x_1 = x_2])."""
    unary = np.array([[0.3, -0.2], [0.0, 0.5]])
    weight = 0.7
    score = np.array([[unary[a, 0] + unary[b, 1] + weight * (a == b) for b in (0, 1)] for a in (0, 1)])
    p = np.exp(score) / np.exp(score).sum()
    marginals = reference.enumerate_marginals(unary, [np.ones((2, 2))], [-weight])
    np.testing.assert_allclose(marginals, np.stack([p.sum(axis=1), p.sum(axis=0)], axis=1))


def test_enumeration_refuses_large_grids():
    with pytest.raises(ValueError, match=r"5 classes on 40 points have \d+ labellings"):
        reference.enumerate_marginals(np.zeros((5, 40)), [], [])
