"""Warnings and errors of other tools' names are in the terms of those who call them."""

import warnings

import numpy as np
import pytest

from crfrnn import CRFParameters, refine
from crfrnn.compat.bilateral_solver import fastBilateralSolverFilter
from crfrnn.compat.pydensecrf import utils
from crfrnn.compat.pydensecrf.densecrf import DenseCRF2D
from crfrnn.compat.simplecrf.denseCRF import densecrf
from crfrnn.compat.simplecrf.denseCRF3D import densecrf3d
from crfrnn.plausibility import warn_of_input
from crfrnn.terms import said, speaking

OURS = ("theta_", "θ_β", "image_range", "contrast_theta_beta", "spatial_weight", "input=", "filter=", "mean_field")
RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)
SHARES = RNG.dirichlet(np.ones(3), (20, 24))
VOLUME = RNG.integers(0, 256, (4, 6, 4, 1), dtype=np.uint8)
OF_VOLUME = RNG.dirichlet(np.ones(2), (4, 6, 4))
THREE_AXES = {
    "MaxIterations": 2,
    **{f"Pos{axis}Std": 3 for axis in "RCZ"},
    **{f"Bilateral{axis}Std": 5 for axis in "RCZ"},
    "PosW": 3.0,
    "BilateralW": 5.0,
    "ModalityNum": 1,
    "BilateralModsStds": (5,),
}


