"""The Triton kernels without a GPU: interpreted on the CPU against the truth, and compiled for a card."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
triton = pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA, and alone with the dev extra")
pytestmark = pytest.mark.torch

TESTS = Path(__file__).resolve().parent
TIMEOUT = 900
KERNELS = {
    "embed",
    "find_neighbours",
    "sum_runs",
    "join_spans",
    "join_runs",
    "clear",
    "add_corners",
    "blur",
    "couple_values",
    "slice_values",
    "add_corner_products",
    "convolve",
    "update",
    "begin",
    "end",
    "products",
    "corner_keys",
    "list_vertices",
    "cut_runs",
    "backstep",
}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with this process's path."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9), reason="older interpreters fail on NumPy 2.4"
)
def test_the_kernels_compute_what_plain_torch_does() -> None:
    command = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=short",
        "test_device_blocks.py",
        "test_device_steps.py",
        "test_device_guide.py",
    ]
    process = run(*command, TRITON_INTERPRET="1")
    assert process.returncode == 0, f"{process.stdout[-20_000:]}\n{process.stderr[-5_000:]}"
    assert " passed" in process.stdout


@pytest.mark.parametrize("capability", ["80", "90", "100"])
def test_every_kernel_compiles_for_a_card(tmp_path: Path, capability: str) -> None:
    process = run("triton_compile_suite.py", capability, TRITON_CACHE_DIR=str(tmp_path))
    assert process.returncode == 0, process.stderr[-5_000:]
    assert {line.split()[0] for line in process.stdout.splitlines()} == KERNELS
