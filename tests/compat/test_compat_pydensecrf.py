"""`crfrnn.compat.pydensecrf`: golden outputs, pydensecrf's quirks, its types and its steps.

Where pydensecrf2 is installed, it must come to the same.
"""

import importlib

import numpy as np
import pytest

from crfrnn import PairwiseTerm, PermutohedralLattice, mean_field, reference, spatial_features
from crfrnn.compat.pydensecrf import densecrf as densecrf_module
from crfrnn.compat.pydensecrf import eigen
from crfrnn.compat.pydensecrf import utils as utils_module
from crfrnn.kernels import native as native_module
from errors import raises_saying
from tolerances import GOLDEN

HEIGHT, WIDTH, LABELS = 72, 96, 5
NORMALIZATIONS = {
    "none": densecrf_module.NO_NORMALIZATION,
    "before": densecrf_module.NORMALIZE_BEFORE,
    "after": densecrf_module.NORMALIZE_AFTER,
    "symmetric": densecrf_module.NORMALIZE_SYMMETRIC,
}


@pytest.fixture(scope="module")
def original():
    """pydensecrf's own modules: densecrf, utils, eigen."""
    pytest.importorskip("pydensecrf.densecrf", reason="compares with pydensecrf2, which is not installed")
    return [importlib.import_module(f"pydensecrf.{name}") for name in ("densecrf", "utils", "eigen")]


def energies(golden):
    return golden["unary"].copy()


def two_kernels(golden, gaussian, bilateral, normalization=densecrf_module.NORMALIZE_SYMMETRIC, dcrf=densecrf_module):
    crf = dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    crf.setUnaryEnergy(energies(golden))
    crf.addPairwiseGaussian(sxy=3, compat=gaussian, normalization=normalization)
    crf.addPairwiseBilateral(
        sxy=80, srgb=13, rgbim=golden["image"].copy(), compat=bilateral, normalization=normalization
    )
    return crf