def told(call):
    """What a call warns of and raises, as one text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
        except (ValueError, TypeError) as error:
            return "; ".join([*(str(each.message) for each in caught), str(error)])
    return "; ".join(str(each.message) for each in caught)


def assert_in_terms(text, *facts):
    missing = [fact for fact in facts if fact not in text]
    assert not missing, f"{missing} not said in: {text}"
    assert not [ours for ours in OURS if ours in text], text


def simple(photo=PHOTO, shares=SHARES, w1=10.0, alpha=80, beta=13, it=1):
    return lambda: densecrf(photo, shares, (w1, alpha, beta, 3.0, 3, it))


@pytest.mark.parametrize(
    ("call", "facts"),
    [
        (simple(photo=PHOTO / 255), ("beta=13", "give an image of 0-255, or beta in these levels")),
        (simple(photo=PHOTO * np.nan), ("I holds 1440 NaN",)),
        (simple(shares=SHARES * np.nan), ("P holds 1440 NaN", "As in SimpleCRF")),
        (simple(shares=SHARES.transpose(2, 0, 1).reshape(20, 24, 3)), ("np.moveaxis(P, 0, -1)",)),
        (simple(w1=np.nan), ("w1 is nan",)),
        (simple(w1=[1, 2, 3]), ("w1 has shape (3,)",)),
        (simple(alpha=0), ("alpha=0 must be a number above 0",)),
        (simple(it=2.5), ("it=2.5 is no whole number", "as in SimpleCRF")),
        (lambda: densecrf3d(VOLUME, OF_VOLUME, THREE_AXES | {"MaxIterations": "a"}), ("MaxIterations='a'",)),
        (lambda: densecrf3d(VOLUME, OF_VOLUME, THREE_AXES | {"BilateralW": "a"}), ("BilateralW must hold",)),
        (lambda: densecrf3d(VOLUME / 255, OF_VOLUME, THREE_AXES), ("BilateralModsStds=5",)),
        (lambda: DenseCRF2D(24, 20, 3).addPairwiseBilateral(9, 13, PHOTO * np.nan, 3), ("rgbim holds 1440 NaN",)),
        (lambda: DenseCRF2D(24, 20, 3).addPairwiseGaussian(1e-20, 3), ("larger standard deviation (sxy)",)),
        (lambda: utils.unary_from_labels(SHARES, 3, 0.7), ("use unary_from_softmax",)),
        (
            lambda: fastBilateralSolverFilter(PHOTO, PHOTO, np.ones((20, 24), np.float32), lambda_=-1),
            ("lambda_=-1 must be above 0",),
        ),
    ],
)
def test_numpy(call, facts):
    assert_in_terms(told(call), *facts)


def torch_calls():
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from crfrnn.compat.crfasrnn.crfrnn import CrfRnn
    from crfrnn.compat.crfasrnn.params import DenseCRFParams
    from crfrnn.compat.monai import CRF, BilateralFilter, PHLFilter, TrainableJointBilateralFilter
    from crfrnn.compat.pamr import PAMR

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 20, 24, generator=generator)
    photo = 255 * torch.rand(1, 3, 20, 24, generator=generator)
    shares = torch.softmax(logits, 1)

    def port(**params):
        return CrfRnn(3, crf_init_params=DenseCRFParams(**params))

    def trained():
        layer = CrfRnn(3)
        layer.spatial_ker_weights.data.fill_(float("nan"))
        return layer(photo, logits)

    return {
        "monai levels": (lambda: CRF(bilateral_color_sigma=13.0)(logits, photo / 255), "bilateral_color_sigma=13"),
        "monai 0-255": (lambda: CRF()(logits, photo), "bilateral_color_sigma=127.5"),
        "monai energies": (lambda: CRF()(-shares.log(), photo), "give -input_tensor"),
        "monai order": (
            lambda: CRF()(shares.moveaxis(1, -1).contiguous().reshape(shares.shape).log(), photo),
            "input_tensor has shape",
        ),
        "monai swapped": (lambda: CRF()(photo.round(), logits), "crf(input_tensor, reference_tensor)"),
        "monai nan": (lambda: CRF()(logits * np.nan, photo), "input_tensor[0] holds"),
        "monai image nan": (lambda: CRF()(logits, photo * np.nan), "reference_tensor holds"),
        "monai axes": (lambda: CRF(bilateral_spatial_sigma=(1, 2, 3))(logits, photo), "bilateral_spatial_sigma=(1"),
        "monai gauss": (lambda: CRF(gaussian_spatial_sigma=(1, 2, 3))(logits, photo), "gaussian_spatial_sigma=(1"),
        "monai weight": (lambda: CRF(gaussian_weight=torch.ones(4))(logits, photo), "gaussian_weight has shape (4,)"),
        "monai factor": (lambda: CRF(update_factor=torch.ones(3))(logits, photo), "update_factor has shape (3,)"),
        "monai list": (lambda: CRF(compatibility_matrix=[[1]])(logits, photo), "compatibility_matrix is a list"),
        "monai channels": (lambda: CRF()(logits, torch.ones(1, 16, 20, 24)), "reference_tensor has 16 channels"),
        "monai filter": (lambda: BilateralFilter.apply(logits * np.nan), "input holds 1440 NaN"),
        "monai many": (lambda: BilateralFilter.apply(torch.ones(1, 17, 20, 24)), "input has 17 channels"),
        "monai joint": (
            lambda: TrainableJointBilateralFilter(1.0, 1.0)(logits, photo * np.nan),
            "guidance_tensor holds 1440 NaN",
        ),
        "monai far": (lambda: PHLFilter.apply(logits, 1e30 * photo), "larger standard deviation (sigma)"),
        "port levels": (lambda: port()(photo / 255, logits), "beta in these levels"),
        "port swapped": (lambda: port()(logits, photo.round()), "crf(image, logits)"),
        "port energies": (lambda: port()(photo, -shares.log()), "give -logits"),
        "port beta": (lambda: port(beta=(1, 2))(photo, logits), "beta=(1.0, 2.0) has 2 values"),
        "port alpha": (lambda: port(alpha=-1), "alpha=-1 must be"),
        "port weight": (lambda: port(spatial_ker_weight="a"), "spatial_ker_weight must hold"),
        "port iterations": (lambda: CrfRnn(3, 2.5)(photo, logits), "num_iterations=2.5"),
        "port one label": (lambda: CrfRnn(1), "num_labels=1 must be at least 2"),
        "port small": (lambda: port()(photo, logits[..., ::4, ::4]), "torch.nn.functional.interpolate"),
        "port trained": (trained, "spatial_ker_weights times compatibility_matrix"),
        "pamr image": (lambda: PAMR()(photo * np.nan, shares), "x holds"),
        "pamr mask": (lambda: PAMR()(photo, shares * np.nan), "mask[0] holds"),
    }


@pytest.mark.torch
def test_torch():
    for name, (call, fact) in torch_calls().items():
        text = told(call)
        assert fact in text, f"{name}: {fact} not said in: {text}"
        assert not [ours for ours in OURS if ours in text], f"{name}: {text}"


def test_our_own_names_afterwards():
    """Terms end with the call, also if it failed."""
    told(simple(w1="a"))
    text = told(lambda: refine(np.moveaxis(SHARES, -1, 0), PHOTO / 255, CRFParameters(), input="probabilities"))
    assert "theta_beta=3" in text
    assert "image_range=(0, 1)" in text


def test_a_tool_over_another():
    @speaking({"u": "w"})
    def inner():
        warn_of_input("u and uu of t")

    @speaking({"w": "v", "t": "s"})
    def outer():
        inner()

    assert told(outer) == "v and uu of s"


def test_the_longest_phrase_counts():
    assert said("x[0] and x of xx", {"x": "a", "x[": "b[", "xx": "c"}) == "b[0] and a of c"
