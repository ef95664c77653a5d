"""Programs as pydensecrf's users write them today, on `crfrnn.compat.pydensecrf`, in processes of many kinds.

Where pydensecrf2 is installed, the same programs run on it and must come to the same.
"""

import importlib
import multiprocessing
import subprocess
import sys
import warnings

import numpy as np
import pytest

from crfrnn import reference
from crfrnn.compat.pydensecrf import densecrf as densecrf_module
from crfrnn.compat.pydensecrf import utils as utils_module
from tolerances import GOLDEN

LABELS = 5


@pytest.fixture(scope="module")
def original():
    """pydensecrf's own modules: densecrf and utils."""
    pytest.importorskip("pydensecrf.densecrf", reason="compares with pydensecrf2, which is not installed")
    return [importlib.import_module(f"pydensecrf.{name}") for name in ("densecrf", "utils")]


def assert_same(ours, theirs):
    ours, theirs = np.array(ours), np.array(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= GOLDEN


# Programs as people write them, each on the modules it is given. They return probabilities (labels, points).


def softmax_map(dcrf, utils, photo, probabilities):
    """A network's softmax output, upsampled: deeplab's and stego's numbers."""
    classes, height, width = probabilities.shape
    unary = np.ascontiguousarray(utils.unary_from_softmax(probabilities))
    d = dcrf.DenseCRF2D(width, height, classes)
    d.setUnaryEnergy(unary)
    d.addPairwiseGaussian(sxy=1, compat=3)
    d.addPairwiseBilateral(sxy=67, srgb=3, rgbim=np.ascontiguousarray(photo[:, :, ::-1]), compat=4)
    return np.array(d.inference(10)).reshape((classes, height, width)).reshape((classes, -1))


def two_class_mask(dcrf, utils, photo, mask):
    """A mask of 0 and 1 refined, as maskcut does it."""
    height, width = mask.shape
    foreground = mask.astype(float)
    scores = np.exp(np.stack([1 - foreground, foreground]))
    unary = utils.unary_from_softmax(scores / scores.sum(axis=0, keepdims=True))
    d = dcrf.DenseCRF2D(width, height, 2)
    d.setUnaryEnergy(np.ascontiguousarray(unary))
    d.addPairwiseGaussian(sxy=3, compat=7)
    d.addPairwiseBilateral(sxy=50, srgb=5, rgbim=photo, compat=10)
    return np.array(d.inference(10))


def labelled(dcrf, utils, photo, labels, n_labels):
    """Pseudo-labels held with probability 0.7, as irn does it."""
    height, width = photo.shape[:2]
    d = dcrf.DenseCRF2D(width, height, n_labels)
    d.setUnaryEnergy(utils.unary_from_labels(labels, n_labels, gt_prob=0.7, zero_unsure=False))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(np.copy(photo)), compat=10)
    return np.array(d.inference(10))


