"""What breaks pydensecrf's users there works on `crfrnn.compat.pydensecrf`, or is an error in their words."""

import sys
import threading
import time

import numpy as np
import pytest

from crfrnn import memory, reference
from crfrnn.compat.pydensecrf import densecrf as densecrf_module
from crfrnn.compat.pydensecrf import utils as utils_module
from crfrnn.plausibility import InputWarning
from errors import raises_saying
from tolerances import GOLDEN

HEIGHT, WIDTH, LABELS = 72, 96, 5


def assert_same(ours, theirs):
    ours, theirs = np.array(ours), np.array(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= GOLDEN


def small_crf(rng, width=13, height=9, labels=3):
    """A CRF without kernels, and its energies."""
    u = rng.random((labels, width * height), dtype=np.float32) * 4
    crf = densecrf_module.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(u)
    return crf, u


def awkward(array):
    """The same numbers in forms that pydensecrf refuses."""
    frozen = array.copy()
    frozen.flags.writeable = False
    wide = np.repeat(array, 2, axis=-1)
    return [array.astype(np.float64), np.asfortranarray(array), frozen, wide[..., ::2], array[::-1].copy()[::-1]]


def without_a_class(dcrf, logits):
    """Marginals (labels, height, width) where the first class has probability 0 in the first 40 columns."""
    probabilities = reference.softmax(logits)
    probabilities[0, :, :40] = 0
    with np.errstate(divide="ignore"):
        u = -np.log(probabilities).reshape(LABELS, -1)
    crf = dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    if dcrf is densecrf_module:
        with pytest.warns(InputWarning, match="u holds 2880 infinite energies, -log 0") as caught:
            crf.setUnaryEnergy(u)
        assert caught[0].filename == __file__
    else:
        crf.setUnaryEnergy(u)
    crf.addPairwiseGaussian(3, 3)
    return np.array(crf.inference(5)).reshape(logits.shape)


class TestTraps:
    def test_any_dtype_and_layout(self, rng):
        image = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
        u = rng.random((3, 117), dtype=np.float32)
        compat = rng.normal(size=(3, 3)).astype(np.float32)
        features = rng.normal(size=(4, 117)).astype(np.float32)

        def result(u, image, compat, features):
            crf = densecrf_module.DenseCRF2D(13, 9, 3)
            crf.setUnaryEnergy(u)
            crf.addPairwiseBilateral(5, 30, image, compat)
            crf.addPairwiseEnergy(features, compat)
            return crf.inference(3).tobytes()

        expected = result(u, image, compat, features)
        for forms in zip(*map(awkward, (u, image, compat, features)), strict=True):
            assert result(*forms) == expected

    def test_nothing_is_kept_or_changed(self, rng):
        image = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
        crf, u = small_crf(rng)
        features, compat = rng.normal(size=(4, 117)).astype(np.float32), rng.normal(size=(3, 3))
        given = [u, image, features, compat]
        copies = [array.copy() for array in given]
        crf.addPairwiseBilateral(5, 30, image, compat)
        crf.addPairwiseEnergy(features, compat)
        expected = np.array(crf.inference(3))
        utils_module.create_pairwise_bilateral((2, 2), 3, image.astype(np.float32), chdim=2)
        for array, copy in zip(given, copies, strict=True):
            np.testing.assert_array_equal(array, copy)
            array[...] = 1
        np.testing.assert_array_equal(crf.inference(3), expected)

    def test_log_0(self, pydensecrf):
        """A class of probability 0 stays there."""
        q = without_a_class(densecrf_module, pydensecrf["logits"])
        assert np.isfinite(q).all()
        assert q[0, :, :40].max() == 0
        assert q[0, :, 40:].max() > 0.1

    def test_log_0_as_pydensecrf(self, pydensecrf):
        dcrf = pytest.importorskip("pydensecrf.densecrf", reason="compares with pydensecrf2, which is not installed")
        assert_same(*(without_a_class(module, pydensecrf["logits"]) for module in (densecrf_module, dcrf)))

    def test_a_point_without_any_class(self):
        """Counts as one of which nothing is known."""
        u = np.array([[0.0, np.inf, 0.0], [0.1, np.inf, 0.1]])
        results = []
        for given in (u, np.where(np.isinf(u), 0, u)):
            crf = densecrf_module.DenseCRF2D(3, 1, 2)
            if given is u:
                with pytest.warns(InputWarning, match="2 infinite"):
                    crf.setUnaryEnergy(given)
            else:
                crf.setUnaryEnergy(given)
            crf.addPairwiseGaussian(1, 0.5)
            results.append(np.array(crf.inference(3)))
        np.testing.assert_array_equal(results[0], results[1])
        assert results[0][0, 1] > 0.501

    def test_softmax_with_zeros_and_without_clipping(self):
        zero_one = np.array([[0.0, 1.0], [1.0, 0.0]])
        assert np.isinf(utils_module.unary_from_softmax(zero_one, clip=None)).sum() == 2
        assert utils_module.unary_from_softmax(zero_one).max() == pytest.approx(-np.log(1e-5))

    def test_scores_that_are_no_probabilities(self, rng):
        with pytest.warns(InputWarning, match=r"sm ranges from -3 to 7, outside 0 to 1.*logits"):
            u = utils_module.unary_from_softmax(np.array([[-3.0], [7.0]]))
        np.testing.assert_allclose(u, [[-np.log(1e-5)], [0]], rtol=1e-6)

    def test_width_and_height_swapped(self, rng):
        """Seen from what was flattened into unaries or features, and an error as soon as a method uses the width."""
        facts = ["9 high and 13 wide", "width comes first", "DenseCRF2D(13, 9, 3)"]
        image = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
        labels, scores = rng.integers(0, 3, (9, 13)), rng.random((3, 9, 13), dtype=np.float32)
        last = np.ascontiguousarray(scores.transpose(1, 2, 0))
        features = utils_module.create_pairwise_gaussian((3, 3), (9, 13))
        for u in (
            scores,
            scores.reshape(3, -1),
            last.transpose(2, 0, 1).reshape(3, -1),
            utils_module.unary_from_softmax(scores),
            utils_module.unary_from_labels(labels, 3, 0.7, zero_unsure=False),
        ):
            for give in ("setUnaryEnergy", "addPairwiseEnergy"):
                swapped = densecrf_module.DenseCRF2D(9, 13, 3)
                with pytest.warns(
                    UserWarning, match="9 high and 13 wide.*Kernels of your own do not depend on it"
                ) as seen:
                    swapped.setUnaryEnergy(u) if give == "setUnaryEnergy" else swapped.addPairwiseEnergy(features, 3)
                assert seen[0].filename == __file__
                with raises_saying(ValueError, *facts):
                    swapped.addPairwiseGaussian(3, 3)
                with raises_saying(ValueError, *facts):
                    swapped.addPairwiseBilateral(5, 5, np.swapaxes(image, 0, 1), 3)
            before = densecrf_module.DenseCRF2D(9, 13, 3)
            before.addPairwiseGaussian(3, 3)
            with raises_saying(ValueError, "the unary", *facts):
                before.setUnaryEnergy(u)
            with raises_saying(ValueError, "the unary", *facts):
                before.setUnary(densecrf_module.ConstUnary(u))
            densecrf_module.DenseCRF2D(13, 9, 3).setUnaryEnergy(u)
        with raises_saying(ValueError, "rgbim", *facts):
            densecrf_module.DenseCRF2D(9, 13, 3).addPairwiseBilateral(5, 5, image, 3)
        # What has no shape left, or another meaning, is taken as it is.
        densecrf_module.DenseCRF2D(9, 13, 3).setUnaryEnergy(scores.reshape(3, -1).copy())
        densecrf_module.DenseCRF(117, 3).setUnaryEnergy(scores.reshape(3, -1))

    def test_classes_last(self, rng):
        crf = densecrf_module.DenseCRF2D(13, 9, 3)
        last = rng.random((9, 13, 3))
        with raises_saying(ValueError, "flattened from shape (9, 13, 3)", "transpose(2, 0, 1)"):
            crf.setUnaryEnergy(last.reshape(3, -1))
        with raises_saying(ValueError, "shape (9, 13, 3)", "(3, 117)", "move the last axis to the front"):
            crf.setUnaryEnergy(last)
        with raises_saying(ValueError, "shape (117, 3)", "(3, 117)", "transpose"):
            crf.setUnaryEnergy(last.reshape(-1, 3))
        square = densecrf_module.DenseCRF2D(3, 3, 3)
        square.setUnaryEnergy(rng.random((3, 3, 3)).reshape(3, -1))

    @pytest.mark.parametrize("srgb", [0.04, 1e-2, 1e-3, 1e-6, 1e-30])
    def test_tiny_srgb(self, rng, srgb):
        """Two flat areas: with deviations far below their contrast neither hears of the other."""
        image = np.zeros((8, 12, 3), np.uint8)
        image[:, 6:] = 255
        u = rng.random((2, 8, 12))
        results = []
        for other_area in (u[:, :, 6:], u[::-1, :, 6:]):
            crf = densecrf_module.DenseCRF2D(12, 8, 2)
            crf.setUnaryEnergy(np.concatenate([u[:, :, :6], other_area], axis=2).reshape(2, -1))
            crf.addPairwiseBilateral(20, srgb, image, 5)
            results.append(crf.inference(5).reshape(2, 8, 12))
        np.testing.assert_allclose(results[0][:, :, :6], results[1][:, :, :6], atol=1e-6)
        assert np.abs(results[0][:, :, :6].max(axis=0) - 0.5).min() > 0.4  # and yet each area agrees with itself

    def test_huge_images(self):
        """Refused before anything of the size of the image is allocated: these would take terabytes."""
        side = 10**6
        crf = densecrf_module.DenseCRF2D(side, side, 2)
        facts = ["1000000 wide and 1000000 high", "GB of memory", "is available", "smaller image"]
        with raises_saying(MemoryError, *facts):
            crf.addPairwiseGaussian(3, 3)
        with raises_saying(MemoryError, *facts):
            crf.addPairwiseBilateral(80, 13, np.broadcast_to(np.uint8(0), (side, side, 3)), 10)
        with raises_saying(MemoryError, *facts, "5 features"):
            crf.addPairwiseEnergy(np.broadcast_to(np.float32(0), (5, side * side)), 10)
        with raises_saying(MemoryError, *facts, "5 features"):
            crf.addPairwiseEnergy(np.broadcast_to(0.0, (5, side * side)), 10)
        with raises_saying(MemoryError, "a copy of energies of shape (2, 1000000000000)"):
            crf.setUnaryEnergy(np.broadcast_to(0.0, (2, side * side)))
        with raises_saying(MemoryError, "a copy of energies of shape (2, 1000000000000)"):
            crf.setUnary(densecrf_module.LogisticUnary(np.ones((2, 1)), np.broadcast_to(0.0, (1, side * side))))
        with raises_saying(MemoryError, "energies of probabilities of shape (2, 1000000, 1000000)"):
            utils_module.unary_from_softmax(np.broadcast_to(0.5, (2, side, side)))
        with raises_saying(MemoryError, "energies of 2 labels at 1000000000000 points"):
            crf.inference(5)
        with raises_saying(MemoryError, "2 features of 1000000 × 1000000 points"):
            utils_module.create_pairwise_gaussian((3, 3), (side, side))
        with raises_saying(MemoryError, "5 features of 1000000 × 1000000 points"):
            utils_module.create_pairwise_bilateral(3, 3, np.broadcast_to(np.uint8(0), (side, side, 3)), chdim=2)

    def test_too_little_memory_for_a_unary(self, rng, monkeypatch):
        u = rng.random((3, 117), dtype=np.float32)
        crf = densecrf_module.DenseCRF(117, 3)
        monkeypatch.setattr(memory, "available_memory", lambda: 1000)
        with raises_saying(MemoryError, "a copy of energies of shape (3, 117)"):
            crf.setUnaryEnergy(u)
        with raises_saying(MemoryError, "2 features of 117 points"):
            crf.addPairwiseEnergy(rng.random((2, 117)), 3)

    @pytest.mark.parametrize("channels", [1, 4, 7])
    def test_images_that_are_not_rgb(self, rng, channels):
        """Against the same features made by hand, in the order x, y, channels."""
        image = rng.random((9, 13, channels)) * 50
        y, x = np.mgrid[:9, :13]
        rows = np.concatenate([np.stack([x, y]) / 5, np.moveaxis(image, 2, 0) / 20]).reshape(2 + channels, -1)
        crf, _ = small_crf(np.random.default_rng(1))
        other, _ = small_crf(np.random.default_rng(1))
        crf.addPairwiseBilateral(5, 20, image, 3)
        other.addPairwiseEnergy(rows, 3)
        np.testing.assert_allclose(crf.inference(3), other.inference(3), atol=1e-4)
        if channels == 1:
            grey, _ = small_crf(np.random.default_rng(1))
            grey.addPairwiseBilateral(5, 20, image[..., 0], 3)
            assert grey.inference(3).tobytes() == crf.inference(3).tobytes()

    def test_labels_of_8_bits(self):
        labels = np.array([0, 1, 2], np.uint8)
        np.testing.assert_allclose(
            utils_module.unary_from_labels(labels, 2, 0.8),
            -np.log([[0.5, 0.8, 0.2], [0.5, 0.2, 0.8]]),
            rtol=1e-6,
        )

    def test_the_gil_is_released(self, rng):
        """While one thread infers, another one runs Python, even though switching is put off."""
        crf = densecrf_module.DenseCRF(40_000, 21)
        crf.addPairwiseEnergy(rng.normal(size=(5, 40_000)), 3)
        crf.inference(1)
        inferring, seen = threading.Event(), []

        def work():
            inferring.set()
            crf.inference(5)
            inferring.clear()

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1000)
        try:
            worker = threading.Thread(target=work)
            worker.start()
            while worker.is_alive():
                time.sleep(0)
                seen.append(inferring.is_set())
            worker.join()
        finally:
            sys.setswitchinterval(interval)
        assert sum(seen) > 5

    def test_many_python_threads_at_once(self, pydensecrf):
        """One CRF for all of them."""
        crf = densecrf_module.DenseCRF2D(WIDTH, HEIGHT, LABELS)
        crf.setUnaryEnergy(pydensecrf["unary"])
        crf.addPairwiseGaussian(3, 1)
        crf.addPairwiseBilateral(80, 13, pydensecrf["image"], 2)
        expected = [crf.inference(3).tobytes(), crf.klDivergence(pydensecrf["q_steps"][2])]
        found = []

        def work():
            for _ in range(4):
                found.append([crf.inference(3).tobytes(), crf.klDivergence(pydensecrf["q_steps"][2])])
                Q, tmp1, tmp2 = crf.startInference()
                crf.stepInference(Q, tmp1, tmp2)
                assert_same(Q, pydensecrf["q_steps"][1])

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert found == [expected] * 16


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "error", "facts"),
        [
            ((0, 4, 2), ValueError, ["w=0", "at least 1"]),
            ((5, -4, 2), ValueError, ["h=-4"]),
            ((5, 4, 0), ValueError, ["nlabels=0"]),
            (("5", 4, 2), TypeError, ["w='5'", "whole number"]),
            ((5, np.nan, 2), TypeError, ["h=nan"]),
        ],
    )
    def test_sizes(self, arguments, error, facts):
        with raises_saying(error, *facts):
            densecrf_module.DenseCRF2D(*arguments)

    def test_whole_floats_are_sizes(self):
        crf = densecrf_module.DenseCRF2D(6 / 2, 4.0, 2)
        assert crf.inference(np.int64(2)).shape == crf.inference(2.0).shape == (2, 12)

    @pytest.mark.parametrize("niter", [None, "5", np.nan, np.inf])
    def test_iterations(self, niter):
        with raises_saying(TypeError, f"niter={niter!r}", "whole number"):
            densecrf_module.DenseCRF(3, 2).inference(niter)

    @pytest.mark.parametrize(
        ("arguments", "facts"),
        [
            ({"sxy": 0}, ["sxy=0", "above 0", "axes, x and y"]),
            ({"sxy": 1e-320}, ["sxy=1e-320"]),
            ({"sxy": (3, np.nan)}, ["sxy=(3, nan)"]),
            ({"srgb": (13, 13)}, ["srgb=(13.0, 13.0)", "3 channels of rgbim"]),
            ({"srgb": (13,)}, ["srgb=(13.0,)", "3 channels of rgbim", "one number"]),
            ({"compat": np.ones(4)}, ["compat has shape (4,)", "3 classes"]),
            ({"compat": np.ones((3, 2))}, ["compat has shape (3, 2)"]),
            ({"compat": np.nan}, ["compat is nan"]),
            ({"rgbim": np.zeros((3, 9, 13), np.uint8)}, ["(3, 9, 13)", "(9, 13, channels)", "first axis to the end"]),
            ({"rgbim": np.zeros((9, 12, 3), np.uint8)}, ["rgbim has shape (9, 12, 3)", "(9, 13)"]),
            ({"rgbim": np.zeros((9, 13, 1, 3), np.uint8)}, ["(9, 13, 1, 3)"]),
            ({"rgbim": np.full((9, 13, 3), np.nan)}, ["NaN"]),
        ],
    )
    def test_bilateral(self, rng, arguments, facts):
        crf, _ = small_crf(rng)
        usual = {"sxy": 5, "srgb": 13, "rgbim": np.zeros((9, 13, 3), np.uint8), "compat": 3}
        with raises_saying(ValueError, *facts):
            crf.addPairwiseBilateral(**(usual | arguments))

    def test_unaries(self, rng):
        crf = densecrf_module.DenseCRF(12, 3)
        with raises_saying(ValueError, "(3, 11)", "(3, 12)", "labels first"):
            crf.setUnaryEnergy(np.zeros((3, 11)))
        with raises_saying(ValueError, "u has shape (36,)", "(labels, points)"):
            crf.setUnaryEnergy(np.zeros(36))
        with raises_saying(TypeError, "u must hold real numbers"):
            crf.setUnaryEnergy(None)
        with raises_saying(ValueError, "L has shape (3, 4) and f (5, 12)"):
            crf.setUnaryEnergy(np.zeros((3, 4)), np.zeros((5, 12)))
        with raises_saying(ValueError, "(3, 11)", "(3, 12)"):
            crf.setUnaryEnergy(np.zeros((3, 4)), np.zeros((4, 11)))
        with raises_saying(TypeError, "ConstUnary", "ndarray", "setUnaryEnergy"):
            crf.setUnary(np.zeros((3, 12)))

    def test_features(self):
        crf = densecrf_module.DenseCRF(40, 3)
        with raises_saying(ValueError, "(40, 2)", "(d, 40)", "transpose"):
            crf.addPairwiseEnergy(np.zeros((40, 2)), 3)
        with raises_saying(ValueError, "features", "NaN"):
            crf.addPairwiseEnergy(np.full((2, 40), np.nan), 3)

    @pytest.mark.parametrize(
        ("labels", "options", "error", "facts"),
        [
            ([0, 3], {}, ValueError, ["0 to 3", "n_labels=2", "0 to 2", "unsure", "zero_unsure=False"]),
            ([0, 255], {"zero_unsure": False}, ValueError, ["255", "0 to 1", "zero_unsure=True"]),
            ([0.0, 1.0], {}, TypeError, ["integer"]),
            ([0, 1], {"gt_prob": 1}, ValueError, ["gt_prob=1"]),
            ([0, 1], {"n_labels": 0}, ValueError, ["n_labels=0"]),
            ([-1, 1], {"n_labels": 10**400}, ValueError, ["n_labels=1000", "at most"]),
        ],
    )
    def test_labels(self, labels, options, error, facts):
        with raises_saying(error, *facts):
            utils_module.unary_from_labels(np.array(labels), **({"n_labels": 2, "gt_prob": 0.7} | options))

    def test_softmax(self):
        with raises_saying(ValueError, "scale=2"):
            utils_module.unary_from_softmax(np.ones((2, 3)), scale=2)
        with raises_saying(ValueError, "sm has shape (0, 3)"):
            utils_module.unary_from_softmax(np.ones((0, 3)))

    def test_labels_below_the_lowest_class(self):
        for zero_unsure, lowest in ((True, -2), (False, -3)):
            with raises_saying(ValueError, f"{lowest} to 1", "n_labels=2"):
                utils_module.unary_from_labels(np.array([lowest, 1]), 2, 0.7, zero_unsure)

    def test_deviations_that_do_not_fit_the_axes(self):
        image = np.zeros((4, 5, 3))
        with raises_saying(ValueError, "schan=(13.0, 13.0, 13.0, 13.0)", "3 channels"):
            utils_module.create_pairwise_bilateral((3, 3), (13,) * 4, image, chdim=2)
        with raises_saying(ValueError, "sdims=(3.0, 3.0, 3.0)", "2 axes"):
            utils_module.create_pairwise_bilateral((3, 3, 3), 13, image, chdim=2)
        with raises_saying(ValueError, "sdims=(3.0,)", "2 axes"):
            utils_module.create_pairwise_gaussian((3,), (4, 5))
        with raises_saying(ValueError, "(0, 5)", "no grid"):
            utils_module.create_pairwise_gaussian((3, 3), (0, 5))


@pytest.mark.parametrize("dtype", [np.float64, ">f8", list])
@pytest.mark.parametrize("extreme", [1e300, -1e300])
def test_finite_energies_beyond_float32_are_not_infinite(dtype, extreme, recwarn):
    u = np.array([[extreme, 0.5], [0, 0.5]])
    crf = densecrf_module.DenseCRF(2, 2)
    crf.setUnaryEnergy(u.tolist() if dtype is list else u.astype(dtype))
    assert not recwarn.list
    likely = float(extreme < 0)
    np.testing.assert_array_equal(crf.inference(0), [[likely, 0.5], [1 - likely, 0.5]])
