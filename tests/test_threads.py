"""Threads: the same bits for any number of them, none left behind, safe after fork, and the GIL released."""

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

import crfrnn
from crfrnn import (
    GridGaussian,
    PairwiseTerm,
    PermutohedralLattice,
    bilateral_features,
    mean_field,
    mean_field_vjp,
    mean_field_with_marginals,
    refine,
)
from crfrnn.threads import default_threads
from errors import raises_saying

COUNTS = [2, 3, 5]
# Not a multiple of any chunk, and large enough for several chunks.
SHAPE = (97, 131)
DTYPES = [np.float32, np.float64]


def photo(rng, shape=SHAPE):
    """Smooth areas, an edge and noise."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([x, y, 90 * (x > y)], axis=-1) + rng.normal(size=(*shape, 3)) * 3
    return image.clip(0, 255).astype(np.uint8)


def same_bits(one, other):
    assert one.dtype == other.dtype
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("channels", [1, 5, 21])
def test_filters(rng, dtype, transpose, channels):
    features = bilateral_features(photo(rng), 30.0, 8.0, dtype=dtype)
    values = rng.normal(size=(len(features), channels)).astype(dtype)
    lattice = PermutohedralLattice(features, threads=1)
    grid = GridGaussian(SHAPE, 3.0, dtype=dtype)
    for kernel in (lattice, grid):
        expected = kernel.filter(values, transpose=transpose, threads=1)
        for threads in COUNTS:
            same_bits(kernel.filter(values, transpose=transpose, threads=threads), expected)


@pytest.mark.parametrize("neighbour_rounds", [0, 1])
def test_construction(rng, neighbour_rounds):
    features = bilateral_features(photo(rng), 30.0, 8.0)
    expected = PermutohedralLattice(features, neighbour_rounds=neighbour_rounds, threads=1)
    for threads in COUNTS:
        lattice = PermutohedralLattice(features, neighbour_rounds=neighbour_rounds, threads=threads)
        same_bits(lattice.vertices, expected.vertices)
        same_bits(lattice.weights, expected.weights)
        same_bits(lattice.neighbours, expected.neighbours)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coupling", ["number", "vector", "matrix"])
def test_mean_field_and_its_gradient(rng, dtype, coupling):
    classes = 7
    lattice = PermutohedralLattice(bilateral_features(photo(rng), 30.0, 8.0, dtype=dtype))
    weight = {"number": 2.0, "vector": rng.random(classes), "matrix": rng.normal(size=(classes, classes))}[coupling]
    terms = [PairwiseTerm(GridGaussian(SHAPE, 3.0, dtype=dtype), weight), PairwiseTerm(lattice, weight, "symmetric")]
    unary = rng.normal(size=(classes, *SHAPE)).astype(dtype)
    cotangent = rng.normal(size=unary.shape).astype(dtype)

    def everything(threads):
        logits, marginals = mean_field_with_marginals(unary, terms, iterations=3, threads=threads)
        gradients = mean_field_vjp(cotangent, marginals, terms, threads=threads)
        probabilities = mean_field(unary, terms, iterations=3, return_probabilities=True, threads=threads)
        return [logits, probabilities, gradients.unary, *map(np.asarray, gradients.weights)]

    expected = everything(1)
    for threads in COUNTS:
        for ours, theirs in zip(everything(threads), expected, strict=True):
            same_bits(ours, theirs)


def test_refine(rng):
    image = photo(rng)
    scores = rng.normal(size=(4, *SHAPE)).astype(np.float32)
    expected = refine(scores, image, threads=1)
    for threads in COUNTS:
        same_bits(refine(scores, image, threads=threads), expected)


def test_again_gives_the_same_bits(rng):
    image = photo(rng)
    scores = rng.normal(size=(4, *SHAPE)).astype(np.float32)
    same_bits(refine(scores, image), refine(scores, image))


def test_calls_from_several_python_threads(rng):
    """One kernel, used by many threads at once: no state is shared between calls."""
    lattice = PermutohedralLattice(bilateral_features(photo(rng), 30.0, 8.0))
    values = [rng.normal(size=(lattice.num_points, channels)).astype(np.float32) for channels in (3, 9, 21, 3)]
    expected = [lattice.filter(v, threads=1) for v in values]
    results = [None] * len(values)

    def work(i):
        for _ in range(5):
            results[i] = lattice.filter(values[i], threads=2)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(values))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result, truth in zip(results, expected, strict=True):
        same_bits(result, truth)


def test_the_gil_is_released(rng):
    """While one thread filters, another one runs Python: it is switched to even though switching is put off."""
    lattice = PermutohedralLattice(rng.normal(size=(60_000, 5)).astype(np.float32))
    values = rng.normal(size=(60_000, 64)).astype(np.float32)
    filtering, seen = threading.Event(), []

    def work():
        filtering.set()
        lattice.filter(values, threads=1)
        filtering.clear()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        while worker.is_alive():
            # Sleeping gives the GIL up; without release inside the filter we only get it back when that has ended.
            time.sleep(0)
            seen.append(filtering.is_set())
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert sum(seen) > 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_native_code_works_after_fork(rng):
    """Worker pools fork after the parent has computed: a pool of threads that died in the fork would deadlock."""
    image = photo(rng)
    scores = rng.normal(size=(4, *SHAPE)).astype(np.float32)
    expected = refine(scores, image, threads=3)
    child = os.fork()
    if child == 0:
        try:
            same_bits(refine(scores, image, threads=3), expected)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked child hung in native code")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    same_bits(refine(scores, image, threads=3), expected)


CHILDREN = """
import os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from crfrnn import CRFParameters, GridGaussian, PairwiseTerm, mean_field, refine, refine_tiled

