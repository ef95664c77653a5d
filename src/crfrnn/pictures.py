"""Pictures of labels on photos: `overlay` tints one, `compare` shows what changed between two label maps.

Labels come in whatever form `refine` takes them, and so do photos, if a picture can show them: grey or RGB, perhaps
with opacity, of levels 0-255 or of 16 bits. `refine` takes other channels and levels too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.arrays import is_tensor, label_array, score_array
from crfrnn.files.comparison import compared
from crfrnn.files.legend import LONGEST_SIDE, OPACITY, Key, labelled_overlay, tinted_photo
from crfrnn.files.lettering import shown_text
from crfrnn.files.naming import VOID_LABEL, ClassNames, Naming, Palette, naming_of
from crfrnn.files.picture import Picture
from crfrnn.files.rgb import CHANNELS, LEVELS, rgb_photo
from crfrnn.intake import Opened, opened_image, opened_labels
from crfrnn.numbers import finite_number, flag, whole_number
from crfrnn.orders import ordered
from crfrnn.plausibility import warn_of_input
from crfrnn.unary import mask_levels, unknown_labels
from crfrnn.upsampling import are_smaller, at_image_size

INSETS = 2
TITLES = ("before", "after")
MASK_CLASSES = ("background", "foreground")


def overlay(
    photo: Any,
    labels: Any,
    *,
    classes: ClassNames = None,
    palette: Palette = None,
    opacity: float = OPACITY,
    contours: bool = False,
    legend: bool = True,
) -> Picture:
    """A photo tinted by class, with a legend of the classes that occur.

    A pixel becomes (1 - opacity) · photo + opacity · colour of its class. Black, the colour of a background, darkens
    the photo. The photo keeps its size and lies at the top, in the middle if names of classes need more width.

    Args:
        photo: (H, W), (1, H, W) or (H, W, 1) grey, (H, W, 3) RGB or (H, W, 2) and (H, W, 4) with opacity: uint16 of 16
            bits, other integers or floating point 0-255, or truth values, black and white. Or a picture of Pillow, a
            path, or a tensor, perhaps channels first.
        labels: Class ids (H, W), integers, where negative ones, and 255 if it is no class, are void; or a mask of two
            levels; or logits or probabilities (C, H, W), of which the likeliest class is shown; or those of a
            foreground, (H, W) or (1, H, W) in floating point, taken for probabilities if all are from 0 to 1. Scores
            smaller than the photo are enlarged bilinearly. Or a picture of Pillow, a path, or a tensor.
        classes: Names in the order of the ids, or by id as `{8: "cat"}` or `{"cat": 8}`; the name of a set of classes,
            "voc", "msrc21" or "camvid"; a text file with a name on each line, or a JSON file with a list of them or an
            object of all ids and names; or how many classes there are. None numbers them. The legend shows up to 60
            letters of each.
        palette: Colours (classes, 3), integers 0-255. "voc" has those of PASCAL VOC, which begin with black for a first
            class called "background" and for classes without names, and otherwise with its second colour. "clear" has
            twelve bright ones, given to the classes that occur in their order, and black for a background. None has
            those of a set of classes, or "voc".
        opacity: From 0, the photo alone, to 1, the colours alone.
        contours: Also draw the borders of the classes in full colour.
        legend: False leaves the legend out: the picture then has the size of the photo.
    Raises:
        TypeError: if photo or labels are no numbers, or not of a type that is taken.
        ValueError: if shapes do not match, a label has no name or colour, or a file cannot be read.
    """
    share, lined, drawn = _opacity(opacity), flag(contours, "contours"), flag(legend, "legend")
    rgb = rgb_image(photo)
    (ids,), key = keyed(rgb, [labels], ["labels"], classes, palette)
    if not drawn:
        return Picture(tinted_photo(rgb, ids, key.colours, None, share, lined))
    return Picture(labelled_overlay(rgb, ids, key, opacity=share, contours=lined))


def compare(
    photo: Any,
    before: Any,
    after: Any,
    *,
    truth: Any = None,
    classes: ClassNames = None,
    palette: Palette = None,
    opacity: float = OPACITY,
    insets: int = INSETS,
    titles: Sequence[str] = TITLES,
) -> Picture:
    """A photo, and the photo tinted by two label maps, side by side; below them close-ups of where borders moved most.

    Close-ups show contours instead of the tint, and their places are framed in the row above. There are fewer if no
    more borders moved. The title of `after` says how many of the pixels have another label there.

    Args:
        photo: As for `overlay`.
        before: Labels, a mask or scores, as for `overlay`.
        after: The same, such as what `refine` returns.
        truth: The same, for a column of the true labels.
        classes: As for `overlay`.
        palette: As for `overlay`.
        opacity: As for `overlay`.
        insets: How many close-ups there are at most; each is 28 % as wide as the photo.
        titles: What to call `before` and `after`.
    Raises: TypeError or ValueError: as `overlay` does.
    """
    return comparison(photo, [before, after], truth, classes, palette, opacity, insets, titles)[0]


def comparison(
    photo: Any,
    maps: Sequence[Any],
    truth: Any,
    classes: ClassNames,
    palette: Palette,
    opacity: float,
    insets: int,
    titles: Sequence[str],
) -> tuple[Picture, float]:
    """The picture of `compare`, and the share of the pixels whose label differs."""
    share, most = _opacity(opacity), whole_number(insets, "insets")
    if most < 0:
        raise ValueError(f"insets={insets} must be at least 0")
    texts = list(titles) if isinstance(titles, Sequence) else []
    if isinstance(titles, str) or [isinstance(text, str) for text in texts] != [True, True]:
        raise ValueError(f"titles={titles!r} must be two texts, for before and after")
    rgb = rgb_image(photo)
    given, names, heads = [*maps], ["before", "after"], ["photo", *map(shown_text, texts)]
    if truth is not None:
        given, names, heads = [*given, truth], [*names, "truth"], [*heads, "truth"]
    ids, key = keyed(rgb, given, names, classes, palette)
    changed = float(np.mean(ids[0] != ids[1]))
    heads[2] += f", {changed:.1%} of pixels changed"
    return Picture(compared(rgb, ids, heads, key, insets=most, opacity=share)), changed


def rgb_image(photo: Any) -> NDArray[np.uint8]:
    """A photo in any form that `overlay` takes as RGB (H, W, 3)."""
    given = opened_image(photo.detach() if is_tensor(photo) else photo)
    values = given.values
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim == 3 and len(values) == 1 and values.shape[-1] not in CHANNELS:
        values = values[0]
    if given.channels_first and values.ndim == 3 and values.shape[-1] > 4 >= len(values):
        values = np.moveaxis(values, 0, -1)
    if values.dtype == bool:
        values = np.where(values, np.uint8(LEVELS), np.uint8(0))
    wide = values.dtype.kind in "iu" and values.dtype != np.uint16  # as lists of levels, and tensors of torch
    if wide and values.size and values.min() >= 0 and values.max() <= LEVELS:
        values = values.astype(np.uint8)
    return rgb_photo(values)


def keyed(
    photo: NDArray[np.uint8],
    maps: Sequence[Any],
    names: Sequence[str],
    classes: ClassNames,
    palette: Palette,
) -> tuple[list[NDArray[np.int64]], Key]:
    """Label maps of a photo (H, W) as labels of one key, which names what occurs in them.

    Args:
        maps: In any form that `overlay` takes.
        names: What they are called in messages.
    """
    naming = naming_of(classes, palette)
    read = [
        _class_ids(opened_labels(value, name), photo, name, naming.num_classes)
        for value, name in zip(maps, names, strict=True)
    ]
    ids = [labels for labels, _ in read]
    _warn_of_mixture(read, names)
    if classes is None and any(is_mask for _, is_mask in read) and max(labels.max() for labels in ids) <= 1:
        naming = naming_of(MASK_CLASSES, palette)
    return in_key(ids, naming, " and ".join(names))


def _warn_of_mixture(read: Sequence[tuple[NDArray[np.int64], bool]], names: Sequence[str]) -> None:
    """Warn if one of the label maps is a mask of two levels and another has ids of more classes.

    A mask is 0 and 255 too where classes are named, and 255 is void.
    """
    present = [np.unique(labels).tolist() if len(read) > 1 else [] for labels, _ in read]
    masks = [is_mask or ids == [VOID_LABEL, 0] for (_, is_mask), ids in zip(read, present, strict=True)]
    if True not in masks:
        return
    mask = names[masks.index(True)]
    for ids, is_mask, name in zip(present, masks, names, strict=True):
        if not is_mask and ids[-1] > 1:
            listed = ", ".join(map(str, [each for each in ids if each != VOID_LABEL][:5]))
            more = ", …" if len(ids) > 5 else ""
            warn_of_input(
                f"{mask} is a mask of two levels, whose foreground is one class, and {name} has the class ids {listed}"
                f"{more}: the same object counts as changed. Give masks for both, such as {name} == {ids[-1]}, or "
                "class ids for both"
            )
            return


def reduced_overlay(photo: NDArray[np.uint8], labels: NDArray[np.integer], classes: ClassNames) -> Image.Image:
    """What commands write: an overlay with a legend, whose photo is at most `LONGEST_SIDE` pixels long.

    Args:
        photo: RGB (H, W, 3).
        labels: Class ids (H, W), of which those that are no class are void.
    """
    naming = naming_of(classes)
    (ids,), key = in_key([_with_void(labels.astype(np.int64), naming.num_classes)], naming, "labels")
    return labelled_overlay(photo, ids, key, longest_side=LONGEST_SIDE)


def in_key(maps: Sequence[NDArray[np.int64]], naming: Naming, holder: str) -> tuple[list[NDArray[np.int64]], Key]:
    """Class ids (H, W) in which void is `VOID_LABEL` as labels of one key, which has those that occur, void the last.

    Args:
        holder: What holds the labels, for messages.
    """
    present = np.unique(np.concatenate([_present(labels) for labels in maps]))
    places = [np.searchsorted(present, labels) for labels in maps]
    if present[0] == VOID_LABEL:
        present = np.roll(present, -1)
        places = [(place - 1) % len(present) for place in places]
    return places, naming.key(present, holder)


def _present(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ids that occur, in their order: np.unique, in a tenth of its time where they are near each other."""
    lowest, highest = int(labels.min()), int(labels.max())
    if highest - lowest >= labels.size:
        return np.unique(labels)
    present: NDArray[np.int64] = np.flatnonzero(np.bincount((labels - lowest).ravel())) + lowest
    return present


