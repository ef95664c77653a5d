"""Memory: what cannot fit is refused in words, nothing leaks, and every element of a result is written."""

import gc
import os

import numpy as np
import pytest

from crfrnn import (
    GridGaussian,
    PairwiseTerm,
    PermutohedralLattice,
    mean_field,
    mean_field_vjp,
    mean_field_with_marginals,
    memory,
    refine,
    unary_from_labels,
)
from crfrnn.files.resize import resize_scores
from errors import raises_saying


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)


def test_available_memory_is_plausible():
    available = memory.available_memory()
    assert available is None or 1e6 < available < 1e15


def test_enough_memory_is_not_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    memory.require_memory(1000, "a small thing")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.require_memory(10**18, "a thing on a system that does not say what it has")


@pytest.mark.usefixtures("little_memory")
def test_a_lattice_that_does_not_fit():
    with raises_saying(MemoryError, "a lattice of 500 points in 3 dimensions", "1e-06 GB", "smaller image"):
        PermutohedralLattice(np.zeros((500, 3)))


def test_a_mean_field_that_does_not_fit(rng, monkeypatch):
    terms = [PairwiseTerm(GridGaussian((20, 30), 2.0))]
    unary = rng.normal(size=(5, 20, 30)).astype(np.float32)
    mean_field(unary, terms)
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with raises_saying(MemoryError, "a mean field of 600 points and 5 classes", "1e-06 GB", "smaller image"):
        mean_field(unary, terms)


@pytest.mark.usefixtures("little_memory")
def test_refine_that_does_not_fit(rng):
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    with raises_saying(MemoryError, "refining 5 classes on 20 × 30 pixels", "1e-06 GB is available"):
        refine(rng.normal(size=(5, 20, 30)).astype(np.float32), image)


@pytest.mark.usefixtures("little_memory")
def test_scores_of_many_classes_that_do_not_fit():
    with raises_saying(MemoryError, "scores of 26001 classes on 600 pixels", "1e-06 GB", "fewer classes"):
        unary_from_labels(np.full((20, 30), 26000), 26001, zero_unsure=False)


@pytest.mark.usefixtures("little_memory")
def test_stretching_that_does_not_fit():
    with raises_saying(MemoryError, "stretching 5 classes over 30×20 pixels", "1e-06 GB", "smaller image"):
        resize_scores(np.zeros((5, 2, 3), np.float32), (20, 30))


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="only Linux tells the resident size of a process")
def test_memory_does_not_grow(rng):
    """A lattice that is never freed would grow by half a megabyte a call here, 50 MB in all."""
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    scores = rng.normal(size=(4, 40, 60)).astype(np.float32)
    lattice_bytes = PermutohedralLattice(rng.normal(size=(2400, 5)).astype(np.float32)).weights.nbytes
    calls = 100

    def call():
        terms = [PairwiseTerm(PermutohedralLattice(image.reshape(-1, 3) / np.float32(3)))]
        logits, marginals = mean_field_with_marginals(scores, terms, iterations=2)
        mean_field_vjp(logits, marginals, terms)
        refine(scores, image, "crfrnn", threads=2)

    for _ in range(20):
        call()
    gc.collect()
    before = resident_bytes()
    for _ in range(calls):
        call()
    gc.collect()
    assert resident_bytes() - before < calls * lattice_bytes / 2


def dirty_heap(nbytes):
    """Fill memory that the next results may be made of with NaN, and give it back."""
    blocks = [np.full(nbytes // 4, np.nan, np.float32) for _ in range(8)]
    del blocks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 21, 24, 40, 70])
def test_every_element_is_written(rng, channels, dtype):
    """Results come in fresh memory; it is filled with NaN beforehand, so an element left out would show."""
    shape = (11, 13)
    n = 11 * 13
    kernels = [GridGaussian(shape, 2.0, dtype=dtype), PermutohedralLattice(rng.normal(size=(n, 4)).astype(dtype))]
    values = rng.normal(size=(n, channels)).astype(dtype)
    unary = rng.normal(size=(channels, *shape)).astype(dtype)
    terms = [PairwiseTerm(kernel) for kernel in kernels]
    nbytes = n * channels * np.dtype(dtype).itemsize
    for _ in range(3):
        for kernel in kernels:
            dirty_heap(nbytes)
            assert np.isfinite(kernel.filter(values)).all()
        for iterations in (0, 1, 3):
            dirty_heap(nbytes)
            logits, marginals = mean_field_with_marginals(unary, terms, iterations=iterations)
            assert np.isfinite(logits).all()
            assert np.isfinite(marginals).all()
            dirty_heap(nbytes)
            assert np.isfinite(mean_field_vjp(unary, marginals, terms).unary).all()
