"""Refine a folder as users of pydensecrf do: a pool of processes, one photo at a time, labels as indexed PNG.

`python -m benchmarks.peer_folder SCORES PHOTOS OUT THETA_ALPHA THETA_BETA THETA_GAMMA ITERATIONS PROCESSES [crfrnn]`:
the last word takes crfrnn's modules of the same names in the place of pydensecrf's.
"""

from __future__ import annotations

import multiprocessing
import sys
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from crfrnn.files.palette import voc_palette
from crfrnn.files.resize import resize_scores


def refine(path: Path, photos: Path, output: Path, thetas: tuple[float, ...], iterations: int) -> None:
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_softmax

    theta_alpha, theta_beta, theta_gamma = thetas
    photo = np.array(Image.open(photos / f"{path.stem}.jpg").convert("RGB"))
    height, width = photo.shape[:2]
    with np.load(path) as file:
        logits = resize_scores(file["logits"], (height, width), square=True)
    exponentials = np.exp(logits - logits.max(axis=0))
    probabilities = exponentials / exponentials.sum(axis=0)
    model = dcrf.DenseCRF2D(width, height, len(logits))
    model.setUnaryEnergy(unary_from_softmax(probabilities))
    model.addPairwiseGaussian(sxy=theta_gamma, compat=3)
    model.addPairwiseBilateral(sxy=theta_alpha, srgb=theta_beta, rgbim=photo, compat=5)
    labels = np.argmax(model.inference(iterations), axis=0).reshape(height, width)
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(voc_palette().tobytes())
    image.save(output / f"{path.stem}.png")


def take_over() -> None:
    from crfrnn.compat import pydensecrf

    pydensecrf.install()


def main() -> None:
    scores, photos, output = map(Path, sys.argv[1:4])
    *thetas, iterations, processes = map(float, sys.argv[4:9])
    output.mkdir(parents=True, exist_ok=True)
    work = partial(refine, photos=photos, output=output, thetas=tuple(thetas), iterations=int(iterations))
    with multiprocessing.Pool(int(processes), take_over if sys.argv[9:] == ["crfrnn"] else None) as pool:
        pool.map(work, sorted(scores.glob("*.npz")), chunksize=1)


if __name__ == "__main__":
    main()