def _class_ids(
    given: Opened, photo: NDArray[np.uint8], name: str, num_classes: int | None
) -> tuple[NDArray[np.int64], bool]:
    """Class ids (H, W) in which void is `VOID_LABEL`, and whether they are those of a mask or a foreground."""
    values, grid = given.values, photo.shape[:2]
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} are {values.dtype}; expected class ids or scores: real numbers")
    one_hot = values.ndim > 2 and values.shape[-2:] == grid and values.shape[-3] > 1
    are_labels = values.dtype.kind != "f" and not one_hot
    found = ordered(values, photo, False, "labels" if are_labels else "probabilities")
    read = found.scores
    if found.batched:
        if len(read) != 1:
            raise ValueError(f"{name} are those of {len(read)} photos, of shape {values.shape}: draw one at a time")
        read = read[0]
    if are_labels:
        if read.shape != grid:
            raise ValueError(f"{name} have shape {values.shape}; expected that of the photo, {grid}")
        return _labels(given._replace(values=read), name, num_classes)
    if read.ndim == 2:
        read = read[np.newaxis]
    if read.ndim != 3:
        raise ValueError(f"{name} have shape {values.shape}; expected labels {grid} or scores (classes, *{grid})")
    if values.dtype.kind != "f":
        _require_one_hot(read, name)
    if values.ndim == 2 and (values.min() < 0 or values.max() > 1) and bool((values == np.rint(values)).all()):
        label_array(values, name)  # whole numbers may be labels or logits: it says what to do
    if read.shape[1:] != grid and not are_smaller(read.shape[1:], grid):
        raise ValueError(
            f"{name} have shape {values.shape}; expected labels of the photo's size, {grid}, or scores with the "
            f"classes first, (classes, {grid[0]}, {grid[1]})"
        )
    scores = at_image_size(score_array(read, name), photo, "bilinear", None)
    if len(scores) == 1:
        middle = 0.5 if scores.min() >= 0 and scores.max() <= 1 else 0.0
        return (scores[0] > middle).astype(np.int64), True
    if num_classes not in (None, len(scores)):
        raise ValueError(
            f"{name} have shape {values.shape}, {len(scores)} classes first, but there are {num_classes} names"
        )
    return scores.argmax(axis=0), False


