"""Regularised Frank-Wolfe in operations of torch, for the differentiable backend (docs/algorithm.md, eq. 28-31).

It is `inference/frankwolfe.py` for a batch (B, C, *spatial). Autograd goes back through the iterations.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from crfrnn.crf import FrankWolfe
from crfrnn.inference.adjoint import conjugate_gradients
from crfrnn.inference.regularization import NEAR, SMALLEST_PROBABILITY
from crfrnn.torch.coupling import couple
from crfrnn.torch.implicit import (
    largest,
    per_image,
    tensor_arithmetic,
    transform_gradient,
    warn_unless_converged,
    with_value,
)


class Filtered(Protocol):
    """A normalised kernel N."""

    @property
    def symmetric(self) -> bool: ...

    def __call__(self, values: Tensor) -> Tensor:
        """N values."""
        ...

    def transposed(self, values: Tensor) -> Tensor:
        """Nᵀ values."""
        ...


def frank_wolfe(solver: FrankWolfe, logits: Tensor, filters: Sequence[Filtered], couplings: Sequence[Tensor]) -> Tensor:
    """Logits of the last marginals."""

    def message(values: Tensor) -> Tensor:
        """S values."""
        total = torch.zeros_like(values)
        for coupling, filtered in zip(couplings, filters, strict=True):
            back = coupling.mT if coupling.ndim == 2 else coupling
            if filtered.symmetric:
                total = total + couple(0.5 * (coupling + back), filtered(values))
            else:
                total = total + 0.5 * (couple(coupling, filtered(values)) + couple(back, filtered.transposed(values)))
        return total

    if solver.gradient == "unrolled" or not torch.is_grad_enabled():
        return _logarithm(_iterated(solver, logits, message)[0])
    with torch.no_grad():
        q, _ = _iterated(solver, logits, message)
    scores = logits - message(q)
    p, _ = _nearest(solver, scores)
    warn_unless_converged(p.detach(), q, solver)
    if not scores.requires_grad:
        return _logarithm(q)
    at = p.detach()

    def solve(direct: Tensor) -> Tensor:
        with torch.no_grad():
            return direct + conjugate_gradients(  # type: ignore[no-any-return]
                message, lambda values: _jacobian(solver, at, values), -message(direct), tensor_arithmetic(direct)
            )

    transform_gradient(scores, solve)
    return _logarithm(with_value(q, p))


def _iterated(solver: FrankWolfe, logits: Tensor, message: Any) -> tuple[Tensor, Tensor]:
    """The last marginals and their message."""
    q = torch.softmax(logits, dim=1)
    heard = message(q)
    going = torch.ones_like(per_image(logits), dtype=torch.bool)
    for iteration in range(solver.iterations):
        p, scores = _nearest(solver, logits - heard)
        aimed = message(p)
        direction, bend = p - q, aimed - heard
        size = torch.full_like(going, 2 / (iteration + 2), dtype=logits.dtype)
        if solver.step == "line-search":
            size = _line_search(solver, q, p, scores, bend)
        size = torch.where(going, size, 0.0)
        q, heard = torch.lerp(q, p, size), torch.lerp(heard, aimed, size)
        if solver.tolerance:
            going = going & (largest(direction.detach()) > solver.tolerance)
            if not torch.compiler.is_compiling() and not going.any():
                break
    return q, heard


def _line_search(solver: FrankWolfe, q: Tensor, p: Tensor, scores: Tensor, bend: Tensor) -> Tensor:
    """α of each image (docs/algorithm.md, eq. 30)."""
    direction = p - q
    gap = per_image(_gap(solver, q, p, scores))
    strong = 0.5 * solver.strength * per_image(direction * direction)
    # Both are at least 0, but rounding can say otherwise where p is q but for the last digits.
    slope, curvature = (gap + strong).clamp(min=0), per_image(direction * bend) + 2 * strong
    inside = curvature > slope
    return torch.where(inside, slope / torch.where(inside, curvature, 1.0), 1.0)


def _nearest(solver: FrankWolfe, scores: Tensor) -> tuple[Tensor, Tensor]:
    """As `Regularizer.nearest`."""
    scaled = scores / solver.strength
    if solver.regularization == "entropic":
        log_p = torch.log_softmax(scaled, dim=1)
        return log_p.exp(), solver.strength * log_p
    scaled = scaled - scaled.detach().amax(dim=1, keepdim=True)  # else 1 is lost beside large scores
    ordered, _ = scaled.sort(dim=1, descending=True)
    sums = ordered.cumsum(dim=1) - 1
    counts = torch.arange(1, scaled.shape[1] + 1, dtype=scaled.dtype, device=scaled.device)
    counts = counts.view(-1, *(1,) * (scaled.ndim - 2))
    support = (counts * ordered > sums).sum(dim=1, keepdim=True)
    above = scaled - sums.gather(1, support - 1) / support
    return above.clamp(min=0), solver.strength * above


def _gap(solver: FrankWolfe, q: Tensor, p: Tensor, scores: Tensor) -> Tensor:
    """The share of each entry in `Regularizer.gap`."""
    strength, direction = solver.strength, p - q
    if solver.regularization == "euclidean":
        descent = torch.where(p > 0, strength * direction, scores - strength * q)
        return direction * (descent - 0.5 * strength * direction)
    growth = direction / q.clamp(min=SMALLEST_PROBABILITY)
    near = strength * torch.log1p(growth.clamp(-NEAR, NEAR))
    descent = torch.where(growth.abs() < NEAR, near, scores - strength * _logarithm(q))
    return strength * direction - q * descent


def _jacobian(solver: FrankWolfe, p: Tensor, values: Tensor) -> Tensor:
    """As `Regularizer.jacobian`."""
    weights = p if solver.regularization == "entropic" else (p > 0).to(p.dtype)
    mean = (weights * values).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
    return weights * (values - mean) / solver.strength


def _logarithm(q: Tensor) -> Tensor:
    return q.clamp(min=SMALLEST_PROBABILITY).log()
