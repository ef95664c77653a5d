"""Parameters: the defaults are the paper's, the presets those in use, and all is validated on construction."""

import inspect
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

import crfrnn
from crfrnn import PRESETS, CRFParameters, FrankWolfe, MeanField, accuracy, preset
from errors import raises_saying

# name: θ_γ, spatial weight, θ_α, θ_β, bilateral weight, iterations
TABLE = {
    "photos": (3, 1, 50, 10, 2, 10),
    "crfrnn": (3, 3, 160, 3, 5, 10),
    "deeplab": (1, 3, 67, 3, 4, 10),
    "stego": (1, 3, 67, 3, 4, 10),
    "maskcut": (3, 7, 50, 5, 10, 10),
    "irn": (3, 3, 50, 5, 10, 10),
    "seam": (3, 3, 80, 13, 10, 10),
    "afa": (3, 3, 80, 13, 10, 10),
    "toco": (1, 1, 121, 5, 4, 10),
    "text-mask": (1, 3, 23, 7, 20, 5),
    "pydensecrf": (3, 3, 80, 13, 10, 5),
}


@pytest.mark.parametrize("name", TABLE)
def test_presets(name):
    parameters = preset(name)
    assert parameters is PRESETS[name]
    assert (
        parameters.theta_gamma,
        parameters.spatial_weight,
        parameters.theta_alpha,
        parameters.theta_beta,
        parameters.bilateral_weight,
        parameters.iterations,
    ) == TABLE[name]
    assert parameters.normalization == {"photos": "after", "crfrnn": "after", "text-mask": "none"}.get(
        name, "symmetric"
    )
    assert parameters.compatibility is None
    assert parameters.damping == parameters.class_threshold == parameters.neighbour_rounds == 0
    assert parameters.tolerance == parameters.crf.solver.tolerance == MeanField().tolerance


def test_there_are_no_other_presets():
    assert set(PRESETS) == set(TABLE)


def test_unknown_presets_are_answered_with_the_known_ones():
    with raises_saying(ValueError, "'deep-lab'", *TABLE):
        preset("deep-lab")


def test_defaults():
    """Of the short form as published, of what refines with nothing said the preset that gained most."""
    assert CRFParameters() == preset("crfrnn")
    for function in (crfrnn.refine, crfrnn.refine_tiled, accuracy.filter_accuracy):
        assert inspect.signature(function).parameters["parameters"].default == "photos" in PRESETS
    assert CRFParameters().spatial == "grid"


def test_solvers():
    assert CRFParameters(gradient="implicit").crf.solver == MeanField(gradient="implicit")
    parameters = CRFParameters(solver="frank-wolfe", strength=2, step="open-loop", iterations=4, tolerance=0)
    assert parameters.crf.solver == FrankWolfe(4, strength=2.0, step="open-loop", tolerance=0)
    assert pickle.loads(pickle.dumps(parameters)).crf == parameters.crf
    assert replace(parameters, strength=3).crf.solver.strength == 3
    for numbers, facts in (
        ({"solver": "sgd"}, ["solver='sgd'", "'mean-field', 'frank-wolfe'"]),
        ({"solver": "frank-wolfe", "class_threshold": 0.1}, ["class_threshold=0.1", "set it to 0.0"]),
        ({"regularization": "euclidean"}, ["regularization='euclidean'", "solver='mean-field'", "'entropic'"]),
        ({"solver": "frank-wolfe", "strength": -1}, ["strength=-1.0", "above 0"]),
    ):
        with raises_saying(ValueError, *facts):
            CRFParameters(**numbers)


def test_frozen_and_replaceable():
    parameters = CRFParameters()
    with pytest.raises(FrozenInstanceError):
        parameters.iterations = 3
    changed = replace(parameters, iterations=3)
    assert (changed.iterations, parameters.iterations) == (3, 10)
    with raises_saying(ValueError, "theta_beta=-1", "above 0"):
        replace(parameters, theta_beta=-1)


def test_arrays_are_detached_from_the_caller():
    matrix = np.eye(3)
    parameters = CRFParameters(compatibility=matrix, spatial_weight=np.ones(3), theta_alpha=np.array([3.0, 4.0]))
    matrix[:] = 7
    np.testing.assert_array_equal(np.asarray(parameters.compatibility), np.eye(3))
    assert pickle.loads(pickle.dumps(parameters)) == parameters


@pytest.mark.parametrize(
    ("field", "value", "error", "facts"),
    [
        ("theta_alpha", 0, ValueError, ["theta_alpha=0", "above 0"]),
        ("theta_beta", -3.0, ValueError, ["theta_beta=-3.0", "above 0"]),
        ("theta_gamma", (3.0, 0.0), ValueError, ["theta_gamma=(3.0, 0.0)", "above 0"]),
        ("theta_alpha", float("nan"), ValueError, ["theta_alpha=nan", "finite", "above 0"]),
        ("theta_alpha", float("inf"), ValueError, ["theta_alpha=inf", "finite", "above 0"]),
        ("theta_alpha", "160", TypeError, ["theta_alpha", "real numbers"]),
        ("theta_beta", (), ValueError, ["theta_beta"]),
        ("theta_beta", [[1.0, 2.0], [3.0, 4.0]], ValueError, ["theta_beta"]),
        ("spatial_weight", float("nan"), ValueError, ["spatial_weight is nan", "finite number"]),
        ("spatial_weight", np.ones((2, 3)), ValueError, ["spatial_weight", "(2, 3)", "(classes, classes)"]),
        ("bilateral_weight", np.ones((2, 2, 2)), ValueError, ["bilateral_weight", "(2, 2, 2)"]),
        ("bilateral_weight", None, TypeError, ["bilateral_weight", "real numbers"]),
        ("compatibility", np.ones((4, 5)), ValueError, ["compatibility", "(4, 5)", "(classes, classes)"]),
        ("compatibility", [[1.0, np.inf], [0.0, 1.0]], ValueError, ["compatibility", "1 infinite", "[0, 1]"]),
        ("normalization", "post", ValueError, ["normalization='post'", "'none', 'before', 'after', 'symmetric'"]),
        ("spatial", "exact", ValueError, ["spatial='exact'", "'grid', 'lattice'"]),
        ("iterations", -1, ValueError, ["iterations=-1", "at least 0"]),
        ("iterations", 2**31, ValueError, ["iterations=2147483648", "at most 2147483647"]),
        ("iterations", 2.5, TypeError, ["iterations=2.5", "integer"]),
        ("neighbour_rounds", -1, ValueError, ["neighbour_rounds=-1", "at least 0"]),
        ("damping", 1.0, ValueError, ["damping=1.0", "at least 0 and below 1"]),
        ("damping", -0.1, ValueError, ["damping=-0.1", "at least 0 and below 1"]),
        ("damping", "half", TypeError, ["damping='half'", "number"]),
        ("class_threshold", 1.5, ValueError, ["class_threshold=1.5", "at least 0 and below 1"]),
        ("class_threshold", float("nan"), ValueError, ["class_threshold=nan"]),
        ("tolerance", -1e-3, ValueError, ["tolerance=-0.001", "at least 0 and below 1"]),
        ("tolerance", 1, ValueError, ["tolerance=1.0", "at least 0 and below 1"]),
        ("tolerance", float("nan"), ValueError, ["tolerance=nan"]),
        ("tolerance", "fine", TypeError, ["tolerance='fine'", "number"]),
    ],
)
def test_bad_values_are_named(field, value, error, facts):
    with raises_saying(error, *facts):
        CRFParameters(**{field: value})