def _labels(given: Opened, name: str, num_classes: int | None) -> tuple[NDArray[np.int64], bool]:
    """The same of integers or truth values (H, W)."""
    labels = label_array(given.values, name)
    if given.values.dtype == bool:
        return labels, True
    low, high = labels.min(), labels.max()
    if num_classes in (None, 2) and not given.indexed and high > 1 and mask_levels((low, high)) is not None:
        white = labels == high
        if bool((white | (labels == low)).all()):
            return white.astype(np.int64), True
    return _with_void(labels, num_classes), False


def _with_void(labels: NDArray[np.int64], num_classes: int | None) -> NDArray[np.int64]:
    return np.where(unknown_labels(labels, num_classes or 0), VOID_LABEL, labels)


def _require_one_hot(scores: NDArray[Any], name: str) -> None:
    """Raise a ValueError unless integers (C, H, W) are masks of 0 and 1, of which each pixel is in one."""
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError(
            f"{name} are {scores.dtype} of shape {scores.shape}: if these are the labels of {len(scores)} photos, draw "
            f"one at a time; if they are scores, give {name}.astype(float)"
        )
    counts = scores.sum(axis=0, dtype=np.int64)
    wrong = counts != 1
    if wrong.any():
        raise ValueError(
            f"{name} are masks of {len(scores)} classes, and {int(wrong.sum())} pixels are in none of them or in "
            f"several ({counts[wrong][0]}): give class ids (H, W)"
        )


def _opacity(opacity: float) -> float:
    share = finite_number(opacity, "opacity")
    if not 0 <= share <= 1:
        raise ValueError(f"opacity={opacity} must be from 0 to 1")
    return share
