"""Data that tests of several rooms share: golden files, in tests/golden, and larger real data where it is there."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from repository import ROOT

# The same examples every time: a test that passes on one machine passes on another. `make fuzz` tries others.
settings.register_profile(
    "crfrnn", max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("crfrnn")


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(ROOT / "tests" / "golden" / f"{name}.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def pydensecrf() -> dict[str, np.ndarray]:
    """Inputs and outputs of pydensecrf."""
    return golden("pydensecrf")


@pytest.fixture(scope="session")
def crfrnn_layer() -> dict[str, np.ndarray]:
    """Inputs, output and gradients of the original PyTorch CRF-RNN layer."""
    return golden("crfrnn_layer")


@pytest.fixture(autouse=True, scope="session")
def interrupts() -> None:
    """A job in the background of a shell ignores SIGINT, one under nohup SIGHUP, and so would all that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="module")
def compiled() -> Iterator[None]:
    """What torch.compile keeps ends with the file: it compiles a function a few times only, in all of a process.

    So does what is kept for gradients of graphs that are still alive, as tracebacks may hold them.
    """
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
    if "crfrnn.torch.kept" in sys.modules:
        sys.modules["crfrnn.torch.kept"]._entries.clear()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20110615)


@pytest.fixture(scope="session")
def voc_photo() -> tuple[np.ndarray, np.ndarray]:
    """A real photo (H, W, 3) and a real network's logits for it (21, H, W)."""
    folder = Path(os.environ.get("CRFRNN_DATA", ROOT.parent / "shared" / "data")) / "voc_animals"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there (set CRFRNN_DATA to the folder that holds voc_animals)")
    name = "2007_006171"
    photo = Image.open(folder / "images" / f"{name}.jpg").convert("RGB")
    with np.load(next((folder / "logits33").glob(f"{name}*.npz"))) as archive:
        logits = archive["logits"].astype(np.float32)
    # The 33×33 logits cover a 513×513 canvas, with the photo, its longer side 513, at the top left.
    scale = 513 / max(photo.size)
    covered = (0, 0, round(photo.width * scale), round(photo.height * scale))
    planes = [
        Image.fromarray(plane).resize((513, 513), Image.BILINEAR).crop(covered).resize(photo.size, Image.BILINEAR)
        for plane in logits
    ]
    return np.asarray(photo), np.stack([np.asarray(plane) for plane in planes])
