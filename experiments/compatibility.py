"""`python -m experiments.compatibility`: programs as people publish them, on pydensecrf and on its names here.

Each is written for this page after the calls that a kind of public program makes, with its numbers. Writes the table of
docs/compatibility.md; needs pydensecrf2; half a minute.
"""

import argparse
import importlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from crfrnn.files.replacement import replacing

PAGE = Path(__file__).resolve().parents[1] / "docs" / "compatibility.md"
GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "pydensecrf.npz"
MARKS = "<!-- from `python -m experiments.compatibility` -->\n", "<!-- to here -->\n"

Array = NDArray[Any]
Modules = tuple[ModuleType, ModuleType]


class Scene(NamedTuple):
    """A photo (H, W, 3), probabilities (C, H, W) and labels (H, W) of it, and a volume with two classes."""

    photo: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    volume: Array
    volume_probabilities: Array


def scene() -> Scene:
    """The photo and the volume of the tests' golden file; labels are steps of brightness, some of them wrong."""
    with np.load(GOLDEN) as archive:
        volume, photo = archive["volume"], archive["image"]
        volume_probabilities = np.exp(-archive["volume_unary"]).reshape(2, *volume.shape)
    random = np.random.default_rng(0)
    brightness = np.asarray(Image.fromarray(photo).convert("L").filter(ImageFilter.GaussianBlur(3)))
    labels = np.digitize(brightness, np.quantile(brightness, (0.2, 0.4, 0.6, 0.8)))
    labels = np.where(random.random(labels.shape) < 0.1, random.integers(0, 5, labels.shape), labels)
    held = (np.arange(5)[:, None, None] == labels).astype(np.float32)
    probabilities = 0.7 * held + 0.3 * random.dirichlet(np.ones(5), labels.shape).transpose(2, 0, 1)
    return Scene(photo, probabilities.astype(np.float32), labels, volume, volume_probabilities)


def post_processor(modules: Modules, given: Scene) -> Array:
    """A class with the numbers of DeepLab, called with a photo and a softmax map."""
    dcrf, utils = modules

    class DenseCRF:
        def __init__(self, **numbers: float) -> None:
            self.numbers = numbers

        def __call__(self, image: Array, maps: Array) -> Array:
            labels, height, width = maps.shape
            energies = np.ascontiguousarray(utils.unary_from_softmax(maps))
            d = dcrf.DenseCRF2D(width, height, labels)
            d.setUnaryEnergy(energies)
            n = self.numbers
            d.addPairwiseGaussian(sxy=n["near"], compat=n["smooth"])
            d.addPairwiseBilateral(sxy=n["far"], srgb=n["levels"], rgbim=np.ascontiguousarray(image), compat=n["edges"])
            return np.array(d.inference(int(n["steps"]))).reshape((labels, height, width))

    crf = DenseCRF(steps=10, near=1, smooth=3, far=67, levels=3, edges=4)
    return crf(given.photo, given.probabilities)


def pseudo_labels(modules: Modules, given: Scene) -> Array:
    """Labels of a class activation map held with 0.7 (IRN): the answer is `argmax` of the result."""
    dcrf, utils = modules
    height, width = given.labels.shape
    d = dcrf.DenseCRF2D(width, height, 5)
    d.setUnaryEnergy(utils.unary_from_labels(given.labels, 5, gt_prob=0.7, zero_unsure=False))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(np.copy(given.photo)), compat=10)
    return np.array(d.inference(10)).reshape((5, height, width))


def scaled_maps(modules: Modules, given: Scene) -> Array:
    """Maps of AffinityNet and SEAM, whose deviations shrink with the photo."""
    dcrf, utils = modules
    scale = 4.0
    d = dcrf.DenseCRF2D(given.photo.shape[1], given.photo.shape[0], 5)
    d.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(given.probabilities)))
    d.addPairwiseGaussian(sxy=3 / scale, compat=3)
    d.addPairwiseBilateral(sxy=80 / scale, srgb=13, rgbim=np.copy(given.photo), compat=10)
    return np.array(d.inference(10)).reshape(given.probabilities.shape)


def object_mask(modules: Modules, given: Scene) -> Array:
    """A found object of 0 and 1, as objects without labels are refined (MaskCut, TokenCut)."""
    dcrf, utils = modules
    mask = (given.labels > 2).astype(np.float64)
    scores = np.exp(np.stack([1 - mask, mask]))
    d = dcrf.DenseCRF2D(mask.shape[1], mask.shape[0], 2)
    d.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(scores / scores.sum(axis=0))))
    d.addPairwiseGaussian(sxy=3, compat=7)
    d.addPairwiseBilateral(sxy=50, srgb=5, rgbim=given.photo, compat=10)
    return np.array(d.inference(10)).reshape(2, *mask.shape)


