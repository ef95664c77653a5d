"""What the levels of an image give away: that they do not go with θ_β, or with the range that was said.

As in `plausibility.py`, these are doubts, and a few hundred pixels are looked at.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.crf import CRF, Bilateral
from crfrnn.numbers import per_axis
from crfrnn.plausibility import FEWEST, steps, warn_of_input
from crfrnn.terms import are_ours

DARK = 20.0
"""Levels from 0 to 255 of which none is above this belong to a photo that is black. From -2 to 2 no photo's are."""
BLIND = 0.5
"""Deviation of the levels in units of θ_β below which the kernel hardly sees an edge."""
FAINT = 12.0
"""Range of all levels in units of θ_β from which some edge is seen."""
FAR_APART = 255.0
"""Range of the levels in units of θ_β from which neighbours may be told apart by noise: a θ_β of 1 for a photo."""
ISOLATED = 4.0
"""Distance of typical neighbours in units of θ_β at which nothing is connected any more: it weighs exp(-8)."""
BEYOND_ALL = 2000.0
"""Range of the levels in units of θ_β beyond anything that is meant: a θ_β of 0.13 for a photo."""
RANGES_OUTSIDE = 20.0
"""How many ranges beyond the range that was said levels may lie: windows of a CT leave out up to 8."""
PHOTO = (0, 255)
NO_EDGE, NO_CONNECTION = "hardly any edge is seen", "hardly any pixels are connected"
USUAL_RANGES = {NO_EDGE: [(0, 1), (-1, 1)], NO_CONNECTION: [PHOTO, (0, 1023), (0, 4095), (0, 65535)]}
"""Ranges that levels may have, by what a kernel fails to see."""


def check_levels(crf: CRF, image: NDArray[Any]) -> bool:
    """Warn if the levels of an image (*grid, K) are far from θ_β, or from the range that was said.

    Returns: Whether there was anything to judge: an image without contrast says nothing.
    """
    bilateral = [each.features for each in crf.active.kernels if isinstance(each.features, Bilateral)]
    if not bilateral or image.size == 0:
        return True
    with np.errstate(over="ignore"):
        sample = image[steps(image[..., 0])].astype(np.float64)
    if sample.min() == sample.max():
        return False
    for features in bilateral:
        with np.errstate(over="ignore", invalid="ignore"):
            doubt = (_doubt_of_range if features.image_range else _doubt_of_levels)(features, image, sample)
        if doubt:
            warn_of_input(doubt)
            break
    return True


def unseen(image: NDArray[Any], thetas: Sequence[float]) -> str | None:
    """What a kernel fails to see in an image (*grid, K), with a θ_β for each channel; None if they may be meant."""
    with np.errstate(over="ignore", invalid="ignore"):
        sample = image[steps(image[..., 0])].astype(np.float64)
        return None if sample.min() == sample.max() else _unseen(np.asarray(thetas), image, sample)


def _doubt_of_range(features: Bilateral, image: NDArray[Any], sample: NDArray[np.float64]) -> str:
    """What to say of levels beyond the range that was said, or in a small part of it; empty if they may be."""
    low, high = features.image_range or PHOTO
    beyond = max(low - sample.min(), sample.max() - high)
    if beyond > RANGES_OUTSIDE * (high - low):
        how = "far outside"
    elif _is_dark(features, image, sample):
        how = "a small part of"
    else:
        return ""
    return (
        f"image levels are from {sample.min():.5g} to {sample.max():.5g}, {how} "
        f"image_range=({low:g}, {high:g}), of which theta_beta={_written(features.theta_beta)} takes 1/255 as a level: "
        "give the range that the levels have"
    )


def _is_dark(features: Bilateral, image: NDArray[Any], sample: NDArray[np.float64]) -> bool:
    """Whether θ_β sees no edges in levels that lie at the low end of the range that was said."""
    low, high = features.image_range or PHOTO
    if (low, high) == PHOTO and image.dtype.kind in "biu":
        return False  # a dark photo
    level = (high - low) / PHOTO[1]
    thetas = np.asarray(features.theta_beta) * level
    axes = tuple(range(sample.ndim - 1))
    if (sample.max() - low) > DARK * level or (sample.std(axis=axes) / thetas).max() > BLIND:
        return False
    least, most = image.min(axis=axes).astype(np.float64), image.max(axis=axes).astype(np.float64)
    return bool(most.max() - low <= DARK * level and ((most - least) / thetas).max() < FAINT)


