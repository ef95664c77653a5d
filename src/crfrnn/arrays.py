"""The one place where arrays from users are checked and brought into the form that the native core takes.

Nothing here writes to a caller's array. An array of the right dtype that is already C-contiguous is passed on
without a copy.
"""

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from PIL import Image, ImageOps

Array = NDArray[np.floating[Any]]
Shape = tuple[int, ...]
MAGNITUDES = "weights, compatibility or mask"
"""What makes scores grow."""
LARGEST_LABEL = np.iinfo(np.int64).max
MOST_POINTS = 2**48
"""Of a grid: their numbers fill all the memory that processors address."""


def float_array(value: ArrayLike, name: str, dtype: DTypeLike | None = None) -> Array:
    """The given values as a C-contiguous float32 or float64 array.

    Args:
        name: What the user calls this array, for messages.
        dtype: float32 or float64; None keeps double precision, and takes float32 for anything else.
    Raises: TypeError: if the values are not real numbers.
    """
    array = _real_array(value, name)
    if dtype is None:
        dtype = double_or_single(array.dtype)
    # A number too large for float32 becomes infinite here and is reported by the check for finite values.
    try:
        with np.errstate(over="ignore"):
            return np.asarray(array, dtype=dtype, order="C")
    except (MemoryError, ValueError) as error:
        needed = array.size * np.dtype(dtype).itemsize
        raise MemoryError(
            f"{name} of shape {array.shape} needs {needed / 1e9:.3g} GB as {np.dtype(dtype)}, which is not there: give "
            "less at a time"
        ) from error


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """float32 or float64; a TypeError for any other type."""
    try:
        given: np.dtype[Any] = np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"dtype={dtype!r} is none; use float32 or float64") from None
    if given not in (np.float32, np.float64):
        raise TypeError(f"dtype={given} is not supported; use float32 or float64")
    return given


