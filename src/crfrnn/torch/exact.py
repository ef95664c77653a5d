"""The dense CRF with exact Gaussian filters, differentiable to all it is given: scores, weights, mask, image and θ.

Every pair of points counts: O(N²) time, O(N) memory. The filter K v is the operator `exact_filter`: native on the CPU,
in Triton on a GPU in float32, in blocks of plain torch elsewhere. Autograd does the rest.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from crfrnn import batch
from crfrnn.arrays import check_finite, mask_array
from crfrnn.batch import Settings
from crfrnn.grid import CUTOFF
from crfrnn.pairwise import EPSILON
from crfrnn.parameters import for_each
from crfrnn.torch.device import steps_of, twin

Kernel = Callable[[Tensor], Tensor]
# Weights in memory at once, for all images: what stays in a CPU's cache, and 64 MiB of float32 elsewhere.
CPU_BLOCK, BLOCK = 2**18, 2**24


def mean_field(
    logits: Tensor,
    image: Tensor,
    mask: Tensor | None,
    couplings: Sequence[Tensor],
    settings: Settings,
) -> Tensor:
    """Logits after the last iteration (docs/algorithm.md, eq. 4).

    Args:
        logits: (B, C, *spatial), float32 or float64, like the result.
        image: (B, K, *spatial), real, on the same device.
        mask: (B, *spatial) weights ≥ 0.
        couplings: E of the spatial and of the bilateral kernel: (), (C,) or (C, C).
        settings: A θ may hold tensors of one number; that of θ_γ is read to know where its Gaussian is cut.
    Raises: ValueError: on the CPU, if scores, image or mask are not finite, or a mask is below 0.
    """
    _, _, *shape = logits.shape
    alphas = for_each(settings.theta_alpha, len(shape), "theta_alpha", "spatial axes")
    betas = for_each(settings.theta_beta, image.shape[1], "theta_beta", "image channels")
    gammas = for_each(settings.theta_gamma, len(shape), "theta_gamma", "spatial axes")
    _check_values({"logits": logits, "image": image}, mask)
    with _full_precision(logits.device):
        sent = logits.new_ones(len(logits), 1, *shape) if mask is None else mask.to(logits.dtype)[:, None]
        kernels: list[Kernel] = [
            partial(grid_filter, sigmas=gammas[::-1]),
            partial(_filter, features=_features(image.to(logits.dtype), alphas, betas), threads=settings.threads),
        ]
        filters = [_normalised(kernel, sent, settings.normalization) for kernel in kernels]
        scores = logits
        for _ in range(settings.iterations):
            q = torch.softmax(scores, dim=1)
            received = logits
            for coupling, filtered in zip(couplings, filters, strict=True):
                received = received - _couple(coupling, filtered(q))
            scores = torch.lerp(received, scores, settings.damping) if settings.damping else received
    return scores


def gaussian_filter(
    values: Tensor, features: Tensor, mask: Tensor | None, normalization: str, threads: int | None
) -> Tensor:
    """Values (B, C, *spatial) under the normalised filter of features (B, d, *spatial) of the same dtype."""
    _check_values({"values": values, "features": features}, mask)
    with _full_precision(values.device):
        sent = values.new_ones(len(values), 1, *values.shape[2:]) if mask is None else mask.to(values.dtype)[:, None]
        return _normalised(partial(_filter, features=features, threads=threads), sent, normalization)(values)


def grid_filter(values: Tensor, sigmas: Sequence[Any]) -> Tensor:
    """The Gaussian on the grid of values (B, C, *spatial), σ points along each axis (docs/algorithm.md, eq. 10).

    Args:
        sigmas: A number, or a tensor of one, for each axis.
    """
    for axis, sigma in enumerate(sigmas, start=2):
        length, after = values.shape[axis], values.ndim - 1 - axis
        reach = CUTOFF * abs(float(sigma.detach() if isinstance(sigma, Tensor) else sigma))
        radius = min(math.ceil(reach), length - 1)
        step = torch.arange(-radius, radius + 1, dtype=values.dtype, device=values.device)
        taps = torch.exp(-0.5 * (step / sigma) ** 2)
        padded = pad(values, [0, 0] * after + [radius, radius])
        values = torch.zeros_like(values)
        for start, tap in enumerate(taps.unbind()):
            values = torch.addcmul(values, padded.narrow(axis, start, length), tap)
    return values


@torch.library.custom_op(
    "crfrnn::exact_filter", mutates_args=(), schema="(Tensor values, Tensor features, int? threads) -> Tensor"
)
def exact_filter(values: Tensor, features: Tensor, threads: int | None) -> Tensor:
    """K v for values (B, C, N) under features (B, d, N), float32 or float64: K[i, j] = exp(-½ |f_i - f_j|²).

    Differentiable to values as often as needed, to features once.
    """
    if values.device.type == "cpu":
        count = torch.get_num_threads() if threads is None else threads
        return torch.from_numpy(batch.exact_filtered(values.detach().numpy(), features.detach().numpy(), count))
    if values.dtype == torch.float32 and steps_of(values.device) is not twin:
        from crfrnn.torch import exact_triton

        return exact_triton.exact_filter(values, features)
    return filter_in_blocks(values, features)


@torch.library.custom_op(
    "crfrnn::exact_filter_vjp",
    mutates_args=(),
    schema="(Tensor cotangent, Tensor values, Tensor features) -> (Tensor, Tensor)",
)
def exact_filter_vjp(cotangent: Tensor, values: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ⟨cotangent, K v⟩ to values and features, in blocks that are computed once more.

    With S[i, j] = K[i, j] (g_i·v_j + g_j·v_i), ∂f_i = Σ_j S[i, j] (f_j - f_i).
    """
    to_values, to_features = torch.zeros_like(values), torch.zeros_like(features)
    # Differences do not feel the mean, but the sums below are rounded.
    centred = features - features.mean(dim=2, keepdim=True)
    with _full_precision(values.device):
        for i, j in _blocks(features):
            weights = _weights(features[:, :, i], features[:, :, j])
            to_values[:, :, i] += cotangent[:, :, j] @ weights.mT
            weights *= cotangent[:, :, i].mT @ values[:, :, j] + values[:, :, i].mT @ cotangent[:, :, j]
            to_features[:, :, i] += centred[:, :, j] @ weights.mT - centred[:, :, i] * weights.sum(dim=2)[:, None]
    return to_values, to_features