def _doubt_of_levels(features: Bilateral, image: NDArray[Any], sample: NDArray[np.float64]) -> str:
    """What to say of levels far from θ_β; empty if they may be meant."""
    try:
        thetas = np.array(per_axis(features.theta_beta, sample.shape[-1], "theta_beta", "image channels"))
    except ValueError:  # said where the kernel is built
        return ""
    how = _unseen(thetas, image, sample)
    if how is None:
        return ""
    low, high = float(sample.min()), float(sample.max())
    deviation = sample.std(axis=tuple(range(sample.ndim - 1))).max()
    facts = f"image levels are from {low:.5g} to {high:.5g}, with a standard deviation of {deviation:.3g}"
    if not are_ours():
        return f"{facts}, which is far from {far_from('theta_beta', thetas[0], how, high)}"
    said = _range_of(low, high, USUAL_RANGES[how])
    fix = f"Say their range, image_range={said}, and θ_β is in 255ths of it; or give theta_beta in these levels"
    if said == PHOTO:
        fix = f"For deviations in shares of the range multiply by 255: theta_beta={_written(255 * thetas[0])}"
    return (
        f"{facts}, which is far from theta_beta={_written(features.theta_beta)}: {how}. θ_β is in the image's own "
        f"levels, 0-255 for the presets. {fix}, or take crfrnn.contrast_theta_beta(image)"
    )


def far_from(name: str, theta: float, how: str, high: float) -> str:
    """What to say of a deviation of another tool, which knows no range of levels.

    Args:
        name: What it is called there.
        how: What the kernel fails to see.
        high: The highest level.
    """
    fix = f"give an image of 0-255, or {name} in these levels"
    if how == NO_CONNECTION and high <= PHOTO[1]:
        fix = f"for a share of the range multiply by 255: {name}={255 * theta:g}"
    return f"{name}={theta:g}: {how}. {name} is in the image's own levels: {fix}"


def _unseen(thetas: NDArray[Any], image: NDArray[Any], sample: NDArray[np.float64]) -> str | None:
    if _is_small(thetas, image, sample):
        return NO_EDGE
    return NO_CONNECTION if _is_large(thetas, image, sample) else None


def _is_small(thetas: NDArray[Any], image: NDArray[Any], sample: NDArray[np.float64]) -> bool:
    """Whether θ_β is so large that the kernel sees no edges, in levels that cannot be those of 0-255."""
    if image.dtype.kind in "biu" or bool((sample == np.rint(sample)).all()):
        return False
    if sample.max() > DARK and sample.min() >= 0:
        return False
    axes = tuple(range(sample.ndim - 1))
    if (sample.std(axis=axes) / thetas).max() > BLIND:
        return False
    # From here on nearly every image is doubted: one that is black but for a small object may have escaped the sample.
    low, high = image.min(axis=axes).astype(np.float64), image.max(axis=axes).astype(np.float64)
    if high.max() > DARK and low.min() >= 0:
        return False
    # A θ_β below 1 was chosen for such levels, and then the picture may just be faint.
    least = FAINT if thetas.min() >= 1 else 0.1
    return bool((np.ptp(np.stack([low, high]), axis=0) / thetas).max() < least)


def _is_large(thetas: NDArray[Any], image: NDArray[Any], sample: NDArray[np.float64]) -> bool:
    """Whether θ_β is so small that neighbours are not connected."""
    axes = tuple(range(sample.ndim - 1))
    ranges = (np.ptp(sample, axis=axes) / thetas).max()
    if ranges <= FAR_APART:
        return False
    if ranges > BEYOND_ALL:
        return True
    apart = steps(image[..., 0])
    here, there = (image[(*apart[:-1], slice(start, None, apart[-1].step))].astype(np.float64) for start in (0, 1))
    here = here[..., : there.shape[-2], :]
    seen = ((here > sample.min()) & (there > sample.min())).all(axis=-1)  # both of the object, not of a background
    distances = np.sqrt((((here - there) / thetas) ** 2).sum(axis=-1))[seen]
    return bool(distances.size >= FEWEST and np.median(distances) > ISOLATED)


def _range_of(low: float, high: float, usual: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The range that such levels probably have: a usual one, or their own."""
    for least, most in usual:
        slack = 0.02 * (most - least)  # resizing may leave a range by a little
        if least - slack <= low and high <= most + slack:
            return least, most
    return float(f"{low:.3g}"), float(f"{high:.3g}")


def _written(theta: Any) -> str:
    return f"({', '.join(f'{each:g}' for each in theta)})" if isinstance(theta, tuple) else f"{theta:g}"
