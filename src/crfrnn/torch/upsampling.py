"""Scores brought to the size of an image, differentiably: `crfrnn.upsampling` in operations of torch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crfrnn.arrays import check_finite
from crfrnn.contrast import SHARE
from crfrnn.crf import Bilateral, Exact, Features, Lattice
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.kernels.build import check_specification
from crfrnn.numbers import flag
from crfrnn.threads import thread_count
from crfrnn.torch import differentiable
from crfrnn.torch.exact_filter import full_precision
from crfrnn.torch.features import feature_columns
from crfrnn.torch.plausibility import readable
from crfrnn.torch.scene import check_device, check_scores, check_tensor
from crfrnn.upsampling import CONTRASTS, LEAST_STRIDE, LINEAR_SHARE, Method, are_smaller, low_steps, method_for

BY_CONTRAST = Bilateral()
"""What pixels are compared by when nothing is given; its deviations are found for each call."""
LARGEST = 1e30
"""Scores above it are computed in float64, for what they are multiplied by not to lead beyond float32."""


def upsample(
    scores: Tensor,
    image: Tensor,
    features: Features | None = None,
    filter: Lattice | Exact | None = None,
    *,
    covers: Sequence[float] | None = None,
    deterministic: bool = True,
    threads: int | None = None,
) -> Tensor:
    """Bring scores, or any other values, to the size of an image, along the image's edges: `crfrnn.upsample`.

    Gradients go to the scores, as often as needed, and to the image, once; a θ_β from its contrast is a constant.

    Args:
        scores: (B, C, *low) of any channels: logits, probabilities, features of a network; 1 to 3 spatial axes.
        image: (B, K, *spatial), at least as large as the scores.
        features: `Bilateral`, with θ_α in pixels of the image. None is the distance between low pixels, and 4 times
            what each image's contrast suggests for θ_β.
        filter: `Lattice()`, which None is too, or `Exact()`, over all pairs of pixels.
        covers: How many pixels of the image the scores cover along each axis, such as (height, width), from its first
            pixel: more than it has if the network saw a padded image. None is all that it has.
        deterministic: Give the same bits in every run, on a GPU too; there, gradients also need
            `torch.use_deterministic_algorithms(True)`.
        threads: Threads to use on the CPU; None takes torch.get_num_threads().
    Returns: (B, C, *spatial) in the scores' dtype; computed in float64 for float64 scores, else in float32.
    Raises:
        TypeError: if something is no tensor of real numbers, or features or filter are none of the above.
        ValueError: if shapes do not fit, values on the CPU are not finite, or the scores are larger than the image.
    """
    check_pair(scores, image, "scores")
    check_specification(features, filter)
    threads = None if threads is None else thread_count(threads)
    deterministic = flag(deterministic, "deterministic")
    step = low_steps(scores.shape, image.shape[2:], covers)
    dtype = torch.float64 if scores.dtype == torch.float64 or _is_huge(scores) else torch.float32
    values, colours = scores.to(dtype), image if image.dtype == torch.float64 else image.to(dtype)
    _check_finite(scores=values, image=colours)
    with full_precision(scores.device):
        thetas = {}
        if features is None:
            colours = in_contrasts(colours) / CONTRASTS
            features, thetas = BY_CONTRAST, {"theta_alpha": step[::-1], "theta_beta": (1.0,)}
        rows = torch.stack(feature_columns(features, Inputs(image, colours), thetas, dtype), dim=1)
        lows = rows
        for axis, length in enumerate(image.shape[2:], start=2):
            centres = (torch.arange(scores.shape[axis], dtype=dtype, device=image.device) + 0.5) * step[axis - 2] - 0.5
            lows = _at(lows, axis, centres[: _centres_inside(scores.shape[axis], step[axis - 2], length)])
            values = values.narrow(axis, 0, lows.shape[axis])
        count = lows[0, 0].numel()
        sent = torch.cat([values, torch.ones_like(values[:, :1])], dim=1).flatten(2)
        received = differentiable.gaussian_filter(
            torch.nn.functional.pad(sent, (0, rows[0, 0].numel())),
            torch.cat([lows.flatten(2), rows.flatten(2)], dim=2),
            None,
            "none",
            Lattice() if filter is None else filter,
            Execution(threads, deterministic),
        )
        received = received[:, :, count:].reshape(*sent.shape[:2], *image.shape[2:])
        interpolated = interpolate(scores.to(dtype), image, step)
        upsampled: Tensor = (received[:, :-1] + LINEAR_SHARE * interpolated) / (received[:, -1:] + LINEAR_SHARE)
    differentiable.check_outcome(upsampled, "upsampled scores", "scores")
    return upsampled.to(scores.dtype)


def at_image_size(
    logits: Tensor,
    image: Tensor | None,
    method: Method | None,
    deterministic: bool = True,
    threads: int | None = None,
) -> Tensor:
    """Logits (B, C, *low) at the size of the image (B, K, *spatial): the one rule for tensors.

    Args:
        method: As for `method_for`. An image of their size leaves them as they are.
    """
    low, grid = (tuple(getattr(each, "shape", ()))[2:] for each in (logits, image))
    if method is None and torch.compiler.is_compiling():  # where nothing can warn
        method = "bilinear" if are_smaller(low, grid, LEAST_STRIDE) else None
    else:
        method = method_for(method, low, None if image is None else grid, "logits")
    if method is None or image is None:
        return logits
    check_pair(logits, image, "logits")
    if logits.shape[2:] == image.shape[2:]:
        return logits
    if method == "joint-bilateral":
        return upsample(logits, image, deterministic=deterministic, threads=threads)
    return interpolate(logits, image, low_steps(logits.shape, image.shape[2:], None))


def interpolate(scores: Tensor, image: Tensor, step: Sequence[float]) -> Tensor:
    """Scores (B, C, *low), `step` pixels of the image apart, at the image's pixels by linear interpolation."""
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    values = scores.to(dtype)
    for axis, (length, distance) in enumerate(zip(image.shape[2:], step, strict=True), start=2):
        pixels = torch.arange(length, dtype=dtype, device=scores.device)
        values = _at(values, axis, (pixels + 0.5) / distance - 0.5)
    return values.to(scores.dtype)