def assert_same(ours, theirs):
    ours, theirs = np.array(ours), np.array(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= GOLDEN


class TestGoldenOutputs:
    @pytest.mark.parametrize("name", NORMALIZATIONS)
    def test_potts(self, pydensecrf, name):
        crf = two_kernels(pydensecrf, 0.8, 1.5, NORMALIZATIONS[name])
        assert_same(crf.inference(5), pydensecrf[f"q_{name}_potts_T5"])

    @pytest.mark.parametrize("kind", ["diagonal", "matrix"])
    def test_compatibility(self, pydensecrf, kind):
        compat = pydensecrf[f"compat_{kind}"]
        assert_same(two_kernels(pydensecrf, compat, compat).inference(5), pydensecrf[f"q_symmetric_{kind}_T5"])

    def test_crfrnn_bandwidths(self, pydensecrf):
        crf = densecrf_module.DenseCRF2D(WIDTH, HEIGHT, LABELS)
        crf.setUnaryEnergy(energies(pydensecrf))
        crf.addPairwiseGaussian(3, 1, densecrf_module.DIAG_KERNEL, densecrf_module.NORMALIZE_AFTER)
        crf.addPairwiseBilateral(
            160, 3, pydensecrf["image"], 1, densecrf_module.DIAG_KERNEL, densecrf_module.NORMALIZE_AFTER
        )
        assert_same(crf.inference(10), pydensecrf["q_crfrnn_T10"])

    def test_a_deviation_per_axis_and_channel(self, pydensecrf):
        crf = densecrf_module.DenseCRF2D(WIDTH, HEIGHT, LABELS)
        crf.setUnaryEnergy(energies(pydensecrf))
        crf.addPairwiseGaussian((4, 2), 1)
        crf.addPairwiseBilateral((40, 20), (13, 7, 5), pydensecrf["image"], 2)
        assert_same(crf.inference(3), pydensecrf["q_anisotropic_T3"])

    def test_step_by_step(self, pydensecrf):
        crf = two_kernels(pydensecrf, 1, 2)
        Q, tmp1, tmp2 = crf.startInference()
        array = np.asarray(Q)
        for step in range(6):
            if step:
                crf.stepInference(Q, tmp1, tmp2)
            assert_same(array, pydensecrf["q_steps"][step])
            assert crf.klDivergence(Q) / (HEIGHT * WIDTH) == pytest.approx(pydensecrf["kl_per_pixel"][step], rel=1e-4)

    def test_steps_without_divergences(self, pydensecrf):
        crf = two_kernels(pydensecrf, 1, 2)
        Q, tmp1, tmp2 = crf.startInference()
        for step in range(1, 6):
            crf.stepInference(Q, tmp1, tmp2)
            assert_same(Q, pydensecrf["q_steps"][step])

    def test_features_of_ones_own(self, pydensecrf):
        crf = densecrf_module.DenseCRF(HEIGHT * WIDTH, LABELS)
        crf.setUnaryEnergy(energies(pydensecrf))
        crf.addPairwiseEnergy(pydensecrf["features_6d"], compat=2)
        assert_same(crf.inference(5), pydensecrf["q_features_6d_T5"])

    def test_volume(self, pydensecrf):
        crf = densecrf_module.DenseCRF(pydensecrf["volume"].size, 2)
        crf.setUnaryEnergy(pydensecrf["volume_unary"])
        crf.addPairwiseEnergy(pydensecrf["volume_features_gaussian"], compat=1)
        crf.addPairwiseEnergy(
            pydensecrf["volume_features_bilateral"],
            compat=1.5,
            kernel=densecrf_module.FULL_KERNEL,
            normalization=densecrf_module.NORMALIZE_AFTER,
        )
        assert_same(crf.inference(5), pydensecrf["q_volume_T5"])

    @pytest.mark.parametrize("way", ["setUnary", "setUnaryEnergy"])
    def test_logistic_unary(self, pydensecrf, way):
        L, f = pydensecrf["logistic_L"], pydensecrf["logistic_f"]
        crf = densecrf_module.DenseCRF2D(WIDTH, HEIGHT, LABELS)
        if way == "setUnary":
            crf.setUnary(densecrf_module.LogisticUnary(L, f))
        else:
            crf.setUnaryEnergy(L, f)
        crf.addPairwiseGaussian(3, 3)
        assert_same(crf.inference(2), pydensecrf["q_logistic_T2"])

    def test_unaries(self, pydensecrf):
        labels = pydensecrf["labels"]
        unsure = utils_module.unary_from_labels(labels, LABELS, 0.6)
        hard = utils_module.unary_from_labels(np.minimum(labels, 4), LABELS, gt_prob=0.6, zero_unsure=False)
        probabilities = reference.softmax(pydensecrf["logits"])
        scaled = utils_module.unary_from_softmax(probabilities, scale=0.8, clip=1e-3)
        for ours, name in ((unsure, "labels_unsure"), (hard, "labels_hard"), (scaled, "softmax_scaled")):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, pydensecrf[f"unary_{name}"], atol=1e-5)

    def test_features_of_a_volume(self, pydensecrf):
        volume = pydensecrf["volume"]
        expected = pydensecrf["volume_features_gaussian"]
        sdims = [(length - 1) / row.max() for length, row in zip(volume.shape, expected, strict=True)]
        np.testing.assert_allclose(utils_module.create_pairwise_gaussian(sdims, volume.shape), expected, rtol=1e-6)
        expected = pydensecrf["volume_features_bilateral"]
        sdims = [(length - 1) / row.max() for length, row in zip(volume.shape, expected[:3], strict=True)]
        schan = volume.max() / expected[3].max()
        np.testing.assert_allclose(
            utils_module.create_pairwise_bilateral(sdims, (schan,), volume), expected, rtol=1e-5, atol=1e-6
        )


def small_crf(rng, width=13, height=9, labels=3):
    """A CRF without kernels, and its energies."""
    u = rng.random((labels, width * height), dtype=np.float32) * 4
    crf = densecrf_module.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(u)
    return crf, u


