"""A batch of images through the mean field and back, on any device (docs/algorithm.md, eq. 4 and 8).

Where `steps` is `triton_steps`, they wait for the device only to count vertices (lattice.py).
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crfrnn.arrays import padded_channels
from crfrnn.crf import CRF, MOST_NEIGHBOUR_ROUNDS
from crfrnn.inference.backend import Execution, Gradients, Inputs
from crfrnn.numbers import whole_number
from crfrnn.torch.features import planes_of_columns
from crfrnn.torch.gpu import plain
from crfrnn.torch.gpu.guide import collected, filter_back, guide_gradients, no_gradient, through_normalization
from crfrnn.torch.gpu.lattice import Lattice, build_lattice, feature_gradient, type_of_sums
from crfrnn.torch.gpu.senders import all_classes
from crfrnn.torch.gpu.terms import Term, build_terms, fixed_order, mask_factors, normalised

PART = 1024  # rows of a product that are summed together


class Record(NamedTuple):
    """What a forward pass leaves for its backward pass: terms, and the marginals (P, channels) of each iteration."""

    terms: list[Term[Any]]
    marginals: list[Tensor]


def forward(
    crf: CRF, inputs: Inputs, couplings: Sequence[Tensor], keep: bool, execution: Execution, steps: ModuleType
) -> tuple[Tensor, Record]:
    """As in `Backend`. Values of scores, image or mask that are not finite make NaN; on the CPU they are an error.

    The result has the layout in memory of the logits.
    """
    solver: Any = crf.solver
    logits = inputs.logits
    classes = logits.shape[1]
    channels = padded_channels(classes)
    terms = build_terms(crf, inputs, logits.dtype, execution, steps)
    sliced = _sliced(terms)
    padded = [_padded(coupling, classes, channels, transpose=True) for coupling in couplings]
    kept: list[Tensor] = []
    storage = execution.storage or logits.dtype
    unary, q = steps.begin(logits, channels, storage)
    threshold, senders = solver.class_threshold, None
    if threshold:
        senders = all_classes(len(logits), classes, channels, unary)
        nothing = None, None, None, None, (None, None), 0.0
        steps.update(unary, unary, *nothing, storage, senders)
        senders = senders.above(threshold)
        _, q = steps.update(unary, unary, *nothing, storage, senders)
    scores = unary
    for iteration in range(solver.iterations):
        if keep:
            kept.append(q)
        written = [k for k in range(len(terms)) if k != sliced]
        messages = [terms[k].filter(q, False, steps) for k in written]
        ((message, coupling),) = _at_most(1, messages, [padded[k] for k in written])
        kind = None if iteration + 1 == solver.iterations else storage
        lattice, values, scale, other = None, None, None, None
        if sliced is not None:
            lattice, scale, other = terms[sliced].kernel, terms[sliced].post, padded[sliced]
            values = lattice.spread(q, terms[sliced].pre, False, steps)
        both = coupling, other
        if senders is not None and kind is not None:
            senders = senders.above(threshold)
        scores, q = steps.update(unary, scores, message, lattice, values, scale, both, solver.damping, kind, senders)
    return steps.planes_of(scores, logits), Record(terms, kept)


def vjp(
    crf: CRF,
    inputs: Inputs,
    cotangent: Tensor,
    record: Record,
    couplings: Sequence[Tensor],
    execution: Execution,
    guide: bool,
    steps: ModuleType,
) -> Gradients:
    """As in `Backend` (docs/algorithm.md, eq. 8)."""
    solver: Any = crf.solver
    damping = solver.damping
    classes = cotangent.shape[1]
    channels = padded_channels(classes)
    kept = 1 - damping
    padded = [kept * _padded(coupling, classes, channels, transpose=False) for coupling in couplings]
    products = [cotangent.new_zeros(channels, channels) for _ in couplings]
    to_terms = collected(crf, inputs, record.terms) if guide else [None] * len(record.terms)
    # What N filters for its share of the logits is -E q, kept by 1 - λ.
    senders = [-kept * _padded(each, classes, channels, transpose=True) for each in couplings if guide]
    g = steps.rows_of(cotangent, channels, 0.0)
    total = g * kept if record.marginals else g
    if record.marginals:
        g = g.to(type_of_sums(record.marginals[0]))
    for iteration in reversed(range(len(record.marginals))):
        q = record.marginals[iteration]
        messages = tuple(
            term.filter(g, True, steps)
            if to_term is None
            else filter_back(term, g, plain.couple(q, senders[k]).to(g.dtype), to_term, steps)
            for k, (term, to_term) in enumerate(zip(record.terms, to_terms, strict=True))
        )
        found = steps.products(messages, q) if len(messages) == 2 else None
        if found is None:
            found = [_product(message.to(total.dtype), q.to(total.dtype)) for message in messages]
        for product, added in zip(products, found, strict=True):
            product.sub_(added, alpha=kept)
        pairs = zip(*_at_most(2, messages, padded), strict=True)
        received, coupled = (tuple(each) for each in pairs)
        g = steps.backstep(g, total, q, received, coupled, damping, kept if iteration else 1.0)
    to_couplings = [
        _shaped_like(coupling, product[:classes, :classes])
        for coupling, product in zip(couplings, products, strict=True)
    ]
    to_guide = guide_gradients(crf, inputs, record.terms, to_terms, total.dtype, steps) if guide else {}
    return Gradients(steps.planes_of(total, cotangent), to_couplings, **to_guide)


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
    images, d, *shape = features.shape
    rows = features.movedim(1, 0).reshape(d, -1)
    lattice = build_lattice(rows, images, shape[-1], steps, rounds, fixed_order(deterministic))
    factors = None if mask is None else mask_factors(mask, features.dtype)
    points = lattice.vertex.shape[1]
    return normalised(lattice, normalization, factors, points, features.dtype, features.device, steps)


def filtered(values: Tensor, term: Term[Lattice], transpose: bool, steps: ModuleType) -> Tensor:
    """Values (B, C, *spatial) under the filter, or under its transpose."""
    rows = steps.rows_of(values, padded_channels(values.shape[1]), 0.0)
    result: Tensor = steps.planes_of(term.filter(rows, transpose, steps), values)
    return result


def lattice_gradient(
    cotangent: Tensor, values: Tensor, features: Tensor, term: Term[Lattice], steps: ModuleType
) -> Tensor:
    """Gradient of ⟨cotangent, `filtered(values, term)`⟩ to the features (B, d, *spatial) of the lattices."""
    d = features.shape[1]
    channels = padded_channels(values.shape[1])
    found = no_gradient(term, to_kernel=True)
    g, sent = (steps.rows_of(each, channels, 0.0) for each in (cotangent, values))
    filter_back(term, g, sent, found, steps)
    through_normalization(term, found, steps)
    assert found.kernel is not None
    gradient = feature_gradient(features.movedim(1, 0).reshape(d, -1), found.kernel, steps)
    return planes_of_columns(gradient, values)


def _sliced(terms: Sequence[Term[Any]]) -> int | None:
    """The term whose lattice values `update` slices itself, the last one: its message is never written."""
    return next((k for k in reversed(range(len(terms))) if isinstance(terms[k].kernel, Lattice)), None)


def _at_most(
    count: int, messages: Sequence[Tensor], couplings: Sequence[Tensor]
) -> list[tuple[Tensor | None, Tensor | None]]:
    """Exactly `count` messages with their couplings: None where there are fewer; if more, the last ones are summed."""
    pairs: list[tuple[Tensor | None, Tensor | None]] = list(zip(messages, couplings, strict=True))
    if len(pairs) > count:
        rest = zip(messages[count - 1 :], couplings[count - 1 :], strict=True)
        total = sum(plain.couple(message, coupling) for message, coupling in rest)
        assert isinstance(total, Tensor)
        pairs[count - 1 :] = [(total, total.new_ones(total.shape[1]))]
    return pairs + [(None, None)] * (count - len(pairs))


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
    """The gradient of a matrix, a diagonal or a number, taken from that of the full matrix."""
    if coupling.ndim == 2:
        return gradient.contiguous()
    diagonal = gradient.diagonal()
    return diagonal.clone() if coupling.ndim else diagonal.sum()
