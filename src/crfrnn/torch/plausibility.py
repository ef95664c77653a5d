"""What numbers of tensors give away, where looking costs nothing: on the CPU, and in nothing compiled or traced."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crfrnn import levels
from crfrnn.crf import CRF
from crfrnn.doubts import Doubts


def look(
    doubts: Doubts,
    crf: CRF,
    logits: Tensor,
    image: Tensor | None,
    thetas: Mapping[str, Tensor],
    call: str = "crf(logits, image)",
) -> None:
    """`Doubts.look` at logits (B, C, *spatial) and an image (B, K, *spatial) that have been checked.

    Args:
        thetas: θ that replace those of the CRF.
        call: How it is called, for messages.
    """
    if not doubts.pending:
        return
    scores, seen, crf_seen = readable(logits), readable(image), _with_theta_beta(crf, thetas)
    if scores is not None and seen is not None and crf_seen is not None:
        doubts.look(crf_seen, scores, seen, call)


def check_levels(crf: CRF, image: Tensor | None) -> None:
    """Warn if the levels of an image (B, K, *spatial) are far from θ_β."""
    seen = readable(image)
    if seen is not None:
        levels.check_levels(crf, np.moveaxis(seen, 1, -1))


def readable(tensor: Tensor | None) -> NDArray[Any] | None:
    """The numbers of a tensor; None where they are not there, or reading them would make a device wait."""
    if tensor is None or type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type != "cpu":
        return None
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return None
    held = tensor.detach()
    try:
        array: NDArray[Any] = (held.float() if held.dtype == torch.bfloat16 else held).numpy()
    except RuntimeError:  # inside torch.func
        return None
    return array


def _with_theta_beta(crf: CRF, thetas: Mapping[str, Tensor]) -> CRF | None:
    """The CRF with the θ_β of a call; None if that cannot be read."""
    if "theta_beta" not in thetas:
        return crf
    theta = readable(thetas["theta_beta"])
    return None if theta is None else crf.with_thetas(theta_beta=theta.tolist())
