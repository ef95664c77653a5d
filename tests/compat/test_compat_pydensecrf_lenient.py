"""What pydensecrf takes and its documentation does not speak of: `crfrnn.compat.pydensecrf` gives the same, and warns.

Where pydensecrf2 is installed, each program runs on it too and must come to the same.
"""

import importlib
import json
import re
import warnings

import numpy as np
import pytest

from crfrnn.compat.pydensecrf import densecrf as ours_densecrf
from crfrnn.compat.pydensecrf import eigen as ours_eigen
from crfrnn.compat.pydensecrf import utils as ours_utils
from crfrnn.plausibility import InputWarning
from tolerances import GOLDEN

# Of images whose number of pixels four does not divide, pydensecrf builds the lattice with up to three more points.
HEIGHT, WIDTH, LABELS = 12, 13, 3


@pytest.fixture(scope="module")
def original():
    """pydensecrf's own modules: densecrf and utils."""
    pytest.importorskip("pydensecrf.densecrf", reason="compares with pydensecrf2, which is not installed")
    return [importlib.import_module(f"pydensecrf.{name}") for name in ("densecrf", "utils")]


def photo(seed=0, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def crf(dcrf, height=HEIGHT, width=WIDTH, energies=None, swapped=False):
    if energies is None:
        energies = np.random.default_rng(1).random((LABELS, height * width), dtype=np.float32) * 4
    d = dcrf.DenseCRF2D(height, width, LABELS) if swapped else dcrf.DenseCRF2D(width, height, LABELS)
    d.setUnaryEnergy(energies)
    return d


def gaussian(dcrf, utils, **given):
    d = crf(dcrf)
    d.addPairwiseGaussian(**({"sxy": 3, "compat": 3} | given))
    return np.array(d.inference(3))


def bilateral(dcrf, utils, **given):
    d = crf(dcrf)
    d.addPairwiseBilateral(**({"sxy": 5, "srgb": 60, "rgbim": photo(), "compat": 3} | given))
    return np.array(d.inference(3))


def inference(dcrf, utils, niter):
    d = crf(dcrf)
    d.addPairwiseGaussian(3, 3)
    return np.array(d.inference(niter))


def sizes(dcrf, utils, *given):
    return np.array(dcrf.DenseCRF2D(*given).inference(0))


def labels(dcrf, utils, given, zero_unsure):
    return utils.unary_from_labels(np.array(given), 3, 0.7, zero_unsure)


def features(dcrf, utils, **given):
    return utils.create_pairwise_bilateral(
        **({"sdims": (3, 3), "schan": (13, 13, 13), "img": photo(), "chdim": 2} | given)
    )


def own_features(dcrf, utils, count):
    d = crf(dcrf)
    d.addPairwiseEnergy(np.random.default_rng(2).normal(size=(count, HEIGHT * WIDTH)).astype(np.float32) / 4, 3)
    return np.array(d.inference(3))


def swapped_with_kernels_of_utils(dcrf, utils):
    """`DenseCRF2D(rows, columns, labels)`: right, as nothing in it asks for the width."""
    probabilities = np.random.default_rng(3).dirichlet(np.ones(LABELS), (HEIGHT, WIDTH)).transpose(2, 0, 1)
    d = dcrf.DenseCRF2D(HEIGHT, WIDTH, LABELS)
    d.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(probabilities)))
    d.addPairwiseEnergy(utils.create_pairwise_gaussian(sdims=(3, 3), shape=photo().shape[:2]), compat=3)
    d.addPairwiseEnergy(
        utils.create_pairwise_bilateral(sdims=(5, 5), schan=(60, 60, 60), img=photo(), chdim=2),
        compat=5,
        kernel=dcrf.DIAG_KERNEL,
        normalization=dcrf.NORMALIZE_SYMMETRIC,
    )
    return np.array(d.inference(5))