class TestQuirks:
    def test_potts_rewards_what_a_matrix_punishes(self, rng):
        results = []
        for compat in (2.5, np.full(3, -2.5), -2.5 * np.eye(3), [-2.5] * 3):
            crf, _ = small_crf(np.random.default_rng(1))
            crf.addPairwiseGaussian(2, compat)
            results.append(np.array(crf.inference(4)))
        for result in results[1:]:
            np.testing.assert_allclose(result, results[0], atol=1e-6)
        assert not np.allclose(results[0], crf.inference(0), atol=1e-2)

    def test_matrices_are_made_symmetric(self, rng):
        compat = rng.normal(size=(3, 3))
        results = []
        for given in (compat, compat.T, (compat + compat.T) / 2):
            crf, _ = small_crf(np.random.default_rng(1))
            crf.addPairwiseGaussian(2, given)
            results.append(np.array(crf.inference(3)))
        np.testing.assert_allclose(results[1], results[0], atol=1e-6)
        np.testing.assert_allclose(results[2], results[0], atol=1e-6)

    def test_the_kind_of_kernel_changes_nothing(self):
        results = set()
        for kernel in (*densecrf_module.KernelType, 0, 2):
            crf, _ = small_crf(np.random.default_rng(1))
            crf.addPairwiseGaussian(2, 3, kernel)
            results.add(crf.inference(3).tobytes())
        assert len(results) == 1

    def test_numbers_stand_for_constants(self):
        constants = ("NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC")
        assert [getattr(densecrf_module, name) for name in constants] == [0, 1, 2, 3]
        assert [getattr(densecrf_module, f"{name}_KERNEL") for name in ("CONST", "DIAG", "FULL")] == [0, 1, 2]
        crf, _ = small_crf(np.random.default_rng(1))
        other, _ = small_crf(np.random.default_rng(1))
        crf.addPairwiseGaussian(2, 3, normalization=2)
        other.addPairwiseGaussian(2, 3, normalization=densecrf_module.NORMALIZE_AFTER)
        assert crf.inference(3).tobytes() == other.inference(3).tobytes()

    def test_a_normalisation_in_the_place_of_the_kernel(self):
        crf, _ = small_crf(np.random.default_rng(1))
        other, _ = small_crf(np.random.default_rng(1))
        with pytest.warns(UserWarning, match="kernel=NORMALIZE_AFTER is a NormalizationType, which has no effect"):
            crf.addPairwiseGaussian(2, 3, densecrf_module.NORMALIZE_AFTER)
        other.addPairwiseGaussian(2, 3)
        assert crf.inference(3).tobytes() == other.inference(3).tobytes()
        with pytest.warns(UserWarning, match="normalization=DIAG_KERNEL is a KernelType, whose number counts"):
            crf.addPairwiseGaussian(2, 3, 1, densecrf_module.DIAG_KERNEL)

    def test_no_unary_is_none_at_all(self):
        crf = densecrf_module.DenseCRF(7, 4)
        np.testing.assert_allclose(crf.inference(3), 0.25)
        np.testing.assert_allclose(crf.startInference()[0], 0.25)

    @pytest.mark.parametrize("tolerance", [None, 0])
    def test_the_first_of_equally_likely_labels_wins(self, tolerance):
        crf = densecrf_module.DenseCRF(20 * 20, 150)
        if tolerance is not None:
            crf.tolerance = tolerance
        crf.setUnaryEnergy(np.zeros((150, 400), np.float32))
        crf.addPairwiseEnergy(np.indices((20, 20)).reshape(2, -1) / 3, 3)
        assert (np.argmax(crf.inference(5), axis=0) == 0).all()

    def test_features_run_y_x_in_utils(self, rng):
        image = rng.integers(0, 256, (3, 4, 2))
        features = utils_module.create_pairwise_bilateral(sdims=(2, 5), schan=(7, 3), img=image, chdim=2)
        expected = [[y / 2, x / 5, image[y, x, 0] / 7, image[y, x, 1] / 3] for y in range(3) for x in range(4)]
        np.testing.assert_allclose(features, np.transpose(expected), rtol=1e-6)
        assert features.flags.c_contiguous
        assert features.dtype == np.float32
        first = utils_module.create_pairwise_bilateral(2, 7, np.moveaxis(image, 2, 0), chdim=0)
        np.testing.assert_array_equal(
            first, utils_module.create_pairwise_bilateral(2, 7, np.moveaxis(image, 2, 0), chdim=-3)
        )
        last = utils_module.create_pairwise_bilateral((2, 2), (7, 7), image.astype(np.float64), chdim=2)
        np.testing.assert_array_equal(first, last)
        gaussian = utils_module.create_pairwise_gaussian((2, 5), (3, 4))
        np.testing.assert_array_equal(gaussian, features[:2])

    def test_deprecated_names(self, rng):
        labels, probabilities = rng.integers(0, 4, 20), rng.dirichlet(np.ones(3), 20).T
        with pytest.warns(DeprecationWarning, match="use unary_from_labels"):
            np.testing.assert_array_equal(
                utils_module.compute_unary(labels, 3), utils_module.unary_from_labels(labels, 3, 0.5)
            )
        with pytest.warns(DeprecationWarning, match="use unary_from_softmax"):
            plain = utils_module.softmax_to_unary(probabilities)
        np.testing.assert_allclose(plain, -np.log(probabilities), rtol=1e-6)
        with pytest.warns(DeprecationWarning, match="use unary_from_softmax"):
            scaled = utils_module.softmax_to_unary(probabilities, GT_PROB=0.6)
        np.testing.assert_allclose(scaled, -np.log(0.6 * probabilities + 0.4 / 3), rtol=1e-6)


