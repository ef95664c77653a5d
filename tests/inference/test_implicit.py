"""Implicit gradients of mean field, against those of the unrolled iterations and of a direct solver."""

from dataclasses import replace

import numpy as np
import pytest

from crfrnn import reference
from crfrnn.crf import CRF, Bilateral, Exact, Given, Kernel, MeanField, Spatial
from crfrnn.inference import batch
from crfrnn.inference.adjoint import (
    ConvergenceWarning,
    array_arithmetic,
    biconjugate_gradients,
    conjugate_gradients,
)
from crfrnn.inference.backend import Execution, Inputs
from kernel_lists import scene, smooth
from solver_cases import solved_by
from tolerances import assert_close

MANY = MeanField(400, tolerance=0)
ONE = Execution(1)


def gradients(crf, inputs, couplings, cotangent, execution=ONE):
    refined, record = batch.forward(crf, inputs, couplings, True, execution)
    to_logits, to_couplings = batch.vjp(crf, inputs, cotangent, record, couplings, execution, False)[:2]
    return refined, to_logits, to_couplings, record


def implicit(crf):
    return replace(crf, solver=replace(crf.solver, gradient="implicit"))


@pytest.mark.parametrize("damping", [0.0, 0.4])
@pytest.mark.parametrize("name", ["standard", "three", "lattice and exact", "each its own", "empty"])
def test_they_are_those_of_many_iterations(rng, name, damping):
    crf, given = solved_by(replace(MANY, damping=damping), name), scene(rng)
    couplings = [-0.3 * np.eye(4) + 0.05 * rng.normal(size=(4, 4)) for _ in crf.kernels]
    inputs, cotangent = Inputs(*given), rng.normal(size=given.logits.shape)
    refined, to_logits, to_couplings, record = gradients(crf, inputs, couplings, cotangent)
    found = gradients(implicit(crf), inputs, couplings, cotangent)
    assert_close(found[0], refined, 1e-14)
    assert_close(found[1], to_logits, 1e-8)
    for ours, theirs in zip(found[2], to_couplings, strict=True):
        assert_close(ours, theirs, 1e-8)
    assert record[0].kept.shape[0] == 400
    assert [each.kept.shape for each in found[3]] == [(1, *record[0].kept.shape[1:])] * 2


def test_a_direct_solver_agrees(rng):
    """On dense matrices, with a kernel that is not symmetric, in NumPy and in the native core."""
    features = rng.normal(size=(1, 2, 3, 4))
    N = reference.DenseGaussian(features[0].reshape(2, -1).T).matrix
    N /= N.sum(axis=1, keepdims=True)
    E = -np.diag([0.9, 1.3, 0.6]) + 0.2 * rng.normal(size=(3, 3))
    logits, cotangent = rng.normal(size=(2, 1, 3, 3, 4))
    found = []
    for kernel, given in (
        (Kernel(Given("k"), filter=Exact()), features),
        (Kernel(Given("k"), normalization="none"), reference.MatrixKernel(N)),
    ):
        crf = implicit(CRF([kernel], solver=MANY))
        found.append(gradients(crf, Inputs(logits, given={"k": given}), [E], cotangent))
    q = reference.softmax(found[0][0][0].reshape(3, -1))
    J = np.zeros((3, 12, 3, 12))
    for point, column in enumerate(q.T):
        J[:, point, :, point] = np.diag(column) - np.outer(column, column)
    w = np.linalg.solve(np.eye(36) + J.reshape(36, 36) @ np.kron(E, N).T, cotangent.ravel())
    for _, to_logits, (to_coupling,), _ in found:
        assert_close(to_logits.ravel(), w, 1e-8)
        assert_close(to_coupling, -w.reshape(3, 12) @ (q @ N.T).T, 1e-8)


def test_where_iterations_swing(rng):
    """Kernels that repel: damping finds the fixed point, and the equation there is solved with and without."""
    crf = CRF([Kernel(Spatial(1.57))], solver=replace(MANY, damping=0.6))
    logits, cotangent = 0.1 * rng.normal(size=(2, 1, 2, 3, 4))
    couplings = [np.array(6.0)]
    _, to_logits, to_couplings, _ = gradients(crf, Inputs(logits), couplings, cotangent)
    found = gradients(implicit(crf), Inputs(logits), couplings, cotangent)
    assert_close(found[1], to_logits, 1e-8)
    assert_close(found[2][0], to_couplings[0], 1e-8)
    with pytest.warns(ConvergenceWarning, match="MeanField had not converged: after 400 iterations"):
        gradients(implicit(replace(crf, solver=MANY)), Inputs(logits), couplings, cotangent)


@pytest.mark.parametrize("storage", [None, "torch.float16", "torch.bfloat16"])
def test_single_precision(rng, storage):
    """Marginals are kept as they are computed, whatever the storage."""
    given = scene(rng, np.float32)
    couplings = [np.float32(-0.7), np.float32(-0.5)]
    crf = solved_by(replace(MANY, iterations=60))
    inputs, cotangent = Inputs(*given), rng.normal(size=given.logits.shape).astype(np.float32)
    _, expected, _, _ = gradients(crf, inputs, couplings, cotangent)
    _, found, _, record = gradients(implicit(crf), inputs, couplings, cotangent, Execution(1, True, storage))
    assert found.dtype == record[0].kept.dtype == np.float32
    assert_close(found, expected, 1e-3)


def test_work_is_left_out_up_to_the_tolerance(rng):
    """The forward pass of an implicit gradient is the one without gradients."""
    given = scene(rng, spatial=(40, 50), size=1)
    crf = CRF([smooth, Kernel(Bilateral(5.13, 61.7), 2.0)], solver=MeanField(100, tolerance=1e-3, gradient="implicit"))
    couplings = [np.array(-0.7), np.array(-2.0)]
    alone, _ = batch.forward(crf, Inputs(*given), couplings, False, ONE)
    kept, _ = batch.forward(crf, Inputs(*given), couplings, True, ONE)
    np.testing.assert_array_equal(kept, alone)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1.0, 1e-20, 1e-40, 1e-45, 0.0])
def test_right_hand_sides_of_any_size(rng, size):
    """Gradients through hard marginals are as small as float32 has numbers, and their inverses are infinite there."""
    S, right = 0.1 * np.ones((5, 5), np.float32), (rng.normal(size=(5, 2)) * size).astype(np.float32)
    arithmetic = array_arithmetic(right.dtype)
    solved = conjugate_gradients(lambda v: S @ v, lambda v: v, right, arithmetic)
    np.testing.assert_allclose(solved, np.linalg.solve(np.eye(5) + S, right), rtol=1e-3, atol=1e-30)
    solved = biconjugate_gradients(lambda v: v - S @ v, right, arithmetic)
    np.testing.assert_allclose(solved, np.linalg.solve(np.eye(5) - S, right), rtol=1e-3, atol=1e-30)
