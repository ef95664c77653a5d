"""The exact Gaussian filter K v as an operator of torch, differentiable to values and features.

Every pair of points counts: O(N²) time, O(N) memory. It is native on the CPU, in Triton on a GPU in float32, in blocks
of plain torch elsewhere.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import product
from typing import Any

import torch
from torch import Tensor

from crfrnn.inference import batch
from crfrnn.torch.gpu import plain, steps_of
from crfrnn.torch.operator import operator

# Weights in memory at once, for all images: what stays in a CPU's cache, and 64 MiB of float32 elsewhere.
CPU_BLOCK, BLOCK = 2**18, 2**24


@operator("(Tensor features) -> Tensor")
def exact_order(features: Tensor) -> Tensor:
    """The order in which `exact_filter` takes points (B, d, N) in Triton, for several filters: (B, N), or (B, 0)."""
    if _in_triton(features):
        from crfrnn.torch.gpu import triton_exact

        return triton_exact.order(features)
    return _no_order(features)


@operator("(Tensor values, Tensor features, int? threads, Tensor? order=None) -> Tensor")
def exact_filter(values: Tensor, features: Tensor, threads: int | None, order: Tensor | None = None) -> Tensor:
    """K v for values (B, C, N) under features (B, d, N), float32 or float64: K[i, j] = exp(-½ |f_i - f_j|²).

    Differentiable to values as often as needed, to features once.

    Args:
        order: What `exact_order` returns for these features; None works it out.
    """
    if values.device.type == "cpu":
        count = torch.get_num_threads() if threads is None else threads
        return torch.from_numpy(batch.exact_filtered(values.detach().numpy(), features.detach().numpy(), count))
    if _in_triton(values):
        from crfrnn.torch.gpu import triton_exact

        return triton_exact.exact_filter(values, features, order)
    return filter_in_blocks(values, features)


@operator("(Tensor cotangent, Tensor values, Tensor features) -> (Tensor, Tensor)")
def exact_filter_vjp(cotangent: Tensor, values: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ⟨cotangent, K v⟩ to values and features, in blocks that are computed again.

    With S[i, j] = K[i, j] (g_i·v_j + g_j·v_i), ∂f_i = Σ_j S[i, j] (f_j - f_i).
    """
    to_values, to_features = torch.zeros_like(values), torch.zeros_like(features)
    # Differences do not feel the mean, but the sums below are rounded.
    centred = features - features.mean(dim=2, keepdim=True)
    with full_precision(values.device):
        for i, j in _blocks(features):
            weights = _weights(features[:, :, i], features[:, :, j])
            to_values[:, :, i] += cotangent[:, :, j] @ weights.mT
            weights *= cotangent[:, :, i].mT @ values[:, :, j] + values[:, :, i].mT @ cotangent[:, :, j]
            to_features[:, :, i] += centred[:, :, j] @ weights.mT - centred[:, :, i] * weights.sum(dim=2)[:, None]
    return to_values, to_features


def filter_in_blocks(values: Tensor, features: Tensor) -> Tensor:
    """`exact_filter` in plain torch: the weights between some points and some others at a time."""
    result = torch.zeros_like(values)
    with full_precision(values.device):
        for i, j in _blocks(features):
            result[:, :, i] += values[:, :, j] @ _weights(features[:, :, i], features[:, :, j]).mT
    return result


@exact_order.fake
def _(features: Tensor) -> Tensor:
    points = features.shape[2]
    return features.new_empty(len(features), points, dtype=torch.int64) if _in_triton(features) else _no_order(features)


@exact_filter.fake
def _(values: Tensor, *_: Any) -> Tensor:
    return values.new_empty(values.shape)


@exact_filter_vjp.fake
def _(cotangent: Tensor, values: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    return values.new_empty(values.shape), features.new_empty(features.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, features, ctx.threads, order = inputs
    ctx.save_for_backward(values if features.requires_grad else None, features, order)


def _backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    values, features, order = ctx.saved_tensors
    if ctx.needs_input_grad[1]:
        return *exact_filter_vjp(cotangent.contiguous(), values, features), None, None
    return exact_filter(cotangent.contiguous(), features, ctx.threads, order), None, None, None


def _no_second_order(ctx: Any, *cotangents: Tensor) -> None:
    raise NotImplementedError(
        "the gradient of an exact filter to its features cannot be differentiated again; for second derivatives to "
        "scores and weights, pass image, features and θ without gradient: .detach()"
    )


exact_filter.differentiate(_backward, _save)
exact_filter_vjp.differentiate(_no_second_order)


def _in_triton(given: Tensor) -> bool:
    return given.device.type != "cpu" and given.dtype == torch.float32 and steps_of(given.device) is not plain


def _no_order(features: Tensor) -> Tensor:
    return features.new_empty(len(features), 0, dtype=torch.int64)


def _weights(rows: Tensor, columns: Tensor) -> Tensor:
    """K between points (B, d, R) and (B, d, N), (B, R, N); differences first, so that nothing cancels."""
    exponent = rows.new_zeros(len(rows), rows.shape[2], columns.shape[2])
    for row, column in zip(rows.unbind(1), columns.unbind(1), strict=True):
        difference = row[:, :, None] - column[:, None]
        exponent.addcmul_(difference, difference, value=-0.5)
    return exponent.exp_()


def _blocks(features: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of every block of K."""
    images, _, points = features.shape
    side = max(1, math.isqrt((CPU_BLOCK if features.device.type == "cpu" else BLOCK) // images))
    parts = [slice(start, start + side) for start in range(0, points, side)]
    return product(parts, parts)


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Autocast turned off: it would compute products in 16 bits."""
    return torch.autocast(device.type, enabled=False)
