"""A batch of images through the mean field and back, on any device (docs/algorithm.md, eq. 4 and 8).

The functions are those of `crfrnn.batch`, with tensors in the place of arrays and without threads. Where `steps` is
`fused`, they wait for the device only to add vertices (lattice.py).
"""

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn.batch import Settings
from crfrnn.parameters import MOST_NEIGHBOUR_ROUNDS, whole_number
from crfrnn.torch.device.grid import Grid
from crfrnn.torch.device.lattice import Lattice, build_lattice, type_of_sums
from crfrnn.torch.device.pairwise import (
    Term,
    fixed_order,
    mask_factors,
    normalised,
    padded_channels,
    pairwise_terms,
    planes_of,
    rows_of,
)

PART = 1024  # rows of a product that are summed together


class Record(NamedTuple):
    """What a forward pass leaves for its backward pass: terms, and the marginals (P, channels) of each iteration."""

    spatial: Term[Grid | Lattice]
    bilateral: Term[Lattice]
    marginals: list[Tensor]


def mean_field(
    logits: Tensor,
    image: Tensor,
    mask: Tensor | None,
    couplings: Sequence[Tensor],
    settings: Settings,
    keep: bool,
    steps: ModuleType,
) -> tuple[Tensor, Record]:
    """Logits after the last iteration, and a record; its marginals are empty unless `keep`.

    Args:
        logits: (B, C, *spatial), float32 or float64; the result has their layout in memory. What is not finite here, in
            the image or in the mask, is no error, as on the CPU, but makes the result NaN.
        couplings: E of the spatial and of the bilateral kernel: (), (C,) or (C, C).
    Raises: ValueError: if the settings do not fit.
    """
    numbers = settings.parameters()
    classes = logits.shape[1]
    channels = padded_channels(classes)
    spatial, bilateral = pairwise_terms(image, mask, settings, logits.dtype, steps)
    lattice = bilateral.kernel
    padded = tuple(_padded(coupling, classes, channels, transpose=True) for coupling in couplings)
    kept: list[Tensor] = []
    storage = settings.storage or logits.dtype
    unary, q = steps.begin(logits, channels, storage)
    scores = unary
    for iteration in range(numbers.iterations):
        if keep:
            kept.append(q)
        message = spatial.filter(q, False, steps)
        values = lattice.spread(q, bilateral.pre, False, steps)
        kind = None if iteration + 1 == numbers.iterations else storage
        scores, q = steps.update(unary, scores, message, lattice, values, bilateral.post, padded, numbers.damping, kind)
    return planes_of(scores, logits), Record(spatial, bilateral, kept)


def mean_field_vjp(
    cotangent: Tensor, record: Record, couplings: Sequence[Tensor], settings: Settings, steps: ModuleType
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of ⟨cotangent, refined logits⟩ to the logits and, summed over the batch, to the couplings."""
    damping = settings.damping
    classes = cotangent.shape[1]
    channels = padded_channels(classes)
    kept = 1 - damping
    padded = tuple(kept * _padded(coupling, classes, channels, transpose=False) for coupling in couplings)
    products = [cotangent.new_zeros(channels, channels) for _ in couplings]
    g = rows_of(cotangent, channels, 0.0)
    total = g * kept if record.marginals else g
    if record.marginals:
        g = g.to(type_of_sums(record.marginals[0]))
    for iteration in reversed(range(len(record.marginals))):
        q = record.marginals[iteration]
        messages = tuple(term.filter(g, True, steps) for term in (record.spatial, record.bilateral))
        found = steps.products(messages, q)
        if found is None:
            found = [_product(message.to(total.dtype), q.to(total.dtype)) for message in messages]
        for product, added in zip(products, found, strict=True):
            product.sub_(added, alpha=kept)
        g = steps.backstep(g, total, q, messages, padded, damping, kept if iteration else 1.0)
    gradients = [
        _shaped_like(coupling, product[:classes, :classes])
        for coupling, product in zip(couplings, products, strict=True)
    ]
    return planes_of(total, cotangent), gradients


def lattices(
    features: Tensor,
    mask: Tensor | None,
    normalization: str,
    neighbour_rounds: int,
    deterministic: bool,
    steps: ModuleType,
) -> Term[Lattice]:
    """The normalised lattice over the features (B, d, *spatial) of every image."""
    rounds = whole_number(neighbour_rounds, "neighbour_rounds", MOST_NEIGHBOUR_ROUNDS)
    images, d = features.shape[:2]
    lattice = build_lattice(features.movedim(1, 0).reshape(d, -1), images, steps, rounds, fixed_order(deterministic))
    factors = None if mask is None else mask_factors(mask, features.dtype)
    points = lattice.vertex.shape[1]
    return normalised(lattice, normalization, factors, points, features.dtype, features.device, steps)


def filtered(values: Tensor, term: Term[Lattice], transpose: bool, steps: ModuleType) -> Tensor:
    """Values (B, C, *spatial) under the filter, or under its transpose."""
    rows = rows_of(values, padded_channels(values.shape[1]), 0.0)
    return planes_of(term.filter(rows, transpose, steps), values)


def _product(rows: Tensor, others: Tensor) -> Tensor:
    """rowsᵀ others, (channels, channels), in parts: a GPU would leave a single one to few of its multiprocessors."""
    split = len(rows) // PART * PART
    whole, other = (each[:split].view(-1, PART, each.shape[1]) for each in (rows, others))
    return torch.bmm(whole.mT, other).sum(dim=0) + rows[split:].mT @ others[split:]


def _padded(coupling: Tensor, classes: int, channels: int, transpose: bool) -> Tensor:
    """A coupling as (channels,), or as a matrix (channels, channels), padded by zeros."""
    shape = (channels,) * max(1, coupling.ndim)
    padded = coupling.new_zeros(shape)
    padded[(slice(classes),) * len(shape)] = coupling.mT if transpose and coupling.ndim == 2 else coupling
    return padded


def _shaped_like(coupling: Tensor, gradient: Tensor) -> Tensor:
    """What of a matrix's gradient belongs to a matrix, a diagonal or a number."""
    if coupling.ndim == 2:
        return gradient.contiguous()
    diagonal = gradient.diagonal()
    return diagonal.clone() if coupling.ndim else diagonal.sum()