def filter_in_blocks(values: Tensor, features: Tensor) -> Tensor:
    """`exact_filter` in plain torch: the weights between some points and some others at a time."""
    result = torch.zeros_like(values)
    with _full_precision(values.device):
        for i, j in _blocks(features):
            result[:, :, i] += values[:, :, j] @ _weights(features[:, :, i], features[:, :, j]).mT
    return result


@exact_filter.register_fake
def _(values: Tensor, *_: Any) -> Tensor:
    return values.new_empty(values.shape)


@exact_filter_vjp.register_fake
def _(cotangent: Tensor, values: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    return values.new_empty(values.shape), features.new_empty(features.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, features, ctx.threads = inputs
    ctx.save_for_backward(values if features.requires_grad else None, features)


def _backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    values, features = ctx.saved_tensors
    if ctx.needs_input_grad[1]:
        return *exact_filter_vjp(cotangent.contiguous(), values, features), None
    return exact_filter(cotangent.contiguous(), features, ctx.threads), None, None


def _no_second_order(ctx: Any, *cotangents: Tensor) -> None:
    raise NotImplementedError(
        "the gradient of an exact filter to its features cannot be differentiated again; for second derivatives to "
        "scores and weights, pass image, features and θ without gradient: .detach()"
    )


exact_filter.register_autograd(_backward, setup_context=_save)
exact_filter_vjp.register_autograd(_no_second_order)


def _filter(values: Tensor, features: Tensor, threads: int | None) -> Tensor:
    """K v for (B, C, *spatial) values and (B, d, *spatial) features."""
    filtered: Tensor = exact_filter(values.flatten(2).contiguous(), features.flatten(2).contiguous(), threads)
    return filtered.view(values.shape)


def _normalised(kernel: Kernel, mask: Tensor, normalization: str) -> Kernel:
    """v ↦ diag(post) K diag(pre) v (docs/algorithm.md, eq. 5) for a mask (B, 1, *spatial)."""
    pre = post = mask
    if normalization != "none":
        norm = kernel(mask) + EPSILON
        if normalization == "after":
            post = mask / norm
        elif normalization == "before":
            pre = mask / norm
        else:
            pre = post = mask / norm.sqrt()
    return lambda values: post * kernel(pre * values)


def _features(image: Tensor, alphas: Sequence[Any], betas: Sequence[Any]) -> Tensor:
    """(B, axes + K, *spatial): x/θ_α, y/θ_α, …, then c/θ_β (docs/algorithm.md, eq. 3)."""
    _, _, *shape = image.shape
    columns = []
    for axis, theta in enumerate(alphas):
        position = torch.arange(shape[-1 - axis], dtype=image.dtype, device=image.device) / theta
        columns.append(position.view(-1, *(1,) * axis).expand(len(image), *shape))
    columns += [channel / theta for channel, theta in zip(image.unbind(1), betas, strict=True)]
    return torch.stack(columns, dim=1)


def _couple(coupling: Tensor, message: Tensor) -> Tensor:
    if coupling.ndim == 2:
        return (coupling @ message.flatten(2)).view(message.shape)
    return coupling.view(-1, *(1,) * (message.ndim - 2)) * message


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


def _full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Autocast would take products down to 16 bits."""
    return torch.autocast(device.type, enabled=False)


def _check_values(tensors: dict[str, Tensor], mask: Tensor | None) -> None:
    """On the CPU, what the native core refuses; elsewhere looking would wait for the device, and NaN makes NaN."""
    if torch.compiler.is_compiling() or next(iter(tensors.values())).device.type != "cpu":
        return
    for name, tensor in tensors.items():
        for index, item in enumerate(tensor.detach().numpy()):
            check_finite(item, f"{name}[{index}]")
    if mask is not None:
        mask_array(mask.detach().numpy().reshape(-1), (mask.numel(),))
