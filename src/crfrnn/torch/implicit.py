"""Gradients at a fixed point as operations of torch: what solvers share (docs/algorithm.md, eq. 31).

The iterations run without a graph. One more step from their result, whose value is not used, carries the gradient to
everything that it depends on, and a hook on it turns what comes back into the solution of a linear system.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crfrnn.inference.adjoint import ADJOINT_TOLERANCES, Arithmetic, biconjugate_gradients, check_converged


def mean_field_at_fixed_point(solver: Any, scores: Tensor, update: Callable[[Tensor], Tensor]) -> Tensor:
    """Scores that `update` does not change, with the gradient of that fixed point."""
    start = scores.detach()
    carried = update(start).view_as(start)  # without kernels it is the logits themselves, which get no hook
    warn_unless_converged(torch.softmax(carried.detach(), dim=1), torch.softmax(start, dim=1), solver)
    if not carried.requires_grad:
        return scores
    again = start.requires_grad_()
    local = update(again)

    def solve(cotangent: Tensor) -> Tensor:
        def product(w: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(local, again, w, retain_graph=True, allow_unused=True)
            return w if found is None else w - found

        return biconjugate_gradients(product, cotangent, tensor_arithmetic(cotangent))  # type: ignore[no-any-return]

    transform_gradient(carried, solve)
    return with_value(scores, carried)


def transform_gradient(tensor: Tensor, solve: Callable[[Tensor], Tensor]) -> None:
    """Hand on `solve` of what comes back to a tensor, which must not be the caller's."""
    tensor.register_hook(lambda cotangent: None if cotangent is None else solve(cotangent))  # type: ignore[no-untyped-call]


def with_value(value: Tensor, carried: Tensor) -> Tensor:
    """The value of one tensor with the gradient of another."""
    return value.detach() + (carried - carried.detach())


def warn_unless_converged(following: Tensor, marginals: Tensor, solver: Any) -> None:
    """`check_converged` on the CPU; elsewhere it would wait for the device."""
    if marginals.device.type == "cpu" and not torch.compiler.is_compiling():
        check_converged(float((following - marginals).abs().max()), solver)


def per_image(values: Tensor) -> Tensor:
    """The sum of values (B, C, *spatial) of each image, (B, 1, …)."""
    return values.sum(dim=tuple(range(1, values.ndim)), keepdim=True)


def largest(values: Tensor) -> Tensor:
    """The largest |value| of each image, (B, 1, …)."""
    return values.abs().amax(dim=tuple(range(1, values.ndim)), keepdim=True)


def tensor_arithmetic(tensor: Tensor) -> Arithmetic:
    """That of a batch of images."""
    return Arithmetic(
        dot=lambda a, b: per_image(a * b),
        largest=largest,
        where=torch.where,
        times=lambda values, factor: values * factor,
        tolerance=ADJOINT_TOLERANCES[tensor.element_size()],
    )