class TestEigen:
    def test_results_are_arrays(self, rng):
        crf, u = small_crf(rng)
        Q = crf.inference(0)
        assert isinstance(Q, eigen.MatrixXf)
        assert np.array(Q).shape == Q.shape == u.shape
        np.testing.assert_array_equal(np.argmax(Q, axis=0), u.argmin(axis=0))
        assert np.array(Q).reshape((3, 9, 13)).tobytes() == Q.reshape(3, 9, 13).tobytes() == bytes(memoryview(Q))

    def test_copies(self, rng):
        matrix, vector = rng.normal(size=(3, 4)), rng.normal(size=5).astype(np.float32)
        copied = eigen.matrixXf(matrix.T)
        np.testing.assert_array_equal(np.array(copied), matrix.T.astype(np.float32))
        same = eigen.vectorXf(vector)
        same[0] = 9
        assert vector[0] != 9
        assert (eigen.MatrixXf().shape, eigen.VectorXf().shape) == ((0, 0), (0,))
        assert isinstance(copied, eigen.MatrixXf)
        assert isinstance(same, eigen.VectorXf)

    def test_bad_input(self, rng):
        with raises_saying(ValueError, "arr has shape (2, 3, 4)", "2 axes"):
            eigen.matrixXf(rng.normal(size=(2, 3, 4)))
        with raises_saying(TypeError, "arr must hold real numbers"):
            eigen.matrixXf(None)


