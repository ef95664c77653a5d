"""The CRF as a value: it compares, hashes, pickles and becomes text; what is wrong is named when it is made."""

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest

import crfrnn
from crfrnn.crf import CRF, Bilateral, Exact, FrankWolfe, Given, Grid, Kernel, Lattice, MeanField, Spatial
from crfrnn.parameters import CRFParameters
from errors import raises_saying
from kernel_lists import CRFS


@pytest.mark.parametrize(
    "crf",
    [*CRFS.values(), CRF([Kernel(Spatial())], solver=FrankWolfe(3, "euclidean", 2.5))],
    ids=[*CRFS, "Frank-Wolfe"],
)
def test_copies_are_equal(crf):
    twins = [
        pickle.loads(pickle.dumps(crf)),
        copy.deepcopy(crf),
        copy.copy(crf),
        CRF.from_text(crf.text),
        CRF(list(crf.kernels), crf.compatibility, crf.solver),
        eval(repr(crf), dict(vars(crfrnn.crf))),
    ]
    for twin in twins:
        assert twin == crf
        assert hash(twin) == hash(crf)
        assert (twin.text, twin.active, twin.names) == (crf.text, crf.active, crf.names)
    assert len({crf, *twins}) == 1
    assert json.loads(crf.text)["type"] == "CRF"


def test_different_ones_differ():
    assert len(set(CRFS.values())) == len({crf.text for crf in CRFS.values()}) == len(CRFS)
    crf = CRFS["three"]
    others = [
        replace(crf, kernels=crf.kernels[::-1]),
        replace(crf, kernels=crf.kernels[:2]),
        replace(crf, compatibility=None),
        replace(crf, solver=MeanField(3, 0.1, 0.01)),
        replace(crf, solver=FrankWolfe(3)),
        replace(crf, kernels=[replace(crf.kernels[0], normalization="none"), *crf.kernels[1:]]),
        replace(crf, kernels=[replace(crf.kernels[0], filter=Exact()), *crf.kernels[1:]]),
        crf.with_thetas(theta_beta=4),
    ]
    assert len({crf, *others}) == 9


def test_lists_and_arrays_become_tuples():
    array = np.eye(2)
    crf = CRF([Kernel(Bilateral(np.float32(4), [1, 2]), array)], [1, 2])
    array[:] = 7
    assert crf == CRF((Kernel(Bilateral((4.0,), np.array([1.0, 2.0])), ((1.0, 0.0), (0.0, 1.0))),), (1.0, 2.0))
    assert CRF([Kernel(Spatial(3))]) == CRF([Kernel(Spatial(3.0), 1, Grid(), "after")], None, MeanField(10, 0, 0))


def test_it_is_frozen():
    crf = CRFS["three"]
    for value, name in ((crf, "kernels"), (crf.kernels[0], "weight"), (crf.solver, "iterations")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 1)
    with pytest.raises(AttributeError):
        crf.active = crf
    assert asdict(crf)["solver"]["iterations"] == 3  # as trackers of experiments write it


def test_text_is_what_it_was_made_of():
    crf = CRF([Kernel(Given("größer"), 0.1)], -2)
    assert CRF.from_text(crf.text).kernels[0].features.name == "größer"
    assert float(json.loads(crf.text)["kernels"][0]["weight"]) == 0.1
    short = {"type": "CRF", "kernels": [{"type": "Kernel", "features": {"type": "Spatial"}}]}
    assert CRF.from_text(json.dumps(short)) == CRF([Kernel(Spatial())])


@pytest.mark.parametrize(
    ("features", "names"),
    [
        ([], ()),
        ([Spatial(1), Bilateral(2, 3)], ("spatial", "bilateral")),
        ([Bilateral(2, 3), Bilateral(2, 3), Spatial(1), Bilateral(2, 3)],
         ("bilateral", "bilateral_2", "spatial", "bilateral_3")),
        ([Given("depth"), Given("depth"), Given("spatial"), Spatial(1)], ("depth", "depth_2", "spatial", "spatial_2")),
        ([Given("spatial_2"), Spatial(1), Spatial(1)], ("spatial_2", "spatial", "spatial_3")),
        ([Given("net.features/1"), Given("Tiefe in µm")], ("net_features_1", "Tiefe_in_µm")),
    ],
)  # fmt: skip
def test_names(features, names):
    assert CRF([Kernel(each) for each in features]).names == names


def test_active_leaves_out_weights_of_0():
    for weight in (0, -0.0, [0, 0], np.zeros((2, 2))):
        crf = CRF([Kernel(Spatial(1)), Kernel(Bilateral(2, 3), weight)], -1, MeanField(4))
        assert crf.active == CRF([Kernel(Spatial(1))], -1, MeanField(4))
        assert crf.active.active is crf.active
    assert CRFS["three"].active is CRFS["three"]
    assert CRFS["nothing but 0"].active.kernels == ()