CASES = [
    (gaussian, {"sxy": (3, 3, 3)}, "sxy=\\(3, 3, 3\\) has 3 values for 2 axes, x and y: the last 1 count not"),
    (gaussian, {"sxy": -3}, "negative deviations, which count without their sign", 1e-2),
    (gaussian, {"sxy": (3, np.inf)}, None),
    (gaussian, {"sxy": np.array([3, 2], np.float32)}, None),
    (gaussian, {"normalization": 4}, "normalization=4 is unknown and counts as NO_NORMALIZATION"),
    (gaussian, {"normalization": -1}, "normalization=-1 is unknown"),
    (gaussian, {"kernel": 7}, None),
    (gaussian, {"compat": np.float32(3)}, None),
    (gaussian, {"compat": True}, None),
    (bilateral, {"srgb": (60, 60, 60, 60)}, "srgb=\\(60, 60, 60, 60\\) has 4 values for 3 channels of rgbim"),
    (bilateral, {"srgb": np.inf}, None),
    (bilateral, {"sxy": (5, 4, 3), "srgb": [60, 50, 40]}, "the last 1 count not"),
    (inference, {"niter": 5.0}, None),
    (inference, {"niter": np.float32(5)}, None),
    (inference, {"niter": np.array(5)}, None),
    (inference, {"niter": True}, None),
    (inference, {"niter": 5.7}, "niter=5.7 is no whole number and counts as 5"),
    (inference, {"niter": -1}, "niter=-1 is below 0 and counts as 0"),
    (sizes, [5.5, 4, 2], "w=5.5 is no whole number and counts as 5"),
    (sizes, [np.float64(5), np.int16(4), 2.0], None),
    (
        labels,
        [[0, 1, 2, 3, -1, -2], True],
        "2 labels are negative, down to -2.*class 0 of 0 to 2.*make them 0",
    ),
    (labels, [[0, 1, 2, -1], False], "1 labels are negative.*-1 means class 2 of 0 to 2.*labels \\+ 1"),
    (
        features,
        {"schan": (13,)},
        "schan=\\(13,\\) has 1 of 3.*last 2 channels are not divided.*one number for all",
    ),
    (features, {"schan": [13, 7]}, "the last 1 channels are not divided"),
    (features, {"sdims": (3,)}, "sdims=\\(3,\\) has 1 of 2 values: the last 1 axes are not divided"),
    (features, {"sdims": (3, 3), "schan": 13, "chdim": -1}, "\\(12, 13, 3\\) has no axis of channels.*give chdim=2"),
    (own_features, {"count": 17}, "17 features are more than the 16.*PCA"),
    (own_features, {"count": 24}, "24 features are more than the 16"),
    (swapped_with_kernels_of_utils, [], "the width comes first"),
]


def called(case, dcrf, utils):
    program, given = case[:2]
    return program(dcrf, utils, **given) if isinstance(given, dict) else program(dcrf, utils, *given)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{case[1]!r:.40}")
class TestWhatPydensecrfTakes:
    def test_is_taken_with_a_warning_where_it_is_odd(self, case):
        """At the line of the program, and once for each thing."""
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            called(case, ours_densecrf, ours_utils)
        if case[2] is None:
            assert not seen
            return
        with pytest.warns(InputWarning, match=case[2]):
            called(case, ours_densecrf, ours_utils)
        assert {each.filename for each in seen} == {__file__}

    @pytest.mark.filterwarnings("ignore::crfrnn.plausibility.InputWarning")
    def test_gives_the_same(self, case, original):
        ours, theirs = called(case, ours_densecrf, ours_utils), called(case, *original)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=case[3] if case[3:] else GOLDEN)


CHANCES = np.random.default_rng(7).dirichlet(np.ones(LABELS), (HEIGHT, WIDTH)).astype(np.float32)
FIRST = np.ascontiguousarray(CHANCES.transpose(2, 0, 1)).reshape(LABELS, -1)
LAST = CHANCES.reshape(LABELS, -1).copy()  # labels last, which no reshape turns


