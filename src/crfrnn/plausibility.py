"""What numbers give away: scores that are not what they are taken for. Levels of images are in `levels.py`.

These are doubts, not errors: input of the right shape and type that most probably means something else. A few hundred
pixels are looked at, so they cost next to nothing.
"""

import sys
import warnings
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from crfrnn.terms import in_terms

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
LARGEST_LOGIT = 50.0
"""Scores without negative ones that reach further than this are percentages or levels, not logits."""
UNLIKE = 0.5
"""Correlation of neighbouring slices below which they are pictures of different things."""
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
    warnings.warn(in_terms(message), InputWarning, stacklevel=depth)


def forget_warnings() -> None:
    """Warn again at lines that were warned of before."""
    _shown.clear()


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
    sampled = scores.reshape(classes, -1) if scores.flags.c_contiguous else scores[(slice(None), *steps(scores[0]))]
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


def within_unit(scores: NDArray[Any]) -> bool:
    """Whether scores (C, *spatial) of several classes lie from 0 to 1, and reach the upper half of it."""
    sample = scores[(slice(None), *steps(scores[0]))]
    if len(scores) < 2 or sample[0].size < FEWEST or sample.min() < 0 or not 0.5 < sample.max() <= 1:
        return False
    return bool(0 <= scores.min() < scores.max() <= 1)


def are_one_hot(scores: NDArray[Any]) -> bool:
    """Whether scores (C, *spatial) of several classes are 1 for a class of each pixel and 0 for the others."""
    sample = scores[(slice(None), *steps(scores[0]))]
    if len(scores) < 2 or sample[0].size < FEWEST or not ((sample == 0) | (sample == 1)).all():
        return False
    return bool((sample.sum(axis=0) == 1).all())


def common_sum(scores: NDArray[Any]) -> float | None:
    """What scores (C, *spatial) of several classes, of which none is below 0, sum to at every pixel.

    None if it is no such sum, at most 1, or if each pixel has a score for a single class.
    """
    sample = scores[(slice(None), *steps(scores[0]))].reshape(len(scores), -1).astype(np.float64)
    if len(scores) < 2 or sample[0].size < FEWEST or sample.min() < 0 or sample.max() > np.finfo(np.float32).max:
        return None
    sums = sample.sum(axis=0)
    mean = float(sums.mean())
    if mean <= 1 + SUM_TOLERANCE or np.abs(sums / mean - 1).max() > SUM_TOLERANCE:
        return None
    alone = (sample.max(axis=0) == sums).all() or sample.min() == sample.max() or scores.min() < 0
    return None if alone else mean


def are_unlike(images: NDArray[Any]) -> bool:
    """Whether images (n, H, W, K) are pictures of different things, and not the slices of a volume or frames of a clip.

    Not for a single image, or many channels, where nothing is known.
    """
    if len(images) < 2 or images.shape[-1] > 4 or images[0, ..., 0].size < FEWEST:
        return False
    sample = images[(slice(None), *steps(images[0, ..., 0]))].reshape(len(images), -1).astype(np.float64)
    if not np.isfinite(sample).all():
        return False
    centred = sample - sample.mean(axis=1, keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=1))
    both = norms[1:] * norms[:-1]
    products = (centred[1:] * centred[:-1]).sum(axis=1)[both > 0]
    return bool(products.size and np.median(products / both[both > 0]) < UNLIKE)


def check_swapped(logits: NDArray[Any], image: NDArray[Any], call: str) -> None:
    """Warn if logits hold levels of an image, and the image what no image holds; both (B, C, *spatial).

    Args:
        call: How it should be called.
    """
    if logits.shape != image.shape or logits.size < FEWEST:
        return
    logits, image = (each[(slice(None, 1), slice(None), *steps(each[0, 0]))] for each in (logits, image))
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


def check_logits(scores: NDArray[Any], advice: str, name: str = "scores") -> None:
    """Warn if logits (C, *spatial) are probabilities or energies, or their classes were last.

    Args:
        advice: What to do with probabilities.
        name: What the argument is called.
    """
    alike = likeness(scores)
    if alike is None:
        if len(scores) == 1 and looks_like_foreground(scores[(slice(None), *steps(scores[0]))]):
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
        elif (total := common_sum(scores)) is not None:
            warn_of_input(
                f"logits are from {scores.min():.4g} to {scores.max():.4g}, and those of the {len(scores)} classes sum "
                f"to {total:.4g} at every pixel, as percentages and votes do. Divided by that they are probabilities: "
                f"{advice}"
            )
        elif within_unit(scores):
            warn_of_input(
                f"logits of all {len(scores)} classes are from {scores.min():.4g} to {scores.max():.4g}, as activation "
                "maps and the outputs of a sigmoid for each class are, and none is below 0. Taken as logits they say "
                "almost nothing: give the scores before the sigmoid, or the logarithm of the maps"
            )
        return
    if alike.classes_last:
        warn_of_input(classes_last(scores.shape, alike.kind, name))
    elif alike.kind == "probabilities":
        warn_of_input(
            f"logits are from {scores.min():.4g} to {scores.max():.4g} and sum to 1 over the {len(scores)} classes, as "
            f"probabilities do. Taken as logits they say almost nothing: {advice}"
        )
    elif alike.kind == "energies":
        warn_of_input(
            f"logits are at least {scores.min():.4g}, and exp(-logits) sums to 1 over the {len(scores)} classes: these "
            f"are energies, -log p, of which the smallest is the likeliest: give -{name}"
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
    verb = "have" if name in ("scores", "logits") else "has"
    what = "they sum" if kind == "probabilities" else f"exp({'-' if kind == 'energies' else ''}{name}) sums"
    return (
        f"{name} {verb} shape {shape}, but {what} to 1 over groups of {shape[0]} "
        f"numbers that follow each other, as those of ({spatial}, {shape[0]}) do: the classes were last and the array "
        f"was reshaped; use np.moveaxis({name}, -1, 0) instead of reshape"
    )


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


def steps(plane: NDArray[Any]) -> tuple[slice, ...]:
    """Slices that leave about `SAMPLED` points of a grid, as many along every axis as it is long."""
    thinning = (plane.size / SAMPLED) ** (1 / max(plane.ndim, 1))
    return tuple(slice(None, None, max(1, min(round(thinning), length))) for length in plane.shape)
