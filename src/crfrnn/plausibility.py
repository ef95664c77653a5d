"""What numbers give away: levels that do not go with θ_β, and scores that are not what they are taken for.

These are doubts, not errors: input of the right shape and type that most probably means something else. A few hundred
pixels are looked at, so they cost next to nothing.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from crfrnn.crf import CRF, Bilateral
from crfrnn.numbers import per_axis

SAMPLED = 1024
"""About how many pixels are looked at."""
FEWEST = 16
"""Fewer pixels than this may fulfil anything by chance."""
SURE = -0.01
"""Log-probability from which a pixel is of one class for sure."""
FEWEST_UNSURE = 0.02
"""Share of pixels that are not, from which log-probabilities are told from other scores."""
SUM_TOLERANCE = 1e-2
"""How far from 1 the probabilities of a pixel may sum to: those of half precision do not sum to 1 exactly."""
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
LARGEST_LOGIT = 50.0
"""Scores without negative ones that reach further than this are percentages or levels, not logits."""
UNLIKE = 0.5
"""Correlation of neighbouring slices below which they are pictures of different things."""
PHOTO = (0, 255)
NO_EDGE, NO_CONNECTION = "hardly any edge is seen", "hardly any pixels are connected"
USUAL_RANGES = {NO_EDGE: [(0, 1), (-1, 1)], NO_CONNECTION: [PHOTO, (0, 1023), (0, 4095), (0, 65535)]}
"""Ranges that levels may have, by what a kernel fails to see."""
FRAMEWORKS = ("crfrnn", "torch", "keras", "tensorflow", "jax")

Kind: TypeAlias = Literal["probabilities", "log-probabilities", "energies"]


_shown: set[tuple[object, ...]] = set()


class InputWarning(UserWarning):
    """Input that most probably means something else than what it is taken for; the message says what to change."""


class Likeness(NamedTuple):
    """What scores look like.

    Attributes:
        kind: "probabilities", "log-probabilities" (log p) or "energies" (-log p).
        classes_last: Whether the classes vary fastest: (height, width, classes) that was reshaped instead of turned.
    """

    kind: Kind
    classes_last: bool


def warn_of_input(message: str) -> None:
    """Warn with an `InputWarning` at the line of the user: once for each line, unless filters ask for all.

    Python would show it again for other numbers, so at every image of a loop.
    """
    doubt = frame = sys._getframe(1)
    depth = 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in FRAMEWORKS:
        depth, frame = depth + 1, frame.f_back
    key = (doubt.f_code, doubt.f_lineno, frame.f_code.co_filename, frame.f_lineno)
    if key in _shown and _action() in ("default", "module", "once"):
        return
    _shown.add(key)
    warnings.warn(message, InputWarning, stacklevel=depth)


def _action() -> str:
    """What Python does with an `InputWarning`."""
    for action, text, category, module, _ in warnings.filters:
        if issubclass(InputWarning, category) and text is None and module is None:
            return action
    return "default"


def likeness(scores: NDArray[Any]) -> Likeness | None:
    """What scores (C, *spatial) look like by their sums; None for anything else, and where it could be chance.

    None too for one class, scores that are all alike and those of one class for sure (0 and 1).
    """
    if scores.ndim < 2 or len(scores) < 2 or scores[0].size < FEWEST:
        return None
    classes, points = len(scores), scores[0].size
    step = max(1, points // (SAMPLED // 4))
    sampled = scores.reshape(classes, -1) if scores.flags.c_contiguous else scores[(slice(None), *_steps(scores[0]))]
    first = _kind(sampled[:, ::step] if scores.flags.c_contiguous else sampled.reshape(classes, -1))
    if first is not None:
        return Likeness(first, classes_last=False)
    if scores.flags.c_contiguous:
        last = _kind(scores.reshape(points, classes)[::step].T)
        return None if last is None else Likeness(last, classes_last=True)
    return None


def looks_like_foreground(scores: NDArray[Any]) -> bool:
    """Whether logits of one channel look like the output of a sigmoid, from 0 to 1, or like a mask of 0 and another."""
    if scores.size < FEWEST:
        return False
    low, high = scores.min(), scores.max()
    return bool(0 <= low < high and (high <= 1 or (low == 0 and ((scores == 0) | (scores == high)).all())))


def are_one_hot(scores: NDArray[Any]) -> bool:
    """Whether scores (C, *spatial) of several classes are 1 for a class of each pixel and 0 for the others."""
    sample = scores[(slice(None), *_steps(scores[0]))]
    if len(scores) < 2 or sample[0].size < FEWEST or not ((sample == 0) | (sample == 1)).all():
        return False
    return bool((sample.sum(axis=0) == 1).all())


def are_unlike(images: NDArray[Any]) -> bool:
    """Whether images (n, H, W, K) are pictures of different things, and not the slices of a volume or frames of a clip.

    Not for a single image, or many channels, where nothing is known.
    """
    if len(images) < 2 or images.shape[-1] > 4 or images[0, ..., 0].size < FEWEST:
        return False
    sample = images[(slice(None), *_steps(images[0, ..., 0]))].reshape(len(images), -1).astype(np.float64)
    if not np.isfinite(sample).all():
        return False
    centred = sample - sample.mean(axis=1, keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=1))
    both = norms[1:] * norms[:-1]
    products = (centred[1:] * centred[:-1]).sum(axis=1)[both > 0]
    return bool(products.size and np.median(products / both[both > 0]) < UNLIKE)


def check_levels(crf: CRF, image: NDArray[Any]) -> bool:
    """Warn if the levels of an image (*grid, K) are far from θ_β, or from the range that was said.

    Returns: Whether there was anything to judge: an image without contrast says nothing.
    """
    bilateral = [each.features for each in crf.active.kernels if isinstance(each.features, Bilateral)]
    if not bilateral or image.size == 0:
        return True
    sample = image[_steps(image[..., 0])].astype(np.float64)
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
    sample = image[_steps(image[..., 0])].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return None if sample.min() == sample.max() else _unseen(np.asarray(thetas), image, sample)


def check_swapped(logits: NDArray[Any], image: NDArray[Any], call: str) -> None:
    """Warn if logits hold levels of an image, and the image what no image holds; both (B, C, *spatial).

    Args:
        call: How it should be called.
    """
    if logits.shape != image.shape or logits.size < FEWEST:
        return
    logits, image = (each[(slice(None, 1), slice(None), *_steps(each[0, 0]))] for each in (logits, image))
    if image.min() >= 0 or logits.min() < 0:
        return
    low, high = float(logits.min()), float(logits.max())
    levels = high <= 255 and high > 1 and bool((logits == np.rint(logits)).all())
    unit = 0 < high <= 1 < float(np.abs(image).max()) and likeness(np.moveaxis(logits, 1, 0)) is None
    if levels or unit:
        warn_of_input(
            f"logits hold {low:.4g} to {high:.4g}, as images do, and the image {image.min():.4g} to {image.max():.4g}, "
            f"as logits do: are they swapped? The order is {call}"
        )


def check_logits(scores: NDArray[Any], advice: str) -> None:
    """Warn if logits (C, *spatial) are probabilities or energies, or their classes were last.

    Args:
        advice: What to do with probabilities.
    """
    alike = likeness(scores)
    if alike is None:
        if len(scores) == 1 and looks_like_foreground(scores[(slice(None), *_steps(scores[0]))]):
            low, high = float(scores.min()), float(scores.max())
            warn_of_input(
                f"the logits of one channel are from {low:.4g} to {high:.4g}, as the output of a sigmoid or a mask is, "
                f"and none is below 0. Taken as logits, 0 is a probability of 0.5 and {high:.4g} one of "
                f"{1 / (1 + np.exp(-high)):.2f}: {advice}"
            )
        elif are_one_hot(scores):
            warn_of_input(
                f"logits are 1 for a class of each pixel and 0 for the others, as labels of {len(scores)} classes "
                f"one-hot are. Taken as logits they say almost nothing: {advice}"
            )
        return
    if alike.classes_last:
        warn_of_input(classes_last(scores.shape, alike.kind))
    elif alike.kind == "probabilities":
        warn_of_input(
            f"logits are from {scores.min():.4g} to {scores.max():.4g} and sum to 1 over the {len(scores)} classes, as "
            f"probabilities do. Taken as logits they say almost nothing: {advice}"
        )
    elif alike.kind == "energies":
        warn_of_input(
            f"logits are at least {scores.min():.4g}, and exp(-logits) sums to 1 over the {len(scores)} classes: these "
            "are energies, -log p, of which the smallest is the likeliest: give -scores"
        )


def check_probabilities(given: NDArray[Any], name: str, call: str) -> None:
    """Warn if what is taken as probabilities (C, *spatial) lies outside 0 to 1, or its classes were last.

    Args:
        call: What takes them, for messages.
    """
    low, high = float(given.min()), float(given.max())
    if low < -SUM_TOLERANCE or high > 1 + SUM_TOLERANCE:
        white = (
            next((white for white in (100, 255) if high <= white), None) if low >= 0 and high > LARGEST_LOGIT else None
        )
        alike = likeness(given)
        what = "the scores of a network before its softmax are logits"
        if white:
            what = f"levels up to {white} are divided by it"
        elif alike is not None and alike.kind == "energies":
            what = "these are energies already, -log p"
        warn_of_input(f"{name} ranges from {low:.4g} to {high:.4g}, outside 0 to 1: {call} probabilities, and {what}")
    elif (alike := likeness(given)) is not None and alike.classes_last:
        warn_of_input(classes_last(given.shape, alike.kind, name))


def check_energies(energies: NDArray[Any], name: str) -> None:
    """Warn if energies (C, *spatial), -log p, are probabilities or log p, or their classes were last."""
    alike = likeness(energies)
    if alike is None:
        if are_one_hot(energies):
            warn_of_input(
                f"{name} is 1 for a label of each point and 0 for the others, as one-hot labels are. Of energies the "
                "smallest is the likeliest: use unary_from_labels, or unary_from_softmax"
            )
    elif alike.classes_last:
        warn_of_input(classes_last(energies.shape, alike.kind, name))
    elif alike.kind == "probabilities":
        warn_of_input(
            f"{name} is from {energies.min():.4g} to {energies.max():.4g} and sums to 1 over the {len(energies)} "
            "labels, as probabilities do. Energies are -log p, of which the smallest is the likeliest: use "
            "unary_from_softmax"
        )
    elif alike.kind == "log-probabilities":
        warn_of_input(
            f"{name} is at most {energies.max():.4g}, and exp({name}) sums to 1 over the {len(energies)} labels: this "
            f"is log p. Energies are -log p, of which the smallest is the likeliest: give -{name}"
        )


def classes_last(shape: tuple[int, ...], kind: Kind, name: str = "scores") -> str:
    """The message for what is called so and has this shape, but whose classes vary fastest."""
    spatial = ", ".join(map(str, shape[1:]))
    what = "they sum" if kind == "probabilities" else f"exp({'-' if kind == 'energies' else ''}{name}) sums"
    return (
        f"{name} {'have' if name == 'scores' else 'has'} shape {shape}, but {what} to 1 over groups of {shape[0]} "
        f"numbers that follow each other, as those of ({spatial}, {shape[0]}) do: the classes were last and the array "
        f"was reshaped; use np.moveaxis({name}, -1, 0) instead of reshape"
    )


class Doubts:
    """What a layer looks at until there was something to judge, so that it warns once.

    Attributes:
        pending: Whether it has not judged yet.
    """

    def __init__(self) -> None:
        self.pending = True

    def look(self, crf: CRF, logits: NDArray[Any], image: NDArray[Any], call: str) -> None:
        """Warn of logits (B, C, *spatial) and an image (B, K, *spatial).

        Args:
            call: How it is called, for messages.
        """
        if self.pending and logits.size:
            check_logits(logits[0], "leave out the softmax or sigmoid before it, or give the logarithm")
            check_swapped(logits, image, call)
            self.pending = not check_levels(crf, np.moveaxis(image, 1, -1))


def _kind(sample: NDArray[Any]) -> Kind | None:
    """What scores (C, n) look like."""
    low, high = float(sample.min()), float(sample.max())
    if low == high:
        return None
    values = sample.astype(np.float64)
    if low >= 0 and high <= 1 + SUM_TOLERANCE and _sums_to_1(values):
        return None if bool(((values == 0) | (values == 1)).all()) else "probabilities"
    for kind, end, logs in (("log-probabilities", high, values), ("energies", -low, -values)):
        if end <= SUM_TOLERANCE and _sums_to_1(np.exp(logs)):
            # Scores such as 0 and 20 for a single class do so too: some pixels must be less sure.
            unsure = (logs.max(axis=0) < SURE).mean() > FEWEST_UNSURE
            return cast(Kind, kind) if unsure else None
    return None


def _sums_to_1(values: NDArray[np.float64]) -> bool:
    return bool((np.abs(values.sum(axis=0) - 1) <= SUM_TOLERANCE).all())


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
    said = _range_of(low, high, USUAL_RANGES[how])
    fix = f"Say their range, image_range={said}, and θ_β is in 255ths of it; or give theta_beta in these levels"
    if said == PHOTO:
        fix = f"For deviations in shares of the range multiply by 255: theta_beta={_written(255 * thetas[0])}"
    return (
        f"image levels are from {low:.5g} to {high:.5g}, with a standard deviation of "
        f"{sample.std(axis=tuple(range(sample.ndim - 1))).max():.3g}, which is far from "
        f"theta_beta={_written(features.theta_beta)}: {how}. θ_β is in the image's own levels, 0-255 for the presets. "
        f"{fix}, or take crfrnn.contrast_theta_beta(image)"
    )


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
    steps = _steps(image[..., 0])
    here, there = (image[(*steps[:-1], slice(start, None, steps[-1].step))].astype(np.float64) for start in (0, 1))
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


def _steps(plane: NDArray[Any]) -> tuple[slice, ...]:
    """Slices that leave about `SAMPLED` points of a grid, as many along every axis as it is long."""
    thinning = (plane.size / SAMPLED) ** (1 / max(plane.ndim, 1))
    return tuple(slice(None, None, max(1, min(round(thinning), length))) for length in plane.shape)
