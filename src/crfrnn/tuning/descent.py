"""A CRF's deviations and weights by gradient descent on photos with scores and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crfrnn.data.scored import ScoredPhotos
from crfrnn.files.classes import VOID
from crfrnn.files.progress import progress
from crfrnn.parameters import CRFParameters
from crfrnn.torch.arrays import device_named
from crfrnn.torch.functional import mean_field

STEPS = 200
"""Photos seen, one a step; fewer photos are seen several times."""
RATE = 0.05
"""Of Adam, for the logarithms of what each number is multiplied by; it falls to 0 along half a cosine."""
ROUNDS = 4
"""How often the parameters are handed out on the way."""


def descend(
    photos: ScoredPhotos,
    indices: Sequence[int],
    start: CRFParameters,
    names: Sequence[str],
    seed: int,
    device: str | None = None,
) -> Iterator[CRFParameters]:
    """The parameters after each round of steps downhill in 1 - `soft_iou` of the refined scores.

    Every number of the parameters named is multiplied by a factor of its own. They keep their signs.

    Args:
        device: Where they are refined; None is the CPU.
    Raises: ValueError: as refining a photo does.
    """
    there = torch.device("cpu") if device is None else device_named(device)
    values = {name: torch.tensor(getattr(start, name), device=there) for name in names}
    logs = {name: torch.zeros_like(value, requires_grad=True) for name, value in values.items()}
    optimizer = torch.optim.Adam(logs.values(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    fixed = replace(start, class_threshold=0.0)  # a class left out has no gradient
    order = np.random.default_rng(seed)
    waiting: list[int] = []
    for step in progress(range(1, STEPS + 1), "descend"):
        waiting = waiting or order.permutation(list(indices)).tolist()
        sample, scores = photos[waiting.pop()]
        labels = torch.from_numpy(sample.labels.astype(np.int64)).to(there)
        if bool((labels != VOID).any()):
            changed: dict[str, Any] = {name: value * logs[name].exp() for name, value in values.items()}
            photo = torch.from_numpy(np.moveaxis(sample.image, -1, 0).astype(np.float32)).to(there)
            refined = mean_field(torch.from_numpy(scores).to(there)[None], photo[None], parameters=fixed, **changed)
            optimizer.zero_grad()
            (1 - soft_iou(refined[0], labels)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        if step % (STEPS // ROUNDS) == 0:
            yield replace(start, **{name: _numbers(values[name] * log.detach().exp()) for name, log in logs.items()})


def soft_iou(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean IoU over the classes in the labels, with probabilities in the place of a labelling.

    Args:
        logits: (C, H, W).
        labels: (H, W), 255 where there is no class.
    """
    known = labels != VOID
    q = logits[:, known].softmax(dim=0)
    truth = torch.nn.functional.one_hot(labels[known], len(logits)).T.to(q.dtype)
    both, either = (q * truth).sum(dim=1), (q + truth - q * truth).sum(dim=1)
    return (both / either)[truth.any(dim=1)].mean()


def _numbers(value: Tensor) -> Any:
    """A tensor as numbers, or nested tuples of them."""
    return tuple(_numbers(part) for part in value) if value.ndim else value.item()
