"""Regions in operations of torch (docs/algorithm.md, eq. 32), differentiable to values and memberships."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crfrnn.crf import EPSILON
from crfrnn.inference.regions import FLOOR

Filter = Callable[[Tensor], Tensor]


def region_filter(segments: Tensor, order: int | None, mask: Tensor | None, logits: Tensor) -> Filter:
    """What pixels receive from their segments, as a function of marginals in the shape of the logits.

    Args:
        segments: Ids (B, *spatial), integers, or memberships (B, S, *spatial).
        mask: (B, *spatial) weights ≥ 0, or None.
        logits: (B, C, *spatial).
    """
    membership = None if mask is None else mask.to(logits.dtype).clamp(max=1)
    if segments.ndim == logits.ndim:
        shares = segments.to(logits.dtype)
        shares = shares if membership is None else shares * membership[:, None]
        return partial(_by_shares, shares=shares.flatten(2), order=order)
    inside = (segments >= 0).to(logits.dtype)
    inside = inside if membership is None else inside * membership
    return partial(_by_ids, share=inside.reshape(-1, 1), members=_sorted(segments), order=order)


class Members(NamedTuple):
    """The pixels of a batch, B·N of them, by segment.

    Attributes:
        segment: (B·N,) the segment of each pixel.
        pixel: (B·N,) pixels, sorted by segment.
        counts: How many pixels each segment has, 0 for an id that another image of the batch has.
    """

    segment: Tensor
    pixel: Tensor
    counts: Tensor


class _Sums(torch.autograd.Function):
    """Sums (S, C) of values (B·N, C), one for each segment, always in the same order."""

    @staticmethod
    def forward(values: Tensor, members: Members) -> Tensor:
        return torch.segment_reduce(values[members.pixel], "sum", lengths=members.counts, axis=0, unsafe=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Members], output: Tensor) -> None:
        ctx.members = inputs[1]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return spread(cotangent, ctx.members), None


class _Spread(torch.autograd.Function):
    """The row of its segment for every pixel, (B·N, C) of (S, C): the transpose of `_Sums`."""

    @staticmethod
    def forward(rows: Tensor, members: Members) -> Tensor:
        return rows[members.segment]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Members], output: Tensor) -> None:
        ctx.members = inputs[1]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return sums(cotangent, ctx.members), None


def sums(values: Tensor, members: Members) -> Tensor:
    """Sums (S, C) over the pixels of each segment, of values (B·N, C)."""
    return _Sums.apply(values, members)  # type: ignore[no-any-return, no-untyped-call]


def spread(rows: Tensor, members: Members) -> Tensor:
    """Rows (S, C) of segments at each of their pixels, (B·N, C)."""
    return _Spread.apply(rows, members)  # type: ignore[no-any-return, no-untyped-call]


def _sorted(ids: Tensor) -> Members:
    """The pixels of maps (B, *spatial); images of a batch share no segment. Those in no segment make up one, too."""
    found, place = torch.unique(ids.flatten(1).long().clamp(min=-1), return_inverse=True)
    images = torch.arange(len(ids), device=ids.device)[:, None]
    segment = (place + images * len(found)).reshape(-1)
    return Members(segment, segment.argsort(stable=True), segment.bincount(minlength=len(ids) * len(found)))


def _by_ids(values: Tensor, share: Tensor, members: Members, order: int | None) -> Tensor:
    rows = values.flatten(2).movedim(1, 2).flatten(0, 1)
    if order is None:
        logs = _factors(rows, share).log()
        agreement = torch.exp(spread(sums(logs, members), members) - logs)
    else:
        mean = sums(share * rows, members) / (sums(share, members) + EPSILON)
        agreement = spread(mean ** (order - 1), members)
    received = (share * agreement).view(len(values), -1, values.shape[1])
    return received.movedim(2, 1).reshape(values.shape)


def _by_shares(values: Tensor, shares: Tensor, order: int | None) -> Tensor:
    rows = values.flatten(2)
    if order is None:
        received = torch.zeros_like(rows)
        for share in shares.unbind(1):
            received = received + _by_share(rows, share[:, None])
    else:
        total = shares.sum(dim=2, keepdim=True) + EPSILON
        mean = (shares @ rows.movedim(1, 2)) / total
        received = (mean ** (order - 1)).movedim(1, 2) @ shares
    return received.view(values.shape)


def _by_share(rows: Tensor, share: Tensor) -> Tensor:
    """What one segment adds for shares (B, 1, N) of the pixels."""
    logs = _factors(rows, share).log()
    return share * torch.exp(logs.sum(dim=2, keepdim=True) - logs)


def _factors(rows: Tensor, share: Tensor) -> Tensor:
    """The probability that a member is of a class, or no member after all."""
    return (share * rows + (1 - share)).clamp(min=FLOOR)