class TestEnergiesThatAreNone:
    """Taken as pydensecrf takes them, and a warning where sums give away that they are something else."""

    @pytest.mark.parametrize(
        ("energies", "said"),
        [
            (FIRST, "sums to 1 over the 3 labels, as probabilities do.*unary_from_softmax"),
            (np.log(FIRST), "this is log p.*give -u"),
            (np.eye(LABELS)[:, FIRST.argmax(axis=0)], "one-hot"),
            (-np.log(LAST), r"groups of 3 numbers.*np\.moveaxis"),
            (-np.log(FIRST), None),
            (-np.log(np.clip(FIRST, 1e-5, 1)), None),
            (1 - FIRST, None),
            (FIRST * 7 - 3, None),
            (np.zeros_like(FIRST), None),
        ],
    )
    @pytest.mark.parametrize("call", ["setUnaryEnergy", "ConstUnary"])
    def test_warning(self, energies, said, call, original):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            d = ours_densecrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
            if call == "setUnaryEnergy":
                d.setUnaryEnergy(energies)
            else:
                d.setUnary(ours_densecrf.ConstUnary(energies))
        assert len(caught) == (said is not None)
        if said is not None:
            assert re.search(said, str(caught[0].message))
            assert caught[0].filename == __file__
        theirs = crf(original[0], energies=np.ascontiguousarray(energies, np.float32))
        for each in (d, theirs):
            each.addPairwiseGaussian(3, 3)
        np.testing.assert_allclose(d.inference(3), np.array(theirs.inference(3)), atol=GOLDEN)

    @pytest.mark.parametrize(
        ("sm", "said"),
        [
            (CHANCES * 255, "levels up to 255 are divided by it"),
            (CHANCES * 100, "levels up to 100 are divided by it"),
            (-np.log(FIRST), "energies already"),
            (np.log(FIRST), "logits"),
            (LAST, r"np\.moveaxis\(sm, -1, 0\)"),
            (FIRST, None),
            (FIRST * 0.5, None),
        ],
    )
    def test_unary_from_softmax(self, sm, said):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ours_utils.unary_from_softmax(sm)
        assert [bool(re.search(said or "", str(each.message))) for each in caught] == [True] * (said is not None)


class TestUndefinedEnergies:
    """NaN and -inf: as there, they spread to what hears of them, and to nothing else."""

    @staticmethod
    def program(dcrf, value, height=40, width=60, niter=2):
        energies = np.random.default_rng(4).random((LABELS, height * width), dtype=np.float32) * 4
        energies[1, 5 * width + 7] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            d = crf(dcrf, height, width, energies)
            d.addPairwiseGaussian(2, 3)
            d.addPairwiseBilateral(3, 80, photo(5, height, width), 2)
            return np.array(d.inference(niter))

    @pytest.mark.parametrize("value", [np.nan, -np.inf])
    @pytest.mark.parametrize("niter", [0, 1, 2, 30])
    def test_spread_as_far(self, value, niter, original):
        ours, theirs = (self.program(dcrf, value, niter=niter) for dcrf in (ours_densecrf, original[0]))
        # Points of feature 0 lie on vertices and have weights of 0 for others, which pass on NaN there.
        inside = [np.isnan(q).reshape(LABELS, 40, 60)[:, 1:, 1:] for q in (ours, theirs)]
        np.testing.assert_array_equal(*inside)
        both = ~np.isnan(ours) & ~np.isnan(theirs)
        assert np.abs(ours[both] - theirs[both]).max(initial=0) <= GOLDEN

    def test_spread_by_hand(self):
        """Without iterations the point alone, in the end all of them."""
        assert np.isnan(self.program(ours_densecrf, np.nan, niter=0)).sum() == LABELS
        here, on = (np.isnan(self.program(ours_densecrf, np.nan, niter=niter)) for niter in (1, 2))
        assert LABELS < here.sum() < on.sum()
        assert (on | ~here).all()
        assert np.isnan(self.program(ours_densecrf, np.nan, niter=30)).all()

    @pytest.mark.parametrize(
        ("value", "said"), [(np.nan, "u holds 1 NaN among 468.*argmax"), (-np.inf, "u holds 1 -inf among 468.*a minus")]
    )
    def test_warning(self, value, said):
        energies = np.zeros((LABELS, HEIGHT * WIDTH))
        energies[1, 3] = value
        with pytest.warns(InputWarning, match=said):
            crf(ours_densecrf, energies=energies)

    @pytest.mark.filterwarnings("ignore::crfrnn.plausibility.InputWarning")
    def test_step_by_step(self):
        energies = np.random.default_rng(4).random((LABELS, HEIGHT * WIDTH), dtype=np.float32)
        energies[0, 60] = np.nan
        d = crf(ours_densecrf, energies=energies)
        d.addPairwiseGaussian(0.7, 3)
        Q, tmp1, tmp2 = d.startInference()
        for niter in (1, 2):
            d.stepInference(Q, tmp1, tmp2)
            np.testing.assert_allclose(Q, d.inference(niter), atol=1e-4)
        assert 0 < np.isnan(Q).sum() < Q.size
        assert np.isnan(d.klDivergence(Q))


