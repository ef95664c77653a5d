"""The places of tests/support/places.py as a fixture, and memory that shows what a step forgot to write."""

import os

import pytest

INTERPRETED_TILE = 8192
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
IN_CUDA = [pytest.param(steps, marks=pytest.mark.gpu) for steps in ("cuda triton_steps", "cuda plain")]


@pytest.fixture(params=["cpu triton_steps"] if INTERPRETED else ["cpu plain", *IN_CUDA])
def place(request, monkeypatch):
    import torch

    from crfrnn.torch.gpu import plain
    from places import Place

    device, steps = request.param.split()
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if steps == "plain":
        return Place(device, plain)
    pytest.importorskip("triton")
    from crfrnn.torch.gpu import triton_steps

    if INTERPRETED:
        for name in ("TILE", "RUN_TILE", "LARGE_TILE", "POINTS"):
            monkeypatch.setattr(triton_steps, name, INTERPRETED_TILE)
        for name, size in (("RUN", 16), ("UNROLL", 4), ("JOINT_UNROLL", 1)):
            monkeypatch.setattr(triton_steps, name, size)
    return Place(device, triton_steps)


@pytest.fixture
def unwritten_memory_is_nan():
    """Fresh memory holds NaN, or the largest integer: what a step forgets to write cannot pass."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