def test_with_thetas():
    crf = CRF([Kernel(Spatial(1)), Kernel(Bilateral(2, 3), 5), Kernel(Bilateral(4, 5)), Kernel(Given("f"))])
    expected = [Kernel(Spatial(1)), Kernel(Bilateral(2, (7, 8)), 5), Kernel(Bilateral(4, (7, 8))), Kernel(Given("f"))]
    assert crf.with_thetas(theta_beta=[7, 8]) == CRF(expected)
    assert crf.with_thetas(theta_alpha=9, theta_gamma=6).kernels[0] == Kernel(Spatial(6))
    assert crf.with_thetas() == crf
    with raises_saying(ValueError, "no kernel has theta_bta", "theta_gamma, theta_alpha, theta_beta"):
        crf.with_thetas(theta_bta=7)
    with raises_saying(ValueError, "no kernel has theta_beta", "no deviations"):
        CRFS["empty"].with_thetas(theta_beta=7)
    with raises_saying(ValueError, "theta_beta", "above 0"):
        crf.with_thetas(theta_beta=0)


def test_in_pixels():
    crf = CRF([Kernel(Spatial(6)), Kernel(Bilateral((8, 4), 3)), Kernel(Given("f"))])
    scaled = CRF([Kernel(Spatial((3, 1.5))), Kernel(Bilateral((4, 1), 3)), Kernel(Given("f"))])
    assert crf.in_pixels((2, 4), 2) == scaled
    assert crf.in_pixels(2, 2) == CRF([Kernel(Spatial((3, 3))), Kernel(Bilateral((4, 2), 3)), Kernel(Given("f"))])
    with raises_saying(ValueError, "spacing", "3 values", "2 spatial axes"):
        crf.in_pixels((1, 2, 3), 2)
    with raises_saying(ValueError, "theta_alpha", "2 values", "3 spatial axes"):
        crf.in_pixels(1, 3)
    with raises_saying(ValueError, "spacing=0", "above 0"):
        crf.in_pixels(0, 2)


def test_the_short_form_is_a_crf_of_two_kernels():
    for parameters in (CRFParameters(spatial="lattice", neighbour_rounds=1), CRFParameters(filter="exact")):
        smooth, similar = parameters.crf.kernels
        exact = parameters.filter == "exact"
        assert smooth == Kernel(Spatial(3), 3, Grid() if exact else Lattice(1))
        assert similar == Kernel(Bilateral(160, 3), 5, Exact() if exact else Lattice(1))
    one = np.random.default_rng(1)
    scores, image = one.normal(size=(2, 4, 5)), one.uniform(0, 255, (4, 5, 3))
    for parameters in crfrnn.PRESETS.values():
        expected = crfrnn.refine(scores, image, parameters)
        np.testing.assert_array_equal(crfrnn.refine(scores, image, parameters.crf), expected)


KERNEL = '{"type": "Kernel", "features": {"type": "Spatial"}'