def in_contrasts(image: Tensor) -> Tensor:
    """An image (B, K, *spatial) over the θ_β of its channels, as `contrast_theta_beta` finds them for each image.

    Levels are first divided by the largest, so that no square is beyond float32. θ_β is a constant to autograd.
    """
    axes = range(2, image.ndim)
    largest = image.detach().abs().amax(dim=list(axes), keepdim=True)
    levels = image / torch.where(largest > torch.finfo(largest.dtype).tiny, largest, 1.0)
    squares, pairs = levels.new_zeros(levels.shape[:2]), 0
    for axis in axes:
        steps = levels.detach().diff(dim=axis)
        squares, pairs = squares + steps.square().flatten(2).sum(dim=2), pairs + steps[0, 0].numel()
    means = (squares / max(pairs, 1)).sqrt()
    scale = SHARE * (means > 0).sum(dim=1, keepdim=True).to(means.dtype).sqrt()
    return levels / torch.where(means > 0, scale * means, 1.0).reshape(*means.shape, *(1 for _ in axes))


def check_pair(scores: Any, image: Any, name: str) -> None:
    """Raise unless these are scores (B, C, *low) and an image (B, K, *spatial) on one device."""
    check_scores(name, scores)
    check_tensor("image", image)
    check_device("image", image, name, scores)
    if image.ndim != scores.ndim or len(image) != len(scores) or 0 in image.shape or image.is_complex():
        raise ValueError(
            f"image has shape {tuple(image.shape)} and {image.dtype}; expected real numbers ({len(scores)}, channels, "
            f"*spatial) with {scores.ndim - 2} spatial axes to go with {name} of shape {tuple(scores.shape)}"
        )


def _centres_inside(few: int, step: float, length: int) -> int:
    """How many of the low pixels along an axis have their centres in the image."""
    return sum((index + 0.5) * step <= length for index in range(few))


def _at(values: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Linear interpolation at positions along an axis; those beyond an end are at the end."""
    last = values.shape[axis] - 1
    inside = positions.clamp(0, last)
    first = inside.long().clamp(max=max(last - 1, 0))
    share = (inside - first).reshape(-1, *(1,) * (values.ndim - 1 - axis))
    second = (first + 1).clamp(max=last)
    return torch.lerp(values.index_select(axis, first), values.index_select(axis, second), share)


def _is_huge(scores: Tensor) -> bool:
    """Whether sums of such values, and of their gradients, may be beyond float32; False where nobody can look."""
    values = None if torch.compiler.is_compiling() else readable(scores)
    return values is not None and values.size > 0 and max(float(values.max()), -float(values.min())) > LARGEST


def _check_finite(**tensors: Tensor) -> None:
    """On the CPU; elsewhere it would wait for the device."""
    for name, tensor in tensors.items():
        if tensor.device.type == "cpu" and not torch.compiler.is_compiling():
            check_finite(tensor.detach().numpy(), name)
