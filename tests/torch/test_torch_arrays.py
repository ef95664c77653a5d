"""`refine(..., device=)`: the same numbers through tensors."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crfrnn import CRFParameters, refine  # noqa: E402
from crfrnn.cli import main  # noqa: E402
from errors import raises_saying  # noqa: E402

pytestmark = pytest.mark.torch

SHAPE = (11, 15)
PARAMETERS = CRFParameters(theta_alpha=5, theta_beta=30, iterations=4)


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (*SHAPE, 3), np.uint8)


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_as_the_native_core(rng, image, classes, dtype):
    logits, mask = rng.normal(0, 2, (classes, *SHAPE)).astype(dtype), (rng.random(SHAPE) < 0.9).astype(float)
    options = {"mask": mask, "spacing": (0.5, 0.8)}
    refined = refine(logits, image, PARAMETERS, device="cpu", **options)
    assert refined.dtype == dtype
    np.testing.assert_allclose(refined, refine(logits, image, PARAMETERS, **options), atol=1e-6)
    labels = refine(logits, image, PARAMETERS, device="cpu", return_labels=True, **options)
    expected = refine(logits, image, PARAMETERS, return_labels=True, **options)
    assert labels.dtype == expected.dtype
    np.testing.assert_array_equal(labels, expected)


def test_without_an_image(rng):
    logits, parameters = rng.normal(size=(3, *SHAPE)), CRFParameters(bilateral_weight=0)
    np.testing.assert_allclose(
        refine(logits, None, parameters, device="cpu"), refine(logits, None, parameters), atol=1e-12
    )


def test_what_a_device_does_not_do(rng, image):
    logits = rng.normal(size=(3, *SHAPE))
    with raises_saying(ValueError, "device='cudda'", "not available"):
        refine(logits, image, device="cudda")
    with raises_saying(ValueError, "origin=(3, 0)", "device='cpu'"):
        refine(logits, image, device="cpu", origin=(3, 0))
    if not torch.cuda.is_available():
        with raises_saying(ValueError, "device='cuda'", "not available"):
            refine(logits, image, device="cuda")


def test_command(rng, image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("scores.npy", rng.normal(size=(3, *SHAPE)).astype(np.float32))
    np.save("image.npy", image)
    assert main(["refine", "scores.npy", "image.npy", "-o", "here.npy", "--device", "cpu"]) == 0
    assert main(["refine", "scores.npy", "image.npy", "-o", "there.npy"]) == 0
    np.testing.assert_allclose(np.load("here.npy"), np.load("there.npy"), atol=1e-6)
    with pytest.raises(SystemExit):
        main(["refine", "scores.npy", "image.npy", "-o", "here.npy", "--device", "cpu", "--tile", "9"])
    assert "--device does not go with tiles" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_told_once_for_a_folder(rng, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("scores", "images"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        np.save(f"scores/{name}.npy", rng.normal(size=(3, *SHAPE)).astype(np.float32))
        np.save(f"images/{name}.npy", np.zeros((*SHAPE, 3), np.uint8))
    assert main(["refine", "scores", "images", "-o", "out", "--device", "cudda"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("crfrnn refine: error: --device cudda is not available")
    assert said.err.count("is not available") == 1