@pytest.mark.parametrize(
    ("make", "error", "facts"),
    [
        (lambda: CRF(Kernel(Spatial(1))), TypeError, ["kernels is a Kernel", "a list of Kernel"]),
        (lambda: CRF("spatial"), TypeError, ["kernels is 'spatial'", "a list of Kernel"]),
        (lambda: CRF(""), TypeError, ["kernels is ''"]),
        (lambda: CRF(None), TypeError, ["kernels is None"]),
        (lambda: CRF(Kernel(each) for each in [Spatial(1)]), TypeError, ["kernels is a generator"]),
        (lambda: CRF([Kernel(Spatial(1)), Spatial(2)]), TypeError, ["kernels[1] is a Spatial", "Kernel(…)"]),
        (lambda: CRF([], solver=5), TypeError, ["solver is 5", "MeanField(…)"]),
        (lambda: CRF([], solver=MeanField), TypeError, ["solver is the class MeanField", "MeanField(…)"]),
        (lambda: CRF([], compatibility="potts"), TypeError, ["compatibility", "real numbers"]),
        (lambda: CRF([], compatibility=np.ones((2, 3))), ValueError, ["compatibility", "(2, 3)"]),
        (lambda: Kernel("spatial"), TypeError, ["features is 'spatial'", "Spatial(…), Bilateral(…) or Given(…)"]),
        (lambda: Kernel(Spatial), TypeError, ["features is the class Spatial", "Spatial(…)"]),
        (lambda: Kernel(Spatial(1), filter="exact"), TypeError, ["filter is 'exact'", "Exact(…)"]),
        (lambda: Kernel(Spatial(1), filter=Lattice), TypeError, ["filter is the class Lattice", "Lattice(…)"]),
        (lambda: Kernel(Bilateral(1, 2), filter=Grid()), ValueError, ["Grid()", "not for Bilateral", "Lattice()"]),
        (lambda: Kernel(Given("f"), filter=Grid()), ValueError, ["Grid()", "not for Given", "Exact()"]),
        (lambda: Kernel(Spatial(1), np.ones((2, 3))), ValueError, ["weight has shape (2, 3)"]),
        (lambda: Kernel(Spatial(1), np.nan), ValueError, ["weight is nan"]),
        (lambda: Kernel(Spatial(1), [1, np.inf]), ValueError, ["weight", "infinite"]),
        (lambda: Kernel(Spatial(1), []), ValueError, ["weight has shape (0,)"]),
        (lambda: Kernel(Spatial(1), "3"), TypeError, ["weight", "real numbers"]),
        (lambda: Kernel(Spatial(1), [[1], [1, 2]]), TypeError, ["weight cannot be read"]),
        (lambda: Kernel(Spatial(1), normalization="both"), ValueError, ["normalization='both'", "'symmetric'"]),
        (lambda: Kernel(Spatial(1), normalization=["after"]), ValueError, ["normalization=['after']"]),
        (lambda: Spatial(0), ValueError, ["theta_gamma=0", "above 0"]),
        (lambda: Spatial([]), ValueError, ["theta_gamma=[]"]),
        (lambda: Spatial([[1, 2]]), ValueError, ["theta_gamma=[[1, 2]]"]),
        (lambda: Bilateral(1, np.nan), ValueError, ["theta_beta=nan"]),
        (lambda: Bilateral("1", 2), TypeError, ["theta_alpha"]),
        (lambda: Given(""), TypeError, ["name=''"]),
        (lambda: Given(3), TypeError, ["name=3", "text"]),
        (lambda: Lattice(4), ValueError, ["neighbour_rounds=4", "at most 3"]),
        (lambda: Lattice(0.5), TypeError, ["neighbour_rounds=0.5", "integer"]),
        (lambda: MeanField(-1), ValueError, ["iterations=-1", "at least 0"]),
        (lambda: MeanField(2.0), TypeError, ["iterations=2.0", "integer"]),
        (lambda: MeanField(damping=1), ValueError, ["damping=1.0", "below 1"]),
        (lambda: MeanField(class_threshold="x"), TypeError, ["class_threshold='x'"]),
        (lambda: MeanField(tolerance=1), ValueError, ["tolerance=1.0", "below 1"]),
        (lambda: MeanField(tolerance=False), TypeError, ["tolerance=False", "number"]),
        (lambda: MeanField(damping=np.True_), TypeError, ["damping", "True", "number"]),
        (lambda: MeanField(gradient="adjoint"), ValueError, ["gradient='adjoint'", "'implicit'"]),
        (lambda: FrankWolfe(-1), ValueError, ["iterations=-1", "at least 0"]),
        (lambda: FrankWolfe(regularization="l2"), ValueError, ["regularization='l2'", "'euclidean'"]),
        (lambda: FrankWolfe(strength=0), ValueError, ["strength=0.0", "above 0"]),
        (lambda: FrankWolfe(strength=1e-40), ValueError, ["strength=1e-40", "1e-20"]),
        (lambda: FrankWolfe(strength=1e39), ValueError, ["strength=1e+39", "1e+20"]),
        (lambda: FrankWolfe(strength=np.inf), ValueError, ["strength is inf", "finite"]),
        (lambda: FrankWolfe(strength=[1, 2]), ValueError, ["strength has shape (2,)", "a number"]),
        (lambda: FrankWolfe(strength="1"), TypeError, ["strength", "real numbers"]),
        (lambda: FrankWolfe(step=0.5), ValueError, ["step=0.5", "'line-search'"]),
        (lambda: FrankWolfe(tolerance=1), ValueError, ["tolerance=1.0", "below 1"]),
        (lambda: FrankWolfe(gradient=None), ValueError, ["gradient=None", "'unrolled'"]),
        (lambda: CRF.from_text("{"), ValueError, []),
        (lambda: CRF.from_text("[]"), TypeError, ["the text is a tuple", "CRF(…)"]),
        (lambda: CRF.from_text(f"{KERNEL}}}"), TypeError, ["the text is a Kernel", "CRF(…)"]),
        (lambda: CRF.from_text('{"type": "CRF"}'), ValueError, ["CRF needs 'kernels'"]),
        (lambda: CRF.from_text('{"kernels": []}'), ValueError, ["type=None is unknown", "'CRF'"]),
        (lambda: CRF.from_text('{"type": "CRF", "kernels": [], "solvr": 1}'), ValueError, ["CRF has no 'solvr'"]),
        (lambda: CRF.from_text('{"type": "CRF", "kernels": [], "text": ""}'), ValueError, ["CRF has no 'text'"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_at_once(make, error, facts):
    if not facts:
        with pytest.raises(error):
            make()
        return
    with raises_saying(error, *facts):
        make()