def work(seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, 60, 70)).astype(np.float32)
    image = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
    parameters = CRFParameters(theta_beta=10 + seed, iterations=2, solver=("mean-field", "frank-wolfe")[seed % 2])
    found = [refine(scores, image, parameters, threads=2), refine_tiled(scores, image, "photos", tile=40, overlap=9)]
    terms = [PairwiseTerm(GridGaussian((60, 70), 2.0))]
    return b"".join(np.ascontiguousarray(each).tobytes() for each in [*found, mean_field(scores, terms)])

expected = {seed: work(seed) for seed in range(4)}
stop = threading.Event()
def keep_on(seed):
    while not stop.is_set():
        assert work(seed) == expected[seed]
pool = ThreadPoolExecutor(3)
running = [pool.submit(keep_on, seed) for seed in range(3)]

def child(seed):
    with ThreadPoolExecutor(2) as own:  # a pool in the child, too
        for one, result in zip((seed, 3), own.map(work, (seed, 3))):
            assert result == expected[one]

for number in range(12):
    time.sleep(0.003 * number)
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # ends a child that waits for ever
        try:
            child(number % 4)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"child {number} ended with {os.waitstatus_to_exitcode(status)}"
stop.set()
for each in running:
    each.result()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_while_other_threads_refine():
    """No lock is held across Python code: a child would wait for ever for one that another thread held."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILDREN], capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


LOCKS = ("threading.Lock", "threading.RLock", "cached_property", "import Lock", "import RLock", "multiprocessing")


def test_there_are_no_locks():
    """Where the process may be forked, that is everywhere but in what the command line and its page run."""
    package = Path(crfrnn.__file__).parent
    holders = {
        str(module.relative_to(package)): lock
        for module in package.rglob("*.py")
        for lock in LOCKS
        if lock in module.read_text("utf-8") and module.parent.name not in ("cli", "web")
    }
    assert not holders


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="only Linux lists the threads of a process")
def test_no_thread_outlives_its_call(rng):
    scores, image = rng.normal(size=(4, *SHAPE)).astype(np.float32), photo(rng)
    before = len(os.listdir("/proc/self/task"))
    for threads in (2, 5, 9):
        refine(scores, image, threads=threads)
    assert len(os.listdir("/proc/self/task")) <= before


@pytest.mark.parametrize(("setting", "expected"), [("1" * 20, 1024), ("3", 3), ("2,4", 2), (" 5 ", 5)])
def test_omp_num_threads_is_the_default(monkeypatch, setting, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert default_threads() == expected


@pytest.mark.parametrize("setting", ["", "0", "-1", "many", ",2"])
def test_a_useless_omp_num_threads_is_ignored(monkeypatch, setting):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    usual = default_threads()
    assert 1 <= usual <= os.cpu_count()
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert default_threads() == usual


@pytest.mark.parametrize(
    ("threads", "error", "facts"),
    [
        (0, ValueError, ["threads=0", "at least 1"]),
        (-2, ValueError, ["threads=-2", "at least 1"]),
        (1.5, TypeError, ["threads=1.5", "integer"]),
        ("2", TypeError, ["threads='2'", "integer"]),
    ],
)
def test_bad_thread_counts(rng, threads, error, facts):
    lattice = PermutohedralLattice(rng.normal(size=(9, 2)))
    with raises_saying(error, *facts):
        lattice.filter(np.ones(9), threads=threads)
    with raises_saying(error, *facts):
        PermutohedralLattice(rng.normal(size=(9, 2)), threads=threads)


def test_more_threads_than_any_machine_has_are_no_error(rng):
    values = rng.normal(size=9)
    kernel = GridGaussian((9,), 2.0)
    same_bits(kernel.filter(values, threads=10**12), kernel.filter(values, threads=1))
