"""The edge of `crfrnn.torch`: what a call is given, checked in the user's terms."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from crfrnn.crf import CRF
from crfrnn.kernels.build import missing
from crfrnn.upsampling import hint_for

Own: TypeAlias = Tensor | Callable[[Tensor], Tensor]
LAYOUT = "(batch, {}, *spatial) with 1 to 3 spatial axes"


class Scene(NamedTuple):
    """What a call is given, as in `Inputs`, not yet checked."""

    logits: Tensor
    image: Tensor | None
    mask: Tensor | None
    given: Mapping[str, Own]
    spacing: float | Sequence[float] | None


def check_scene(crf: CRF, scene: Scene, scores: str = "logits") -> None:
    """Raise unless image, mask and what is given fit the logits, or whatever name the scores have."""
    if any(kernel.features.reads_image for kernel in crf.kernels):
        check_beside("image", scene.image, scores, scene.logits)
    check_mask(scene.mask, scores, scene.logits)
    for name in crf.given_names:
        regions = name in crf.region_names
        if name not in scene.given:
            raise ValueError(missing(name, scene.given, regions))
        if regions:
            check_segments(f"given[{name!r}]", scene.given[name], scene.logits)
        elif isinstance(scene.given[name], Tensor) or not callable(scene.given[name]):
            check_beside(f"given[{name!r}]", scene.given[name], scores, scene.logits)


def check_scores(name: str, tensor: Tensor) -> None:
    check_tensor(name, tensor)
    layout = LAYOUT.format("classes" if name == "logits" else "channels")
    if not 3 <= tensor.ndim <= 5:
        raise ValueError(f"{name} have shape {tuple(tensor.shape)}; expected {layout}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} are {tensor.dtype}; expected a floating-point tensor: call .float() first")
    if tensor.numel() == 0:
        raise ValueError(f"{name} have shape {tuple(tensor.shape)}, which holds nothing; expected {layout}")


def check_beside(name: str, tensor: Any, beside: str, scores: Tensor) -> None:
    check_tensor(name, tensor)
    check_device(name, tensor, beside, scores)
    expected = (scores.shape[0], "channels", *scores.shape[2:])
    if tensor.ndim != scores.ndim or tensor.shape[0] != scores.shape[0] or tensor.shape[2:] != scores.shape[2:]:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected ({', '.join(map(str, expected))}) "
            f"to go with {beside} of shape {tuple(scores.shape)}"
            f"{hint_for(scores.shape[2:], tensor.shape[2:], beside) if name == 'image' else ''}"
        )
    if tensor.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected at least one channel")
    if tensor.is_complex():
        raise TypeError(f"{name} is {tensor.dtype}; expected real numbers")


def check_segments(name: str, segments: Any, logits: Tensor) -> None:
    """Raise unless these are ids or memberships beside the logits."""
    check_tensor(name, segments)
    if segments.ndim == logits.ndim:
        check_beside(name, segments, "logits", logits)
        return
    check_device(name, segments, "logits", logits)
    expected = (logits.shape[0], *logits.shape[2:])
    if segments.shape != expected:
        raise ValueError(
            f"{name} has shape {tuple(segments.shape)}; expected ids of segments {expected}, or memberships "
            f"({', '.join(map(str, (expected[0], 'segments', *expected[1:])))}), to go with logits of shape "
            f"{tuple(logits.shape)}"
        )
    if segments.is_floating_point() or segments.is_complex() or segments.dtype == torch.bool:
        raise TypeError(f"{name} is {segments.dtype}, but ids of segments are integers: call .long() first")


def check_mask(mask: Tensor | None, beside: str, scores: Tensor, name: str = "mask") -> None:
    if mask is None:
        return
    check_tensor(name, mask)
    check_device(name, mask, beside, scores)
    expected = (scores.shape[0], *scores.shape[2:])
    if mask.shape != expected:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}; expected {expected}, without a channel axis, "
            f"to go with {beside} of shape {tuple(scores.shape)}"
        )


def check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; expected a torch.Tensor")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} is a tensor of layout {tensor.layout}; expected a dense one: call .to_dense() first")
    if tensor.is_floating_point() and tensor.itemsize == 1:
        raise TypeError(f"{name} is {tensor.dtype}; expected numbers of at least 16 bits: call .float() first")


def check_device(name: str, tensor: Tensor, beside: str, scores: Tensor) -> None:
    if tensor.device != scores.device:
        raise ValueError(
            f"{name} is on {tensor.device}, but {beside} are on {scores.device}; move all, the layer too, to one device"
        )