class TestSteps:
    def test_in_place_and_from_anywhere(self, rng):
        """From marginals that no iteration led to, whether they sum to 1 or not."""
        crf, u = small_crf(rng)
        crf.addPairwiseGaussian(2, 3, normalization=densecrf_module.NORMALIZE_AFTER)
        kernel = PermutohedralLattice(spatial_features((9, 13), 2.0))
        for start in (rng.dirichlet(np.ones(3), 117).T, rng.random((3, 117)) + 1):
            expected = reference.softmax(-u + 3 * (kernel.filter(start.T) / kernel.norm()[:, None]).T)
            Q = eigen.matrixXf(start)
            array = np.asarray(Q)
            divergence = crf.klDivergence(Q)
            assert divergence == pytest.approx(
                float((start * (np.log(start) + u - 3 * (kernel.filter(start.T) / kernel.norm()[:, None]).T)).sum()),
                rel=1e-4,
            )
            crf.stepInference(Q, None, None)
            np.testing.assert_allclose(array, expected, atol=1e-5)

    def test_from_anywhere_as_pydensecrf(self, pydensecrf, original, rng):
        dcrf, _, eigen_original = original
        start = rng.random((LABELS, HEIGHT * WIDTH), dtype=np.float32)
        ours, theirs = two_kernels(pydensecrf, 1, 2), two_kernels(pydensecrf, 1, 2, dcrf=dcrf)
        Q, other = eigen.matrixXf(start), eigen_original.matrixXf(start)
        for _ in range(2):
            assert ours.klDivergence(Q) == pytest.approx(theirs.klDivergence(other), rel=1e-4)
            ours.stepInference(Q, eigen.MatrixXf(), eigen.MatrixXf())
            theirs.stepInference(other, eigen_original.MatrixXf(), eigen_original.MatrixXf())
            assert_same(Q, other)

    def test_a_divergence_is_not_remembered_for_other_marginals(self, pydensecrf):
        crf = two_kernels(pydensecrf, 1, 2)
        Q, tmp1, tmp2 = crf.startInference()
        before = crf.klDivergence(Q)
        crf.stepInference(Q, tmp1, tmp2)
        after = crf.klDivergence(Q)
        assert after < before
        Q[...] = crf.inference(0)
        assert crf.klDivergence(Q) == pytest.approx(before, rel=1e-6)
        crf.addPairwiseGaussian(2, 3)
        assert crf.klDivergence(Q) < before - 1

    def test_bad_marginals(self, rng):
        crf, u = small_crf(rng)
        with raises_saying(ValueError, "Q has shape (3, 5)", "(3, 117)"):
            crf.klDivergence(np.ones((3, 5)))
        frozen = np.array(crf.inference(0))
        frozen.flags.writeable = False
        for Q in (frozen, u.tolist(), u.astype(int)):
            with raises_saying(TypeError, "in place", "startInference"):
                crf.stepInference(Q, None, None)


class TestWhatIsBuilt:
    def test_lattices_once_and_inference_in_one_native_call(self, pydensecrf, monkeypatch):
        built, called = [], []
        lattice, native = densecrf_module.lattice, native_module._native.mean_field32
        monkeypatch.setattr(densecrf_module, "lattice", lambda rows: built.append(1) or lattice(rows))
        monkeypatch.setattr(native_module._native, "mean_field32", lambda *a: called.append(a[6]) or native(*a))
        crf = two_kernels(pydensecrf, 1, 2)
        assert len(built) == 2
        crf.inference(4)
        assert called == [4]
        Q, tmp1, tmp2 = crf.startInference()
        crf.stepInference(Q, tmp1, tmp2)
        assert called == [4, 0, 1, 0]
        crf.klDivergence(Q)
        crf.stepInference(Q, tmp1, tmp2)
        assert called == [4, 0, 1, 0, 1, 0]
        assert len(built) == 2


def test_public_names_are_those_of_pydensecrf(original):
    for ours, theirs in zip((densecrf_module, utils_module, eigen), original, strict=True):
        public = {name for name in dir(theirs) if not name.startswith("_")} - {"Number", "np", "warning", "eigen"}
        assert public <= set(dir(ours))
        for name in public:
            if isinstance(getattr(theirs, name), type):
                members = {member for member in dir(getattr(theirs, name)) if not member.startswith("_")}
                assert members <= set(dir(getattr(ours, name))), name


def test_a_term_is_what_the_class_adds(pydensecrf):
    """The migration page's translation into this package's own names."""
    crf = two_kernels(pydensecrf, 1, 2)
    logits = -pydensecrf["unary"]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rows = np.concatenate([np.stack([x, y], axis=-1) / 80, pydensecrf["image"] / 13], axis=2, dtype=np.float32).reshape(
        -1, 5
    )
    terms = [
        PairwiseTerm(PermutohedralLattice(spatial_features((HEIGHT, WIDTH), 3.0)), 1.0, "symmetric"),
        PairwiseTerm(PermutohedralLattice(rows), 2.0, "symmetric"),
    ]
    expected = mean_field(logits, terms, iterations=5, return_probabilities=True)
    assert_same(crf.inference(5), expected)
