"""Every instruction set of the native core that this processor has: golden outputs, adjoints, NumPy twins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
CHECKS = [
    "test_golden.py",
    "kernels/test_grid.py",
    "kernels/test_lattice.py::test_weights_are_barycentric",
    "kernels/test_lattice.py::test_filter_of_every_channel_count",
    "kernels/test_lattice.py::test_transpose_is_adjoint",
]


def python(instruction_set: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process whose native core takes this instruction set, or the best one below it that the processor has."""
    environment = {**os.environ, "CRFRNN_SIMD": instruction_set}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("instruction_set", ["baseline", "avx2", "avx512"])
def test_instruction_set(instruction_set: str) -> None:
    chosen = python(instruction_set, "-c", "import crfrnn; print(crfrnn.native_info()['simd'])")
    assert chosen.returncode == 0, chosen.stderr
    if chosen.stdout.strip() != instruction_set:
        pytest.skip(f"this processor, or this build, has no {instruction_set}: it would run {chosen.stdout.strip()}")
    checks = [str(TESTS / check) for check in CHECKS]
    result = python(instruction_set, "-m", "pytest", "-q", "-p", "no:cacheprovider", *checks)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