def saliency(modules: Modules, given: Scene) -> Array:
    """A saliency map whose energies are made by hand, with a softened sigmoid."""
    dcrf, _ = modules
    foreground = 1 - given.probabilities[0].astype(np.float64)
    height, width = foreground.shape
    energies = np.zeros((2, height * width), np.float32)
    soft = 1 / (1 + np.exp(-foreground))
    energies[0] = -(np.log(1 - foreground + 1e-8) / (1.05 * soft)).flatten()
    energies[1] = -(np.log(foreground + 1e-8) / (1.05 * soft)).flatten()
    d = dcrf.DenseCRF2D(width, height, 2)
    d.setUnaryEnergy(energies)
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=60, srgb=5, rgbim=given.photo, compat=5)
    return np.array(d.inference(5)).reshape(2, height, width)


def coloured_annotation(modules: Modules, given: Scene) -> Array:
    """An annotation in colours turned into labels, refined step by step with the divergence printed."""
    dcrf, utils = modules
    colours, labels = np.unique(given.labels, return_inverse=True)
    unknown = bool((colours == 0).any())
    count = len(colours) - unknown
    d = dcrf.DenseCRF2D(given.photo.shape[1], given.photo.shape[0], count)
    d.setUnaryEnergy(utils.unary_from_labels(labels.reshape(given.labels.shape), count, 0.7, zero_unsure=unknown))
    d.addPairwiseGaussian((3, 3), 3, dcrf.DIAG_KERNEL, dcrf.NORMALIZE_SYMMETRIC)
    d.addPairwiseBilateral((80, 80), (13, 13, 13), given.photo, 10, dcrf.DIAG_KERNEL, dcrf.NORMALIZE_SYMMETRIC)
    Q, first, second = d.startInference()
    for _ in range(5):
        f"KL divergence: {d.klDivergence(Q):.1f}"
        d.stepInference(Q, first, second)
    return np.array(Q).reshape(count, *given.labels.shape)


def satellite_tile(modules: Modules, given: Scene) -> Array:
    """A remote-sensing script: rows before columns, kernels from `utils` only, and the share of right pixels kept."""
    dcrf, utils = modules
    rows, columns = given.photo.shape[:2]
    d = dcrf.DenseCRF2D(rows, columns, 5)
    d.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(given.probabilities)))
    d.addPairwiseEnergy(utils.create_pairwise_gaussian(sdims=(3, 3), shape=given.photo.shape[:2]), compat=3)
    features = utils.create_pairwise_bilateral(sdims=(50, 50), schan=(20, 20, 20), img=given.photo, chdim=2)
    d.addPairwiseEnergy(features, compat=10, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
    q = d.inference(5)
    round((np.argmax(q, 0) == given.labels.flatten()).mean(), 3)
    return np.array(q).reshape(5, rows, columns)


def spectral_bands(modules: Modules, given: Scene) -> Array:
    """A hyperspectral script: six bands, one deviation given for the first of them."""
    dcrf, utils = modules
    bands = np.concatenate([given.photo, given.photo[..., ::-1] // 2], axis=2) / 40
    d = dcrf.DenseCRF(given.labels.size, 5)
    d.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(given.probabilities)))
    features = utils.create_pairwise_bilateral(sdims=(20, 20), schan=(2,), img=bands, chdim=2)
    d.addPairwiseEnergy(features, compat=5)
    return np.array(d.inference(5)).reshape(given.probabilities.shape)


def scan(modules: Modules, given: Scene) -> Array:
    """A medical script: a volume of two modalities, with deviations in voxels."""
    dcrf, utils = modules
    modalities = np.stack([given.volume, given.volume**2], axis=-1).astype(np.float32)
    d = dcrf.DenseCRF(given.volume.size, 2)
    d.setUnaryEnergy(utils.unary_from_softmax(given.volume_probabilities))
    d.addPairwiseEnergy(utils.create_pairwise_gaussian(sdims=(1.0, 2.0, 2.0), shape=given.volume.shape), compat=3)
    spread = [float(modalities[..., channel].std()) for channel in range(2)]
    features = utils.create_pairwise_bilateral(sdims=(4.0, 5.0, 5.0), schan=spread, img=modalities, chdim=3)
    d.addPairwiseEnergy(features, compat=10, kernel=dcrf.FULL_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
    return np.array(d.inference(5)).reshape(2, *given.volume.shape)


def competition_mask(modules: Modules, given: Scene) -> Array:
    """A kernel of a competition: a mask of two colours, labels held with 0.7, iterations as a float."""
    dcrf, utils = modules
    _, labels = np.unique((given.labels > 2) * 255, return_inverse=True)
    d = dcrf.DenseCRF2D(given.photo.shape[1], given.photo.shape[0], 2)
    d.setUnaryEnergy(utils.unary_from_labels(labels, 2, gt_prob=0.7, zero_unsure=False))
    d.addPairwiseGaussian(sxy=(3, 3), compat=3, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
    return np.array(d.inference(10.0)).reshape(2, *given.labels.shape)


def text_mask(modules: Modules, given: Scene) -> Array:
    """An 8-bit mask of text, without normalisation."""
    dcrf, utils = modules
    mask = np.where(given.labels > 2, 230, 20).astype(np.uint8)
    stacked = np.stack([255 - mask, mask], axis=-1).astype(np.float32) / 255
    d = dcrf.DenseCRF2D(mask.shape[1], mask.shape[0], 2)
    d.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(stacked.transpose(2, 0, 1).reshape(2, -1))))
    raw = {"kernel": dcrf.DIAG_KERNEL, "normalization": dcrf.NO_NORMALIZATION}
    d.addPairwiseGaussian(sxy=1, compat=3, **raw)
    d.addPairwiseBilateral(sxy=23, srgb=7, rgbim=given.photo, compat=20, **raw)
    return np.array(d.inference(5)).reshape(2, *mask.shape)


def class_costs(modules: Modules, given: Scene) -> Array:
    """A matrix of costs between classes as the compatibility of both kernels."""
    dcrf, utils = modules
    costs = (np.abs(np.subtract.outer(np.arange(5), np.arange(5))) / 2 - 1).astype(np.float32)
    d = dcrf.DenseCRF2D(given.photo.shape[1], given.photo.shape[0], 5)
    d.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(given.probabilities, scale=0.9)))
    d.addPairwiseGaussian(sxy=3, compat=costs)
    d.addPairwiseBilateral(sxy=80, srgb=13, rgbim=given.photo, compat=costs)
    return np.array(d.inference(5)).reshape(given.probabilities.shape)


