"""SimpleCRF's callers on `crfrnn.compat.simplecrf`, against labels that SimpleCRF 0.2.1 gave."""

import subprocess
import sys

import numpy as np
import pytest

from crfrnn import reference
from crfrnn.compat.simplecrf import denseCRF, denseCRF3D
from errors import raises_saying
from repository import ROOT

WEAK, STRONG = (1.5, 40, 13, 0.5, 3, 5.0), (6.0, 40, 13, 2.0, 3, 5.0)


@pytest.fixture(scope="module")
def simplecrf():
    with np.load(ROOT / "tests" / "golden" / "simplecrf.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def scene(pydensecrf):
    """A picture and probabilities (H, W, labels)."""
    return pydensecrf["image"], np.moveaxis(reference.softmax(pydensecrf["logits"]), 0, -1).astype(np.float32)


def volume_parameters(channels, **changes):
    parameters = {"MaxIterations": 3.0, "PosW": 1.0, "PosRStd": 1.5, "PosCStd": 2, "PosZStd": 3, "BilateralW": 1.5}
    parameters |= {"BilateralRStd": 5.0, "BilateralCStd": 6.0, "BilateralZStd": 4.0, "ModalityNum": channels}
    return parameters | {"BilateralModsStds": (25.0, 35.0)[:channels]} | changes


class TestPictures:
    def test_probabilities(self, simplecrf, scene):
        found = denseCRF.densecrf(*scene, WEAK)
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, simplecrf["labels_soft"])

    def test_a_mask_of_0_and_1_is_clipped_and_changes(self, simplecrf, scene):
        image, probabilities = scene
        mask = np.eye(5, dtype=np.float32)[probabilities.argmax(axis=2)]
        found = denseCRF.densecrf(image, mask, STRONG)
        np.testing.assert_array_equal(found, simplecrf["labels_one_hot"])
        assert (found != mask.argmax(axis=2)).mean() > 0.05

    def test_any_channels_and_types(self, scene):
        image, probabilities = scene
        expected = denseCRF.densecrf(image[..., :1], probabilities, WEAK)
        for given in (image[..., :1].astype(np.float64), np.asfortranarray(image[..., :1])):
            np.testing.assert_array_equal(
                denseCRF.densecrf(given, probabilities.astype(np.float64), list(WEAK)), expected
            )

    def test_bad_input(self, scene):
        image, probabilities = scene
        with raises_saying(ValueError, "param has 5 values", "(w1, alpha, beta, w2, gamma, it)"):
            denseCRF.densecrf(image, probabilities, WEAK[:5])
        with raises_saying(ValueError, "I has shape (72, 95, 3) and P (72, 96, 5)", "(H, W, channels)"):
            denseCRF.densecrf(image[:, 1:], probabilities, WEAK)
        with raises_saying(ValueError, "1 to 128 labels"):
            denseCRF.densecrf(image, np.ones((72, 96, 129)), WEAK)
        with raises_saying(ValueError, "gamma=0 must be a number above 0"):
            denseCRF.densecrf(image, probabilities, (10, 80, 13, 3, 0, 5))


class TestVolumes:
    @pytest.mark.parametrize(("name", "channels"), [("equal", 1), ("two", 2)])
    def test_labels(self, simplecrf, name, channels):
        p = simplecrf[f"volume_{name}_probabilities"]
        found = denseCRF3D.densecrf3d(
            simplecrf[f"volume_{name}"], np.stack([1 - p, p], -1), volume_parameters(channels)
        )
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, simplecrf[f"volume_{name}_labels"])
        assert (found != (p > 0.5)).mean() > 0.1

    def test_axes_are_those_of_the_array(self, simplecrf):
        """Turned volumes give turned labels, but for where points lie in the lattice; D, H and W may differ."""
        image, p = (simplecrf[f"volume_equal{part}"][:10] for part in ("", "_probabilities"))
        found = denseCRF3D.densecrf3d(image, np.stack([1 - p, p], -1), volume_parameters(1))
        turned = denseCRF3D.densecrf3d(
            np.swapaxes(image, 0, 2),
            np.swapaxes(np.stack([1 - p, p], -1), 0, 2),
            volume_parameters(1, PosRStd=3, PosZStd=1.5, BilateralRStd=4.0, BilateralZStd=5.0),
        )
        assert (np.swapaxes(turned, 0, 2) != found).mean() < 0.01

    def test_bad_input(self, simplecrf):
        image, p = simplecrf["volume_two"], simplecrf["volume_two_probabilities"]
        probabilities = np.stack([1 - p, p], -1)
        with raises_saying(KeyError, "param has no PosW, ModalityNum"):
            parameters = volume_parameters(2)
            denseCRF3D.densecrf3d(
                image,
                probabilities,
                {name: parameters[name] for name in parameters if name not in ("PosW", "ModalityNum")},
            )
        with raises_saying(ValueError, "(16, 12, 16, 2)", "ModalityNum is 1", "(25.0,)"):
            denseCRF3D.densecrf3d(image, probabilities, volume_parameters(1))


def test_install(tmp_path):
    program = (
        "from crfrnn.compat.simplecrf import install; install(); import denseCRF, denseCRF3D; "
        "print(denseCRF.__name__, denseCRF3D.densecrf3d.__module__)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stdout == "crfrnn.compat.simplecrf.denseCRF crfrnn.compat.simplecrf.denseCRF3D\n", ended.stderr
