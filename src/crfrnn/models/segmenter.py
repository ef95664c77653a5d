"""Any segmentation network with a CRF-RNN behind it, as one module that trains end to end."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from crfrnn.torch import CrfRnn

OUTPUT_NAMES = ("out", "logits")
"""The key of the logits in networks that return a dictionary: torchvision, Hugging Face."""


class Segmenter(nn.Module):
    """Photos in, class logits out: a network's logits, refined by a CRF that sees the photos themselves.

    Args:
        network: Any module that maps an image batch (B, 3, H, W) to logits (B, C, h, w): as a tensor, under "out" or
            "logits" in a dictionary, or as an attribute `logits`. Smaller logits are stretched to the photo bilinearly.
        crf: The CRF-RNN, which returns logits; None leaves the network alone.
        mean: Subtracted from the RGB levels 0-255 before the network sees them; three numbers, or one for all. With
            None the network takes the levels as they are.
        std: What the difference is divided by; None is 1.
    Raises: TypeError or ValueError: if an argument is not as described.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        crf: CrfRnn | None,
        *,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network is a {type(network).__name__}; expected a torch.nn.Module")
        if crf is not None and not isinstance(crf, CrfRnn):
            raise TypeError(f"crf is a {type(crf).__name__}; expected a crfrnn.torch.CrfRnn or None")
        if crf is not None and crf.return_probabilities:
            raise ValueError("crf returns probabilities; a Segmenter needs logits: return_probabilities=False")
        self.network = network
        self.crf = crf
        self.register_buffer("mean", _per_channel(mean, "mean"), persistent=False)
        self.register_buffer("std", _per_channel(std, "std"), persistent=False)
        if self.std is not None and not (self.std > 0).all():
            raise ValueError(f"std={std!r} must be above 0")

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, C, H, W), after the CRF if there is one.

        Network and CRF must be on the same device, and run there. Gradients reach both.

        Args:
            images: (B, 3, H, W) RGB, 0 to 255.
            mask: (B, H, W), 1 for pixels of the photo and 0 for padding, which the CRF leaves out.
        Raises: TypeError or ValueError: if images, the network's answer or the mask do not fit.
        """
        logits = self.unary(images)
        return logits if self.crf is None else self.refined(logits, images, mask)

    def refined(self, logits: Tensor, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of `unary` after the CRF; see `forward` for images and mask.

        Raises: ValueError: if there is no CRF, or it was made for another number of classes.
        """
        if self.crf is None:
            raise ValueError("this Segmenter has no CRF-RNN; give it one, or use the logits as they are")
        if logits.shape[1] != self.crf.num_classes:
            raise ValueError(
                f"the network returns logits of {logits.shape[1]} classes, but its CRF-RNN was made for "
                f"{self.crf.num_classes}: give both the same number of classes"
            )
        refined: Tensor = self.crf(logits, images, mask)
        return refined

    def unary(self, images: Tensor) -> Tensor:
        """The network's own logits (B, C, H, W) at the size of the images (B, 3, H, W)."""
        if not isinstance(images, Tensor):
            raise TypeError(f"images are a {type(images).__name__}; expected a torch.Tensor")
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (batch, 3, height, width), RGB 0-255")
        levels = images if images.is_floating_point() else images.float()
        if self.mean is not None:
            levels = levels - self.mean[:, None, None]
        if self.std is not None:
            levels = levels / self.std[:, None, None]
        logits = _logits(self.network(levels), type(self.network).__name__)
        if logits.ndim != 4 or len(logits) != len(images):
            raise ValueError(
                f"{type(self.network).__name__} returns logits of shape {tuple(logits.shape)} for images of shape "
                f"{tuple(images.shape)}; expected ({len(images)}, classes, height, width)"
            )
        if logits.shape[-2:] == images.shape[-2:]:
            return logits
        return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def attach(
    network: nn.Module,
    num_classes: int,
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    **crf_options: Any,
) -> Segmenter:
    """A network with a new CRF-RNN behind it; see `Segmenter` for network, mean and std.

    Args:
        num_classes: Classes of the network's logits.
        crf_options: Options of `crfrnn.torch.CrfRnn`.
    """
    return Segmenter(network, CrfRnn(num_classes, **crf_options), mean=mean, std=std)


def of_classes(logits: Tensor) -> Tensor:
    """Logits (B, 1, H, W) of a foreground as those of two classes, background first; others as they are."""
    return functional.pad(logits, (0, 0, 0, 0, 1, 0)) if logits.shape[1] == 1 else logits


def _per_channel(value: float | Sequence[float] | None, name: str) -> Tensor | None:
    """A setting of the levels as three numbers, one for each channel; None stays None."""
    if value is None:
        return None
    problem = f"{name}={value!r} must be a finite number, or three for red, green and blue in levels 0-255"
    try:
        given = torch.as_tensor(np.asarray(value, np.float32))
    except (TypeError, ValueError):
        raise ValueError(problem) from None
    if given.shape not in ((), (3,)) or not given.isfinite().all():
        raise ValueError(problem)
    return given.expand(3).clone()


def _logits(answer: Any, network: str) -> Tensor:
    """The logits in what a network returned."""
    found = answer
    if isinstance(answer, Mapping):
        found = next((answer[name] for name in OUTPUT_NAMES if name in answer), answer)
    elif not isinstance(answer, Tensor):
        found = getattr(answer, "logits", answer)
    if isinstance(found, Tensor):
        return found
    held = f" with {', '.join(map(repr, answer))}" if isinstance(answer, Mapping) else ""
    raise TypeError(
        f"{network} returns a {type(answer).__name__}{held}; expected a tensor of logits, a dictionary with one under "
        f"{' or '.join(map(repr, OUTPUT_NAMES))}, or an object with one as its attribute logits"
    )
