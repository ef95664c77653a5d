"""`crfrnn.keras` on each of Keras' backends. Keras knows one backend a process, so each has a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SUITES = (
    "keras_layer_suite.py",
    "keras_kernels_suite.py",
    "keras_guides_suite.py",
    "keras_losses_suite.py",
    "keras_training_suite.py",
    "keras_backend_suite.py",
    "keras_model_suite.py",
)
BACKENDS = ("tensorflow", "jax", "torch")
TIMEOUT = 900

# At this size JAX hands arrays to callbacks by way of its own threads, of which one processor has a single one.
ON_ONE_PROCESSOR = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, numpy as np
from crfrnn.keras import CrfRnnLayer
crf = CrfRnnLayer(None, 21, num_iterations=0)
logits, image = np.ones((1, 400, 500, 21), np.float32), np.zeros((1, 400, 500, 3), np.float32)
crf([logits, image])
weights = [weight.value for weight in crf.trainable_variables]
refine = jax.jit(lambda logits: crf.stateless_call(weights, [], [logits + 1, image])[0])
for _ in range(40):
    jax.block_until_ready(refine(logits))
"""


def run(
    backend: str, arguments: list[str], timeout: float, level: str | None = "3"
) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with this process's path and the given backend."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    if level is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def need(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: needs the keras extra and its backends")


@pytest.mark.parametrize("backend", BACKENDS)
def test_suites(backend: str) -> None:
    need("keras", "h5py", backend)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "keras_calls", "--tb=short", *SUITES]
    process = run(backend, command, TIMEOUT)
    assert process.returncode == 0, f"{process.stdout[-20_000:]}\n{process.stderr[-5_000:]}"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to processors")
def test_large_arrays_come_through_on_one_processor() -> None:
    """jax.pure_callback hangs here, within some tens of calls."""
    need("keras", "jax")
    process = run("jax", ["-c", ON_ONE_PROCESSOR], timeout=120)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    ("backend", "missing", "facts"),
    [
        ("torch", "keras", ("crfrnn.keras needs Keras 3", "keras is not installed", "pip install 'crfrnn[keras]'")),
        ("jax", "jax", ("KERAS_BACKEND", "jax is not installed", "tensorflow, jax or torch")),
        ("numpy", None, ("tensorflow, jax and torch, not on numpy", "KERAS_BACKEND")),
    ],
)
def test_what_is_missing_is_named(backend: str, missing: str | None, facts: tuple[str, ...]) -> None:
    if missing != "keras":
        need("keras")
    hidden = f"sys.modules[{missing!r}] = None; " if missing else ""
    process = run(backend, ["-c", f"import sys; {hidden}import crfrnn.keras"], timeout=120)
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    for fact in facts:
        assert fact in last


def test_tensorflow_makes_no_remarks() -> None:
    """What others say on stderr meanwhile is kept."""
    need("keras", "h5py", "tensorflow")
    said = "import os, sys, atexit, importlib.abc\n"
    said += "class Told(importlib.abc.MetaPathFinder):\n"
    said += "    def find_spec(self, name, path=None, target=None):\n"
    said += "        name == 'tensorflow' and os.write(2, b'told\\n')\n"
    said += "sys.meta_path.insert(0, Told())\n"
    said += "import crfrnn.keras; print('tensorflow' in sys.modules)"
    process = run("tensorflow", ["-c", said], timeout=120, level=None)
    assert (process.stdout, process.stderr) == ("True\n", "told\n")


def test_keras_stays_in_its_room() -> None:
    program = "import sys, crfrnn, crfrnn.cli; print(sorted({'keras', 'tensorflow', 'jax'} & set(sys.modules)))"
    process = run("torch", ["-c", program], timeout=120)
    assert process.stdout.strip() == "[]"