def double_or_single(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """float64 for numbers of double precision and above, in any order of bytes, and float32 for all others."""
    return np.float64 if dtype.kind == "f" and dtype.itemsize >= 8 else np.float32


def all_finite(array: NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite, told by their sum where that is finite: it takes no memory."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def check_finite(array: NDArray[Any], name: str, given: Any = None) -> None:
    """Raise a ValueError that counts the NaN and infinite values and says where the first one is.

    Args:
        given: What the array was cast from, which tells numbers that are too large for its precision.
    """
    if all_finite(array):
        return
    bad = ~np.isfinite(array)
    wide = None if given is None else plain_array(given, name)
    if wide is not None and np.isfinite(wide).all():
        raise ValueError(f"{name} {beyond(wide, array.dtype)}, or give kernels and scores as float64")
    if array.ndim == 0:
        raise ValueError(f"{name} is {array}; expected a finite number")
    position = np.unravel_index(int(bad.argmax()), array.shape)
    nans, infinities = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    counts = " and ".join(f"{count} {kind}" for count, kind in ((nans, "NaN"), (infinities, "infinite")) if count)
    raise ValueError(
        f"{name} holds {counts} among {array.size} values; the first, {array[position]}, is at "
        f"{[int(i) for i in position]}: replace such values before the call"
    )


def cast_finite(value: Any, dtype: DTypeLike, name: str) -> NDArray[Any]:
    """Finite numbers in another precision.

    Raises: ValueError: if one of them is beyond what that holds.
    """
    given = np.asarray(value)
    with np.errstate(over="ignore"):
        cast: NDArray[Any] = given.astype(dtype, copy=False)
    if cast is not given and given.dtype.itemsize > cast.dtype.itemsize and not np.isfinite(cast).all():
        raise ValueError(f"{name} {beyond(given, cast.dtype)}, or give scores as float64")
    return cast


def beyond(given: NDArray[Any], dtype: np.dtype[Any]) -> str:
    """What is wrong with finite numbers of which some are infinite in this precision."""
    largest = np.abs(given).max()
    return f"holds {largest:.3g}, more than {dtype} can, {np.finfo(dtype).max:.2g}: scale it down"


def check_result(result: NDArray[Any], what: str, causes: str = MAGNITUDES) -> None:
    """Raise a ValueError if a result is not finite although all that it was computed from is; this costs a sum.

    Args:
        what: What it is, in the plural, for messages.
        causes: What to make smaller.
    """
    if not all_finite(result):
        raise ValueError(f"{what} grow beyond {_largest(result.dtype)}: make {causes} smaller{wider(result.dtype)}")


def _largest(dtype: np.dtype[Any]) -> str:
    return f"what {dtype} can hold, {np.finfo(dtype).max:.2g}"


def wider(dtype: np.dtype[Any]) -> str:
    """What else helps where this precision holds too little, for the end of a message."""
    return "" if dtype == np.float64 else ", or give scores as float64"


def score_array(value: ArrayLike, name: str, dtype: DTypeLike | None = None) -> Array:
    """Scores (C, *spatial): finite, with at least one class and one pixel; dtype as in `float_array`.

    They are contiguous: point after point if they were given so, otherwise class after class.
    """
    given = _real_array(value, name)
    if points_first(given):
        scores = np.moveaxis(float_array(np.moveaxis(given, 0, -1), name, dtype), -1, 0)
    else:
        scores = float_array(given, name, dtype)
    if scores.ndim < 2:
        raise ValueError(f"{name} has shape {scores.shape}; expected (classes, height, width) or (classes, points)")
    if scores.size == 0:
        raise ValueError(f"{name} has shape {scores.shape} and is empty; give at least one class and one pixel")
    check_finite(scores, name, given)
    return scores


def points_first(scores: NDArray[Any]) -> bool:
    """Whether scores (C, *spatial) lie point after point in memory, as those of networks with channels last do."""
    return scores.ndim > 1 and not scores.flags.c_contiguous and np.moveaxis(scores, 0, -1).flags.c_contiguous


def label_array(value: ArrayLike, name: str = "labels") -> NDArray[np.int64]:
    """Class ids as int64, in the shape given; -1, which is unknown, where a masked array hides them.

    Raises:
        TypeError: if they are not integers.
        ValueError: if there are none, or one does not fit.
    """
    given = _readable(value, name)
    labels = given.astype(np.int64).filled(-1) if _hides(given) and given.dtype.kind in "iu" else _array(given, name)
    if labels.dtype.kind not in "biu":
        whole = labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all())
        raise TypeError(
            f"{name} must be integer class ids, got dtype {labels.dtype}; "
            f"{'these are whole numbers: give labels.astype(int)' if whole else ''}"
            f"{'' if whole else 'for scores, give another input than labels'}"
        )
    if labels.size == 0 or labels.ndim == 0:
        raise ValueError(f"{name} has shape {labels.shape} and is empty; give at least one pixel")
    if labels.dtype == np.uint64 and labels.max() > LARGEST_LABEL:
        raise ValueError(
            f"{name} hold {labels.max()}, which no class id is: -1 in an unsigned type, perhaps? Give signed integers, "
            f"or 255 where the class is unknown"
        )
    return labels.astype(np.int64, copy=False)


def image_array(
    value: ArrayLike, shape: Shape | None = None, scores: Shape | None = None, hint: str = ""
) -> NDArray[Any]:
    """An image as (*spatial, K), of the dtype given, finite and not empty.

    Args:
        value: (*spatial,) grey or (*spatial, K).
        shape: The spatial shape. None: one or two axes are a grey signal or picture; with three or more, the last one
            holds the channels.
        scores: The shape of the scores that the image must match, for messages.
        hint: What to say of another shape where nothing here explains it.
    """
    image = _real_array(value, "image")
    if shape is None:
        shape = image.shape if image.ndim <= 2 else image.shape[:-1]
    if image.shape == shape:
        image = image[..., np.newaxis]
    elif image.ndim != len(shape) + 1 or image.shape[:-1] != shape:
        raise ValueError(
            f"image has shape {image.shape}; expected {shape} or ({', '.join(map(str, shape))}, channels)"
            f"{'' if scores is None else f' for scores of shape {scores}'}{_image_hint(image.shape, shape) or hint}"
        )
    if image.ndim < 2 or image.size == 0:
        raise ValueError(f"image has shape {np.shape(value)} and is empty; give at least one pixel and one channel")
    if image.dtype.kind == "f":
        check_finite(image, "image")
    return image


def mask_array(value: ArrayLike, shape: Shape, name: str = "mask") -> Array:
    """Weights (N,) ≥ 0 of the pixels of a grid of the given shape, or of N points."""
    mask = float_array(value, name)
    if mask.shape != shape:
        swapped = "; did you swap height and width?" if mask.shape == shape[::-1] else ""
        raise ValueError(f"{name} has shape {mask.shape}, expected {shape}{swapped}")
    check_finite(mask, name)
    if mask.min() < 0:
        raise ValueError(
            f"{name} holds {mask.min()}; its values weigh pixels and must be at least 0 (0 leaves a pixel out)"
        )
    return mask.reshape(-1)


def region_array(value: ArrayLike, name: str, grid: Shape) -> NDArray[Any]:
    """Segments of a grid: ids (*grid) as int64, or memberships (S, *grid) as real numbers from 0 to 1.

    Raises:
        TypeError: if there are no real numbers, or ids that are not integers.
        ValueError: if they have another shape or range, or are not finite.
    """
    given = _real_array(value, name)
    if given.size == 0 or not grid:
        raise ValueError(
            f"{name} has shape {given.shape}; expected a map of segments, or memberships with the segments first, and "
            "at least one pixel"
        )
    if given.shape == grid:
        if given.dtype.kind not in "iu":
            raise TypeError(
                f"{name} is {given.dtype} of shape {given.shape}, the shape of a map of segments, which holds integer "
                f"ids; memberships have the segments first: (segments, {', '.join(map(str, grid))})"
            )
        if given.dtype == np.uint64:  # ids may be beyond int64, but there are never as many
            return np.unique(given, return_inverse=True)[1].reshape(grid).astype(np.int64)
        return given.astype(np.int64)
    if given.shape[1:] != grid:
        swapped = "; did you swap height and width?" if grid[::-1] in (given.shape, given.shape[1:]) else ""
        raise ValueError(
            f"{name} has shape {given.shape}; expected a map of segments {grid}, or memberships "
            f"(segments, {', '.join(map(str, grid))}){swapped}"
        )
    check_finite(given, name)
    if given.min() < 0 or given.max() > 1:
        raise ValueError(
            f"{name} holds memberships from {given.min()} to {given.max()}; they are shares from 0 (not in the "
            "segment) to 1"
        )
    return given


def class_weights(value: ArrayLike, name: str) -> NDArray[np.float64]:
    """A number, a (C,) vector or a (C, C) matrix over classes, as finite float64, copied."""
    given = _real_array(value, name)
    with np.errstate(over="ignore"):
        weights = np.array(given, dtype=np.float64, order="C")
    if weights.ndim > 2 or (weights.ndim == 2 and weights.shape[0] != weights.shape[1]) or weights.size == 0:
        raise ValueError(f"{name} has shape {weights.shape}; expected a number, (classes,) or (classes, classes)")
    check_finite(weights, name)
    return weights


def check_classes(weights: NDArray[Any], num_classes: int, name: str) -> None:
    """Raise a ValueError if a vector or matrix over classes is not for this many classes."""
    if weights.ndim and len(weights) != num_classes:
        raise ValueError(f"{name} has shape {weights.shape} but the scores have {num_classes} classes")


def point_array(value: ArrayLike, name: str, num_points: int, dtype: DTypeLike | None = None) -> Array:
    """Values (N,) or (N, C) of the points of a kernel."""
    values = float_array(value, name, dtype)
    if values.ndim not in (1, 2) or values.shape[0] != num_points or values.size == 0:
        turned = values.ndim == 2 and values.shape[1] == num_points
        hint = "; points are rows here: transpose them" if turned else ""
        raise ValueError(
            f"{name} has shape {values.shape}; expected ({num_points},) or ({num_points}, channels) with at least "
            f"one channel{hint}"
        )
    check_finite(values, name, value)
    return values


def spatial_shape(value: Iterable[int], limit: int | None = None) -> Shape:
    """The shape of a grid: at least one axis, at most `limit`, each of at least one point, `MOST_POINTS` in all."""
    try:
        shape = tuple(operator.index(length) for length in value)
    except TypeError:
        raise TypeError(f"shape={value!r} must be integers, one for each axis, such as (height, width)") from None
    if not shape or min(shape) < 1 or (limit is not None and len(shape) > limit):
        most = "" if limit is None else f" to {limit}"
        raise ValueError(f"shape {shape} is no grid; expected 1{most} axes of at least one point each")
    if math.prod(shape) > MOST_POINTS:
        raise ValueError(f"shape {shape} has {math.prod(shape):.3g} points, more than any memory holds")
    return shape


def padded_channels(channels: int) -> int:
    """How many numbers a row of channels takes in memory, as in the native core: 1, 2, 4, 8, 16, 24, …"""
    return channels if channels <= 2 else 4 if channels <= 4 else -(-channels // 8) * 8


def num_points(shape: Shape) -> int:
    """How many points a grid has."""
    return math.prod(shape)


def real_shape(value: ArrayLike, name: str) -> Shape:
    """The shape of an array of real numbers; a TypeError for anything else."""
    return _real_array(value, name).shape


def plain_array(value: ArrayLike, name: str) -> NDArray[Any]:
    """A NumPy array of what users hold: arrays, lists, pictures of Pillow, tensors of any framework and device.

    Numbers of 16 bits that NumPy lacks become float32. A picture is turned as its EXIF tag says.

    Raises:
        TypeError: if it cannot be read as an array, or is a tensor that requires a gradient, which would be lost.
        ValueError: if it is a masked array that hides something.
    """
    return _array(_readable(value, name), name)


def is_tensor(value: Any) -> bool:
    """Whether this is a tensor of torch, which need not be installed."""
    return all(hasattr(value, name) for name in ("detach", "cpu", "requires_grad"))


def _array(given: Any, name: str) -> NDArray[Any]:
    if _hides(given):
        raise ValueError(
            f"{name} is a masked array that hides {int(np.ma.getmaskarray(given).sum())} of {given.size} values, and "
            "what is hidden would count: fill it, such as array.filled(0), and leave pixels out by mask=, weights of "
            "0 there and 1 elsewhere"
        )
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} cannot be read as an array of numbers: {error}") from error
    if array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return array.astype(np.float32)
    return array if array.flags.aligned else array.copy()  # the native core reads whole numbers


def _hides(given: Any) -> bool:
    """Whether this is a masked array with something masked."""
    return isinstance(given, np.ma.MaskedArray) and bool(np.ma.getmaskarray(given).any())


def _readable(value: Any, name: str) -> Any:
    """A tensor of torch of any layout and type as one that NumPy can read, and a picture of Pillow upright."""
    if isinstance(value, Image.Image):
        return ImageOps.exif_transpose(value)
    if not is_tensor(value) or value.requires_grad:
        return value
    if value.device.type == "meta":
        raise TypeError(f"{name} is a tensor on the device meta, which holds no numbers")
    tensor = value.cpu()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if str(tensor.layout) != "torch.strided":
        tensor = tensor.to_dense()
    narrow = tensor.is_floating_point() and tensor.dtype.itemsize <= 2 and str(tensor.dtype) != "torch.float16"
    return (tensor.float() if narrow else tensor).resolve_conj().resolve_neg()


def _real_array(value: ArrayLike, name: str) -> NDArray[Any]:
    array = plain_array(value, name)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


def _image_hint(image: Shape, spatial: Shape) -> str:
    """What probably went wrong when an image does not match the spatial shape of the scores."""
    axes = len(spatial)
    if image[1:] == spatial:
        return "; the channels come last: use np.moveaxis(image, 0, -1)"
    if axes > 1 and spatial[::-1] in (image, image[:-1], image[1:]):
        return "; did you swap height and width?"
    if len(image) >= axes and image[1:axes] == spatial[:-1] != ():
        return "; if the scores are (height, width, classes), use np.moveaxis(scores, -1, 0)"
    if spatial[1:] and spatial[1:] in (image, image[:-1]):
        return "; give one picture at a time, without a batch axis: scores[0]"
    if len(image) == axes + 2:
        return "; scores need a class axis first, and labels input='labels'"
    return ""