def volume(dcrf, utils, image, probabilities):
    """A volume with one channel through the generic class."""
    d = dcrf.DenseCRF(np.prod(image.shape), len(probabilities))
    d.setUnaryEnergy(utils.unary_from_softmax(probabilities))
    features = utils.create_pairwise_gaussian(sdims=(1.0, 2.0, 2.0), shape=image.shape)
    d.addPairwiseEnergy(features, compat=3, kernel=dcrf.FULL_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
    features = utils.create_pairwise_bilateral(sdims=(4.0, 5.0, 5.0), schan=(20.0,), img=image, chdim=-1)
    d.addPairwiseEnergy(features, compat=10, kernel=dcrf.FULL_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
    return np.array(d.inference(5))


def text_mask(dcrf, utils, photo, mask):
    """An 8-bit mask of text, without normalisation."""
    stacked = np.concatenate([255 - mask[:, :, None], mask[:, :, None]], axis=2).astype(np.float32) / 255.0
    unary = np.ascontiguousarray(utils.unary_from_softmax(stacked.transpose((2, 0, 1)).reshape((2, -1))))
    d = dcrf.DenseCRF2D(photo.shape[1], photo.shape[0], 2)
    d.setUnaryEnergy(unary)
    d.addPairwiseGaussian(sxy=1, compat=3, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NO_NORMALIZATION)
    d.addPairwiseBilateral(
        sxy=23, srgb=7, rgbim=photo, compat=20, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NO_NORMALIZATION
    )
    return np.array(d.inference(5))


def until_it_settles(dcrf, utils, photo, probabilities):
    """Step by step, until the divergence falls by less than a thousandth."""
    classes, height, width = probabilities.shape
    d = dcrf.DenseCRF2D(width, height, classes)
    d.setUnary(dcrf.ConstUnary(utils.unary_from_softmax(probabilities)))
    d.addPairwiseGaussian(sxy=(3, 3), compat=1)
    d.addPairwiseBilateral(sxy=(80, 80), srgb=(13, 13, 13), rgbim=photo, compat=2)
    Q, tmp1, tmp2 = d.startInference()
    divergences = [d.klDivergence(Q)]
    for _ in range(50):
        d.stepInference(Q, tmp1, tmp2)
        divergences.append(d.klDivergence(Q))
        if divergences[-2] - divergences[-1] < 1e-3 * abs(divergences[-1]):
            break
    assert 2 < len(divergences) < 50
    return np.array(Q)


def generic_image(dcrf, utils, photo, labels, n_labels):
    """An image through the generic class, with the deprecated unary."""
    d = dcrf.DenseCRF(photo.shape[0] * photo.shape[1], n_labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        d.setUnaryEnergy(utils.compute_unary(labels.flatten(), n_labels))
    features = utils.create_pairwise_gaussian(sdims=(3, 3), shape=photo.shape[:2])
    d.addPairwiseEnergy(features, compat=3, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
    features = utils.create_pairwise_bilateral(sdims=(80, 80), schan=13, img=photo, chdim=2)
    d.addPairwiseEnergy(features, compat=10, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
    return np.array(d.inference(5))


@pytest.fixture(params=[softmax_map, two_class_mask, labelled, volume, text_mask, until_it_settles, generic_image])
def caller(request, pydensecrf):
    """A program, and what it is given besides the modules."""
    photo, probabilities = pydensecrf["image"], reference.softmax(pydensecrf["logits"])
    mask = probabilities.argmax(axis=0) == probabilities.sum(axis=(1, 2)).argmax()
    arguments = {
        softmax_map: [photo, probabilities],
        two_class_mask: [photo, mask],
        labelled: [photo, np.minimum(pydensecrf["labels"], 4), LABELS],
        volume: [pydensecrf["volume"], np.exp(-pydensecrf["volume_unary"]).reshape(2, *pydensecrf["volume"].shape)],
        text_mask: [photo, np.where(mask, 230, 20).astype(np.uint8)],
        until_it_settles: [photo, probabilities],
        generic_image: [photo, pydensecrf["labels"], LABELS],
    }
    return request.param, arguments[request.param]


class TestCallers:
    def test_a_program_runs(self, caller):
        program, arguments = caller
        q = program(densecrf_module, utils_module, *arguments)
        assert q.dtype == np.float32
        np.testing.assert_allclose(q.sum(axis=0), 1, atol=1e-5)
        assert len(np.unique(q.argmax(axis=0))) > 1

    def test_a_program_does_what_it_does_on_pydensecrf(self, caller, original):
        program, arguments = caller
        dcrf, utils = original
        assert_same(program(densecrf_module, utils_module, *arguments), program(dcrf, utils, *arguments))

    @pytest.mark.parametrize("start", ["fork", "spawn"])
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_a_pool_of_workers(self, rng, start):
        """Forked after this process has used its threads."""
        if start not in multiprocessing.get_all_start_methods():
            pytest.skip(f"this system does not {start} processes")
        size = 320 if start == "fork" else 64
        photos = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8).repeat(size // 8, 1).repeat(size // 8, 2)
        maps = reference.softmax(rng.normal(size=(3, 27, size, size)).astype(np.float32).swapaxes(0, 1)).swapaxes(0, 1)
        jobs = list(zip(photos, maps, strict=True))
        alone = [refined(job) for job in jobs]
        with multiprocessing.get_context(start).Pool(2) as pool:
            together = pool.map_async(refined, jobs).get(timeout=100)
        for one, other in zip(alone, together, strict=True):
            assert one.tobytes() == other.tobytes()


def refined(job):
    return softmax_map(densecrf_module, utils_module, *job)


class TestInstall:
    """In processes of their own: installing is for the whole process."""

    PROGRAM = """
import numpy as np
import pydensecrf
import pydensecrf.densecrf as dcrf
import pydensecrf.eigen as eigen
from pydensecrf import utils
from pydensecrf.utils import unary_from_labels, create_pairwise_gaussian

d = dcrf.DenseCRF2D(6, 4, 2)
d.setUnaryEnergy(unary_from_labels(np.arange(24) % 3, 2, 0.7))
d.addPairwiseGaussian(sxy=2, compat=3)
print(pydensecrf.densecrf is dcrf, dcrf.__name__, np.argmax(d.inference(5), axis=0).shape)
"""

    def run(self, folder, program):
        return subprocess.run(
            [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=100
        )

    def test_third_party_code_runs_unmodified(self, tmp_path):
        (tmp_path / "third_party.py").write_text(self.PROGRAM)
        program = "from crfrnn.compat.pydensecrf import install; install(); install(); import third_party"
        ended = self.run(tmp_path, program)
        assert ended.stdout == "True crfrnn.compat.pydensecrf.densecrf (24,)\n", ended.stderr

    def test_too_late(self, tmp_path):
        (tmp_path / "pydensecrf").mkdir()
        (tmp_path / "pydensecrf" / "__init__.py").touch()
        ended = self.run(tmp_path, "import pydensecrf, crfrnn.compat.pydensecrf as ours; ours.install()")
        assert ended.returncode == 1
        for fact in ("RuntimeError", "already imported", str(tmp_path), "install() before"):
            assert fact in ended.stderr

    def test_the_base_install_is_enough(self, tmp_path):
        program = (
            "import sys; sys.modules['torch'] = None; import crfrnn.compat.pydensecrf; "
            "print(sorted({'torch', 'scipy', 'keras', 'pydensecrf'} & {k for k, m in sys.modules.items() if m}))"
        )
        assert self.run(tmp_path, program).stdout == "[]\n"
