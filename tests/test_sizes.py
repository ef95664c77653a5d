"""Sizes that multiply to more than integers or memory hold: an error in words, not a crash."""

import subprocess
import sys

import numpy as np
import pytest

from crfrnn import PairwiseTerm, mean_field_vjp, mean_field_with_marginals, memory
from crfrnn.kernels import lattice
from crfrnn.kernels.lattice import PermutohedralLattice
from errors import raises_saying

resource = pytest.importorskip("resource", reason="this system has no limits of processes")

PREAMBLE = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
import numpy as np
from crfrnn import *
"""
CALLS = {
    "GridGaussian((2**40,), 1e10)": "ValueError: shape",
    "GridGaussian((2**45,), 1e15, np.float64)": "ValueError: shape",
    "GridGaussian((2**63,), 1.0)": "ValueError: shape",
    "GridGaussian((2**31, 2**33), 1.0)": "ValueError: shape",
    "GridGaussian((2**32,) * 4, 1.0)": "ValueError: shape",
    "GridGaussian((2**20, 2**20, 2**8), 1e300)": "MemoryError: a grid of",
    "GridGaussian((10,), 1e300).norm()": "",
    "spatial_features((2**40,), 3.0)": "MemoryError: features of",
    "spatial_features((2**63,), 3.0)": "ValueError: shape",
    "pairwise_terms(None, 'crfrnn', bilateral_weight=0, shape=(2**40, 2**40))": "ValueError: shape",
    "refine(np.zeros((2, 3, 3)), np.zeros((3, 3, 3), 'u1'), origin=(2**62, 0))": "ValueError: origin",
    "refine(np.zeros((2, 3, 3)), None, CRF([], solver=MeanField(2**31 - 1)), return_activity=True)": "MemoryError: ",
    "refine(np.broadcast_to(np.float32(0), (2, 2**20, 2**20)), None, CRF([]))": "MemoryError: scores of shape",
    "refine(np.zeros((40000, 1, 1)), np.zeros((1, 1, 3), 'u1')).shape": "",
    "PermutohedralLattice(np.broadcast_to(np.float32(0), (2**36, 3)))": "MemoryError: features of shape",
    "ExactGaussian(np.zeros((2, 2**24), 'f4')).num_points": "MemoryError: ",
    "ExactGaussian(np.zeros((2, 2**25), 'f4')).num_points": ("ValueError: ExactGaussian", "MemoryError: "),
    "GridGaussian((4,), 1.0).filter(np.broadcast_to(np.float32(0), (4, 2**40)))": "MemoryError: values of shape",
    "refine_tiled(np.zeros((2, 9, 9)), np.zeros((9, 9, 3), 'u1'), memory=10**400).shape": "",
    "refine_tiled(np.zeros((2, 9, 9)), np.zeros((9, 9, 3), 'u1'), memory='9e999GB')": "ValueError: memory",
}
PROGRAM = """
for call, expected in CALLS.items():
    try:
        eval(call)
        said = ""
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    assert said.startswith(expected) and bool(said) == bool(expected), (call, said)
    assert "bad_alloc" not in said and "incompatible function" not in said, (call, said)
"""


def test_sizes_that_overflow():
    """One process for all calls: what crashes one of them fails the test."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{PREAMBLE}CALLS = {CALLS!r}\n{PROGRAM}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


@pytest.mark.parametrize(("d", "rounds"), [(8, 1), (12, 1), (16, 1), (8, 2)])
def test_neighbours_are_counted_before_there_is_memory_for_them(monkeypatch, rng, d, rounds):
    """The vertices of rough features multiply with every round, which only those that are there tell."""
    features = rng.normal(size=(60, d)) * 30
    monkeypatch.setattr(lattice, "MANY_VERTICES", 0)
    monkeypatch.setattr(lattice, "available_memory", lambda: None)
    vertices = PermutohedralLattice(features, neighbour_rounds=rounds).num_vertices
    assert vertices > 8 * rounds * 60 * (d + 1)
    monkeypatch.setattr(lattice, "available_memory", lambda: 16 * vertices)
    with raises_saying(MemoryError, f"60 points in {d} dimensions", f"neighbour_rounds={rounds}", "fewer"):
        PermutohedralLattice(features, neighbour_rounds=rounds)


def test_an_exact_kernel_counts_whole_blocks():
    """Two points take as much as 64."""
    assert memory.exact_bytes(2, 1000, 4) == memory.exact_bytes(64, 1000, 4) >= 64 * 1000 * 4


@pytest.mark.parametrize(
    ("text", "amount"), [("4GB", 4e9), ("500 mb", 5e8), ("1.5T", 1.5e12), ("20k", 2e4), (".5 g", 5e8)]
)
def test_amounts_of_memory(text, amount):
    assert memory.byte_count(text) == amount


@pytest.mark.parametrize("text", ["", "GB", "4 GiB", "-1GB", "1e9", "123", "nan"])
def test_no_amounts_of_memory(text):
    with raises_saying(ValueError, "amount of memory", "4GB"):
        memory.byte_count(text)


def test_results_of_many_classes_take_no_square_of_them(rng):
    """A weight that is a number is no matrix: 40 000 classes squared are 6 GB."""
    terms = [PairwiseTerm(PermutohedralLattice(np.zeros((1, 1), np.float32)))]
    unary = rng.normal(size=(40_000, 1)).astype(np.float32)
    logits, marginals = mean_field_with_marginals(unary, terms, iterations=1)
    # One point hears itself: a lattice point at a vertex weighs itself 1 after normalisation.
    q = np.exp(unary - unary.max())
    q /= q.sum()
    np.testing.assert_allclose(logits, unary + q, atol=1e-5)
    assert mean_field_vjp(logits, marginals, terms).unary.shape == unary.shape
