"""`python -m benchmarks.gpu`: that it runs to its end without a GPU, and says what it needs for figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.machine import commit  # noqa: E402


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_smoke(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    process = run("--smoke", "--output", str(output))
    assert process.returncode == 0, process.stderr
    results = json.loads(output.read_text())
    measured = "goals folder exact parts kernels copy steps others calls choices"
    parts = {"check", "exact_error", *measured.split()}
    assert set(results) == {"machine", "failed", *parts}
    assert not results["failed"]
    exact = [row for row in results["check"] if row["mode"].endswith("float32")]
    assert all(row["probabilities"] < 1e-4 and row["gradients"] < 1e-3 for row in exact)
    assert results["exact_error"] < 1e-5
    modes = {f"{order} order, {storage}" for order in ("fixed", "any") for storage in ("float32", "bfloat16")}
    assert {row["mode"] for row in results["check"]} == {*modes, "fixed order, float16"}
    steps = {row["step"].split(",")[0] for row in results["steps"]}
    assert steps > {"embed", "splat", "two blurs", "slice", "convolve", "update", "backstep"}
    assert all(row["case"] in process.stdout for row in [*results["goals"], *results["calls"]])
    assert all(call["launches"] > 0 for call in results["kernels"].values())


def test_no_part_begins_too_late(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    process = run("--smoke", "--seconds", "0", "--output", str(output))
    assert process.returncode == 1
    results = json.loads(output.read_text())
    assert results["failed"] == {"check": "no time was left", "exact_error": "no time was left"}
    assert "check: no time was left" in process.stdout


def test_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so() -> None:
    process = run()
    assert process.returncode == 2
    assert "no CUDA device" in process.stderr
    assert "--smoke" in process.stderr
