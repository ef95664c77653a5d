"""Odd objects are refused by the names of the other tools' arguments, in words of the package."""

import numpy as np
import pytest

from crfrnn.compat.bilateral_solver import bilateral_solver_output, fastBilateralSolverFilter
from crfrnn.compat.pydensecrf import densecrf, utils
from crfrnn.compat.simplecrf import denseCRF, denseCRF3D
from errors import raises_saying

H, W = 5, 6
IMAGE = np.zeros((H, W, 3), np.uint8)
GREY = np.zeros((H, W), np.uint8)
SCORES = np.full((H, W, 2), 0.5, np.float32)
RAGGED = [[1, 2], [3]]


def crf():
    made = densecrf.DenseCRF2D(W, H, 2)
    made.setUnaryEnergy(np.zeros((2, H * W), np.float32))
    return made


@pytest.mark.parametrize("value", [None, 1.5, "after", np.array([1, 2])], ids=str)
@pytest.mark.parametrize("name", ["kernel", "normalization"])
def test_constants_of_pydensecrf(name, value):
    with raises_saying(TypeError, f"{name}=", "pydensecrf's constants"):
        crf().addPairwiseGaussian(3, 3, **{name: value})


def test_a_constant_in_an_array():
    found, expected = crf(), crf()
    found.addPairwiseGaussian(3, 3, normalization=np.array(densecrf.NORMALIZE_BEFORE))
    expected.addPairwiseGaussian(3, 3, normalization=densecrf.NORMALIZE_BEFORE)
    np.testing.assert_array_equal(found.inference(2), expected.inference(2))


@pytest.mark.filterwarnings("ignore:softmax_to_unary is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("call", "error", "facts"),
    [
        (lambda: utils.softmax_to_unary(SCORES.T, np.array([])), ValueError, ["GT_PROB"]),
        (lambda: denseCRF.densecrf(RAGGED, SCORES, (1, 2, 3, 4, 5, 6)), TypeError, ["I", "array of numbers"]),
        (lambda: denseCRF3D.densecrf3d(IMAGE, SCORES, True), TypeError, ["param=True", "MaxIterations"]),
        (lambda: fastBilateralSolverFilter(RAGGED, GREY, GREY), TypeError, ["guide", "array of numbers"]),
        (lambda: fastBilateralSolverFilter(IMAGE, RAGGED, GREY), TypeError, ["src", "array of numbers"]),
        (lambda: bilateral_solver_output(IMAGE, "mask.png"), TypeError, ["target", "real numbers"]),
    ],
)
def test_arrays_that_are_none(call, error, facts):
    with raises_saying(error, *facts):
        call()


@pytest.mark.torch
def test_modules_of_torch():
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from crfrnn.compat.monai import CRF, BilateralFilter, PHLFilter

    logits, image = torch.zeros(1, 2, H, W), torch.zeros(1, 3, H, W)
    for value in (None, "3", {}):
        with raises_saying(TypeError, "update_factor"):
            CRF(update_factor=value)(logits, image)
    with raises_saying(TypeError, "compatibility_matrix is a str"):
        CRF(compatibility_matrix="potts")(logits, image)
    with raises_saying(TypeError, "fast_approx=None"):
        BilateralFilter.apply(logits, 5, 0.5, None)
    with raises_saying(TypeError, "features is torch.complex64"):
        PHLFilter.apply(logits, image.to(torch.complex64))


@pytest.mark.torch
def test_names_of_the_port():
    pytest.importorskip("torch", reason="needs the torch extra")
    pytest.importorskip("safetensors", reason="needs the models extra")
    from crfrnn.compat.crfasrnn import crfrnn, util

    with raises_saying(TypeError, "crf_init_params={}", "alpha", "DenseCRFParams"):
        crfrnn.CrfRnn(2, 5, {})
    with raises_saying(TypeError, "probs", "array of numbers"):
        util.get_label_image(RAGGED, H, W, (W, H))
    with raises_saying(TypeError, "img_w=1.5", "integer"):
        util.get_label_image(SCORES.T, 2, 1.5, (W, H))
