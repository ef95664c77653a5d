"""Which axis is which: classes, channels, batches and spatial axes of scores and an image, told by their sizes."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape
from crfrnn.plausibility import are_unlike, likeness, warn_of_input
from crfrnn.upsampling import are_proportional, are_smaller

FEWEST_SLICES = 5
"""Scores and image of one shape (n, H, W) may be classes and channels first below this, and are a volume from it on."""
MOST_AXES = 3
"""Spatial axes of a map of the foreground; with more, it may as well be a batch."""
MOST_CHANNELS = 4
"""So many channels at most are told from pixels where nothing else tells them apart."""


class Ordered(NamedTuple):
    """Scores and image in the order that `refine` computes with.

    Attributes:
        scores: (C, *spatial), or labels (*spatial); of a batch with an axis more in front.
        image: (*spatial, K) or (*spatial,), of a batch with an axis more in front; or None.
        batched: Whether both begin with a batch axis.
        foreground: Where the scores are a map of the foreground: its axis of one channel, -1, or None without one. It
            is 0 for all others.
    """

    scores: NDArray[Any]
    image: NDArray[Any] | None
    batched: bool = False
    foreground: int | None = 0


class Pair(NamedTuple):
    """Scores and an image in the order given.

    Attributes:
        scores: The scores.
        picture: The image.
        channels_first: Whether its channels may come before the spatial axes.
    """

    scores: NDArray[Any]
    picture: NDArray[Any]
    channels_first: bool

    def image(self, grid: Shape) -> NDArray[Any] | None:
        """The image as (*grid,) or (*grid, K), also of a batch of one; None if it has another size."""
        views = [self.picture]
        if len(self.picture) == 1 and self.picture.ndim > len(grid):
            views.append(self.picture[0])
        if self.channels_first:
            views += [np.moveaxis(view, 0, -1) for view in views if view.ndim == len(grid) + 1]
        return next((view for view in views if _fits(view, grid)), None)

    def images(self, grid: Shape) -> NDArray[Any] | None:
        """The images of a batch for a grid (B, *spatial), channels last; None if they have other sizes."""
        if self.channels_first and self.picture.ndim == len(grid) + 1:
            turned = np.moveaxis(self.picture, 1, -1)
            if _fits(turned, grid):
                return turned
        return self.picture if _fits(self.picture, grid) else None

    def with_channels_last(self) -> "Pair":
        """The same with the channels of the image last, as far as its shape alone tells them from pixels."""
        picture = self.picture
        if self.channels_first and picture.ndim > 2 and picture.shape[-1] > MOST_CHANNELS:
            first = [axis for axis in (0, 1) if picture.shape[axis] <= MOST_CHANNELS]
            picture = np.moveaxis(picture, first[-1], -1) if first else picture
        return self._replace(picture=picture, channels_first=False)


def ordered(scores: NDArray[Any], picture: NDArray[Any], channels_first: bool, input: str) -> Ordered:
    """Scores and an image in order.

    Raises: ValueError: if shapes show another order than any that is taken, or leave open what is meant.
    """
    pair = Pair(scores, picture, channels_first)
    if input == "labels":
        pair = pair._replace(scores=_without_channels(pair))
        return _labels(pair) or _small_labels(pair.with_channels_last())
    if len(picture) == 1 and picture.ndim == scores.ndim + 1:  # a batch of one
        pair = pair._replace(picture=picture[0])
    _refuse_pictures(pair)
    found = _foreground(pair, input) or _batch(pair) or _classes(pair)
    if found is None:
        _refuse_other_orders(pair)
        found = _small(pair.with_channels_last())
    return found


def _fits(image: NDArray[Any], grid: Shape) -> bool:
    return image.shape == grid or image.shape[:-1] == grid


def _classes(pair: Pair) -> Ordered | None:
    """Scores (C, *spatial) of one image."""
    image = pair.image(pair.scores.shape[1:])
    return None if image is None else Ordered(pair.scores, image)


def _batch(pair: Pair) -> Ordered | None:
    """Scores (B, C, *spatial) of as many images, or of one without a batch axis."""
    scores, picture = pair.scores, pair.picture
    grid = scores.shape[2:]
    if len(grid) < 2:
        return None
    if len(scores) == 1 and not (scores.shape[1:] == picture.shape and not _seem_channels(pair)):
        lone = pair.image(grid)
        if lone is not None:
            return Ordered(scores, lone[np.newaxis], True)
    images = pair.images((len(scores), *grid))
    return None if images is None or _is_volume(pair) else Ordered(scores, images, True)


def _is_volume(pair: Pair) -> bool:
    """Whether scores and as many images are a volume of as many slices, which has as many classes too."""
    scores, picture = pair.scores, pair.picture
    if picture.shape[: scores.ndim - 1] != scores.shape[1:] or scores.ndim > 4:
        return False
    if len(scores) == 1:
        return True
    sums = likeness(np.moveaxis(scores, 1, 0))
    if sums is not None and not sums.classes_last and likeness(scores) is None:
        return False
    if likeness(scores) is None:
        warn_of_input(
            f"scores have shape {scores.shape} and the image {picture.shape}: they are taken for a volume "
            f"of {len(scores)} slices and {len(scores)} classes. If they are {len(scores)} images, refine one at a time"
        )
    return True


def _seem_channels(pair: Pair) -> bool:
    """Whether the first axis of an image may hold channels, where it may as well be of slices."""
    return pair.channels_first and len(pair.picture) < FEWEST_SLICES


def _foreground(pair: Pair, input: str) -> Ordered | None:
    """A map of the foreground, (*spatial) or (*spatial, 1), as one channel; or a batch of such maps."""
    scores, picture = pair.scores, pair.picture
    shape, axis = scores.shape, None
    if shape == picture.shape and len(shape) == 3 and _seem_channels(pair):
        return None  # classes and channels
    if pair.channels_first and len(shape) == 3 and picture.ndim == 4:  # (B, H, W) and (B, K, H, W)
        images = pair.images(shape)
        if images is not None and images is not picture and images.shape[-1] <= MOST_CHANNELS:
            return Ordered(scores, images, True)
    image = pair.image(shape) if len(shape) <= MOST_AXES else None
    are_classes = _fits(picture, shape[1:])  # of an image as it is, where a map needs one without its first axis
    if image is None and shape[-1] == 1 and len(shape) <= MOST_AXES + 1 and not are_classes:
        scores, axis = scores[..., 0], -1
        image = pair.image(scores.shape)
    if image is None or scores.ndim < 2:
        return None
    if scores.dtype.kind in "biu" and input == "logits":
        raise ValueError(
            f"scores are {scores.dtype} of shape {shape}, one number for each pixel: labels, or a mask, are "
            "input='labels', the probability of the foreground input='probabilities'; logits are floating-point, with "
            "a class axis first"
        )
    if shape == picture.shape and len(shape) == 3 and len(scores) < FEWEST_SLICES and shape[-1] > 1:
        raise ValueError(
            f"scores and image both have shape {shape}: if these are {len(scores)} classes and channels, the "
            "channels of the image come last: use np.moveaxis(image, 0, -1); if it is the foreground of a volume of "
            f"{len(scores)} slices, give scores[np.newaxis]"
        )
    _doubt_slices(scores, image, "give scores (images, 1, height, width), channels first")
    return Ordered(scores[np.newaxis], image, foreground=axis)


def _labels(pair: Pair) -> Ordered | None:
    """Labels (*spatial) of an image, or (B, *spatial) of a batch."""
    labels, grid = pair.scores, pair.scores.shape
    if pair.channels_first and len(grid) > 2:
        images = pair.images(grid)
        if images is not None and images is not pair.picture and images.shape[-1] <= MOST_CHANNELS:
            return Ordered(labels, images, True)
    image = pair.image(grid)
    if image is not None:
        _doubt_slices(labels, image, "refine one at a time")
        return Ordered(labels, image)
    lone = pair.image(grid[1:]) if grid[0] == 1 and len(grid) > 2 else None
    return None if lone is None else Ordered(labels, lone[np.newaxis], True)


def _without_channels(pair: Pair) -> NDArray[Any]:
    """Labels without an axis of one channel, or of the three or four of a picture in which all are the same."""
    labels, shape, grid = pair.scores, pair.scores.shape, pair.picture.shape
    if len(shape) == 4 and shape[1] == 1 and pair.images((shape[0], *shape[2:])) is not None:
        return labels[:, 0]
    if len(shape) != 3 or min(shape[:2]) <= MOST_CHANNELS or pair.image(shape[:2]) is None:
        return labels
    if shape[2] == 1:
        return labels[..., 0] if shape != grid else labels
    if shape[2] not in (3, 4) or (len(grid) == 3 and grid[2] > MOST_CHANNELS):
        return labels
    if not (labels[..., :1] == labels[..., 1:3]).all():
        raise ValueError(
            f"labels have shape {shape}, which is that of a picture in colours: class ids are one number for each "
            f"pixel, {shape[:2]}. If these are the labels of a volume of {shape[2]} slices, give image[..., np.newaxis]"
        )
    return labels[..., 0]


def _doubt_slices(scores: NDArray[Any], image: NDArray[Any], advice: str) -> None:
    """Warn if slices of a volume (n, H, W) are as unlike as pictures of a batch."""
    if scores.ndim == 3 and are_unlike(image if image.ndim == 4 else image[..., np.newaxis]):
        warn_of_input(
            f"scores have shape {scores.shape} and the image {image.shape}: they are taken for a volume of "
            f"{len(scores)} slices, but neighbouring slices are unlike. If they are {len(scores)} images, {advice}"
        )


def _refuse_pictures(pair: Pair) -> None:
    """Raise a ValueError if scores of the shape of a photo are classes that come last."""
    shape = pair.scores.shape
    if shape == pair.picture.shape and len(shape) == 3 and 1 < shape[-1] <= MOST_CHANNELS < min(shape[:2]):
        kind = pair.scores.dtype
        raise ValueError(
            f"scores ({kind}) and image both have shape {shape}: {shape[-1]} classes come first, as "
            "np.moveaxis(scores, -1, 0); a mask in colours has one channel too many, and is scores[..., 0] with "
            "input='labels' or 'probabilities'; the foreground of a grey volume is scores[np.newaxis]"
        )


def _refuse_other_orders(pair: Pair) -> None:
    """Raise a ValueError if scores and image go together in an order that is not taken."""
    scores, image = pair.scores.shape, pair.picture.shape
    axes = len(scores) - 1
    shapes = f"scores have shape {scores} and the image {image}"
    if axes > 1 and pair.with_channels_last().picture.shape[:axes] == scores[:-1]:
        batch = "; of a batch, np.moveaxis(scores, -1, 1)" if axes == 3 else ""
        raise ValueError(
            f"{shapes}: if the scores are {'(height, width, classes)' if axes == 2 else '(*spatial, classes)'}, use "
            f"np.moveaxis(scores, -1, 0){batch}"
        )
    if axes == 2 and image[1:] == scores[:2] and not pair.channels_first:
        raise ValueError(f"{shapes}: are they swapped? The order is refine(scores, image)")
    if axes == 3 and len(image) == 4 and (image[0], image[2:]) == (scores[0], scores[2:]):
        raise ValueError(f"{shapes}: the channels of images come last: use np.moveaxis(image, 1, -1)")


def _small(pair: Pair) -> Ordered:
    """Scores smaller than the image, as far as sizes tell; others as they are, for later checks to refuse."""
    scores, picture = pair.scores, pair.picture
    shape, image = scores.shape, picture.shape
    flat = shape[:-1] if len(shape) == 3 and shape[-1] == 1 and image[1:2] != (1,) else shape
    grey = len(image) == 2 and are_proportional(flat, image)
    if len(flat) == 2 and are_smaller(flat, image[:2]) and (grey or (len(image) == 3 and image[-1] <= MOST_CHANNELS)):
        return Ordered(scores.reshape(1, *flat), picture, foreground=None if flat == shape else -1)
    if len(shape) == 4:
        flat_image = len(image) == 2 or (len(image) == 3 and image[-1] <= MOST_CHANNELS)
        images = picture[np.newaxis] if len(scores) == 1 and flat_image else picture
        if len(images) == len(scores) and are_smaller(shape[2:], images.shape[1:3]):
            return Ordered(scores, images, True)
    return Ordered(scores, picture)


def _small_labels(pair: Pair) -> Ordered:
    """The same of labels."""
    labels, picture = pair.scores, pair.picture
    if labels.ndim == 3 and picture.ndim == 4 and are_smaller(labels.shape[1:], picture.shape[1:3]):
        return Ordered(labels, picture, len(labels) == len(picture))
    return Ordered(labels, picture)