def alpha_channel(modules: Modules, given: Scene) -> Array:
    """A deviation for each channel of RGBA, of which the photo has three."""
    dcrf, utils = modules
    d = dcrf.DenseCRF2D(given.photo.shape[1], given.photo.shape[0], 5)
    d.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(given.probabilities)))
    d.addPairwiseBilateral(sxy=(40, 40), srgb=(13, 13, 13, 13), rgbim=given.photo, compat=5)
    return np.array(d.inference(5)).reshape(given.probabilities.shape)


Program = Callable[[Modules, Scene], Array]
PROGRAMS: tuple[Program, ...] = (
    *(post_processor, pseudo_labels, scaled_maps, object_mask, saliency, coloured_annotation, satellite_tile),
    *(spectral_bands, scan, competition_mask, text_mask, class_costs, alpha_channel),
)


def modules_of(package: str) -> Modules:
    """Its densecrf and utils."""
    return importlib.import_module(f"{package}.densecrf"), importlib.import_module(f"{package}.utils")


def difference(program: Program, given: Scene) -> tuple[float, float]:
    """Largest difference of probabilities, and share of labels that differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = (program(modules_of(name), given) for name in ("crfrnn.compat.pydensecrf", "pydensecrf"))
    return float(np.abs(ours - theirs).max()), float((ours.argmax(axis=0) != theirs.argmax(axis=0)).mean())


def table() -> list[str]:
    """A row for each program."""
    given = scene()
    lines = ["| program | largest difference of a probability | labels that differ |", "| --- | --- | --- |"]
    for program in PROGRAMS:
        probability, labels = difference(program, given)
        doc = (program.__doc__ or "").strip().rstrip(".")
        lines.append(f"| {doc} | {probability:.1g} | {100 * labels:.2g} % |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.compatibility", description=__doc__)
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write to (default: %(default)s)")
    path: Path = parser.parse_args().page
    first, last = MARKS
    text = path.read_text(encoding="utf-8")
    content = first + "\n" + "\n".join(table()) + "\n\n" + last
    pattern = re.escape(first) + ".*?" + re.escape(last)
    with replacing(path) as handle:
        handle.write(re.sub(pattern, lambda _: content, text, flags=re.DOTALL).encode())


if __name__ == "__main__":
    main()