class TestPlainResults:
    """What users compute with results is arrays and numbers of NumPy, as with the original."""

    @pytest.fixture(params=["ours", "original"])
    def dcrf(self, request):
        return ours_densecrf if request.param == "ours" else request.getfixturevalue("original")[0]

    @pytest.fixture
    def q(self, dcrf):
        d = crf(dcrf)
        d.addPairwiseGaussian(3, 3)
        return d.inference(5)

    @pytest.mark.parametrize(
        ("compute", "kind"),
        [
            (lambda q: np.argmax(q, 0), np.ndarray),
            (lambda q: np.argmax(q, axis=0).reshape((HEIGHT, WIDTH)), np.ndarray),
            (lambda q: np.array(q), np.ndarray),
            (lambda q: np.asarray(q), np.ndarray),
            (lambda q: np.max(q, axis=0), np.ndarray),
            (lambda q: np.log(q), np.ndarray),
            (lambda q: np.exp(q), np.ndarray),
            (lambda q: np.reshape(q, (LABELS, HEIGHT, WIDTH)), np.ndarray),
            (lambda q: np.expand_dims(q, 0), np.ndarray),
            (lambda q: np.stack([q, q]), np.ndarray),
            (lambda q: np.where(np.array(q) > 0.5, 1, 0), np.ndarray),
            (lambda q: np.max(q), np.float32),
            (lambda q: np.sum(q), np.float32),
            (lambda q: (np.argmax(q, 0) == 1).mean(), np.float64),
            (lambda q: round((np.argmax(q, 0) == 1).mean(), 3), float),
            (lambda q: np.argmax(q, 0).max(), np.int64),
            (lambda q: json.dumps({"a": round((np.argmax(q, 0) == 1).mean(), 3)}), str),
            (lambda q: json.dumps({"a": float(np.max(q)), "b": np.argmax(q, 0).tolist()}), str),
            (lambda q: f"{np.mean(q):.2f}", str),
        ],
    )
    def test_types(self, q, compute, kind):
        assert isinstance(compute(q), kind)
        assert type(compute(q)) is np.ndarray or kind is not np.ndarray

    def test_ours_are_arrays_with_all_that_arrays_do(self):
        q = crf(ours_densecrf).inference(2)
        Q, tmp1, tmp2 = crf(ours_densecrf).startInference()
        for matrix in (q, Q, tmp1, tmp2, ours_eigen.matrixXf(q)):
            assert type(matrix) is np.ndarray
            assert isinstance(matrix, ours_eigen.MatrixXf)
        assert not isinstance(q[0].copy(), ours_eigen.MatrixXf)
        assert isinstance(q[0], ours_eigen.VectorXf)
        assert type(q.sum()) is np.float32
        assert round(q.mean(), 3) == pytest.approx(1 / 3, abs=1e-3)
