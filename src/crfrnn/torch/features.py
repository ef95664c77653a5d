"""Feature columns of points as tensors (docs/algorithm.md, eq. 3), differentiable to image, given features and θ."""

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf import CRF, Bilateral, Features, Given, Spatial
from crfrnn.inference.backend import Inputs
from crfrnn.numbers import for_each, in_pixels

Thetas = Mapping[str, Any]
"""By name: a tensor (n,) or a tuple, one number or one for each axis or channel, in the specification's place."""


@singledispatch
def feature_columns(features: Features, inputs: Inputs, thetas: Thetas, dtype: torch.dtype) -> list[Tensor]:
    """A tensor (B, *spatial) of `dtype` for each feature; deviations of positions are in pixels."""
    raise TypeError(f"features are a {type(features).__name__}, which this backend cannot turn into columns")


@feature_columns.register
def _(features: Spatial, inputs: Inputs, thetas: Thetas, dtype: torch.dtype) -> list[Tensor]:
    return _coordinates(inputs.logits, axis_thetas(features, "theta_gamma", inputs, thetas), dtype)


@feature_columns.register
def _(features: Bilateral, inputs: Inputs, thetas: Thetas, dtype: torch.dtype) -> list[Tensor]:
    image = inputs.image
    columns = _coordinates(inputs.logits, axis_thetas(features, "theta_alpha", inputs, thetas), dtype)
    levels = channel_thetas(features, image, thetas)
    colours = image if image.dtype == torch.float64 else image.to(dtype)
    return columns + [_divided(channel, theta, dtype) for channel, theta in zip(colours.unbind(1), levels, strict=True)]


@feature_columns.register
def _(features: Given, inputs: Inputs, thetas: Thetas, dtype: torch.dtype) -> list[Tensor]:
    return list(inputs.given[features.name].to(dtype).unbind(1))


@singledispatch
def feature_gradients(
    features: Features, inputs: Inputs, thetas: Thetas, rows: Tensor, to_rows: Tensor
) -> dict[tuple[str, str], Tensor]:
    """Gradients to what `feature_columns` are made of, from those to the columns.

    Args:
        rows: (d, P), the columns; to_rows too.
    Returns: By kind and name: ("image", ""): (B, K, *spatial); ("given", name): (B, d, *spatial); ("thetas", name), of
        those in `thetas`: one for each axis or channel.
    """
    raise TypeError(f"features are a {type(features).__name__}, through which this backend computes no gradient")


@feature_gradients.register
def _(
    features: Spatial, inputs: Inputs, thetas: Thetas, rows: Tensor, to_rows: Tensor
) -> dict[tuple[str, str], Tensor]:
    return _theta_gradient("theta_gamma", thetas, rows, to_rows)


@feature_gradients.register
def _(
    features: Bilateral, inputs: Inputs, thetas: Thetas, rows: Tensor, to_rows: Tensor
) -> dict[tuple[str, str], Tensor]:
    axes = inputs.logits.ndim - 2
    levels = channel_thetas(features, inputs.image, thetas)
    to_image = [gradient / theta for gradient, theta in zip(to_rows[axes:].unbind(), levels, strict=True)]
    return {
        **_theta_gradient("theta_alpha", thetas, rows[:axes], to_rows[:axes]),
        **_theta_gradient("theta_beta", thetas, rows[axes:], to_rows[axes:]),
        ("image", ""): planes_of_columns(torch.stack(to_image), inputs.logits),
    }


@feature_gradients.register
def _(features: Given, inputs: Inputs, thetas: Thetas, rows: Tensor, to_rows: Tensor) -> dict[tuple[str, str], Tensor]:
    return {("given", features.name): planes_of_columns(to_rows, inputs.logits)}


def planes_of_columns(columns: Tensor, scores: Tensor) -> Tensor:
    """(d, P) as (B, d, *spatial), for scores (B, C, *spatial)."""
    images, _, *shape = scores.shape
    return columns.view(-1, images, *shape).movedim(0, 1).contiguous()


def _theta_gradient(name: str, thetas: Thetas, rows: Tensor, to_rows: Tensor) -> dict[tuple[str, str], Tensor]:
    """One for each column: it is a number divided by θ, so ∂column/∂θ = -column/θ."""
    return {("thetas", name): -(rows * to_rows).sum(dim=1) / thetas[name].to(rows.dtype)} if name in thetas else {}


def thetas_in_pixels(crf: CRF, inputs: Inputs) -> dict[str, Tensor]:
    """The θ of the inputs; those of positions, given in the unit of the spacing, are in pixels."""
    axes, spacing = inputs.logits.ndim - 2, inputs.spacing
    positions = {name for kernel in crf.kernels for name in kernel.features.positions}
    thetas = dict(inputs.thetas)
    for name, theta in inputs.thetas.items():
        if spacing is not None and name in positions:
            scaled: Any = in_pixels(theta.unbind(), spacing, axes, name)
            thetas[name] = torch.stack(scaled)
    return thetas


def axis_thetas(features: Features, name: str, inputs: Inputs, thetas: Thetas) -> tuple[Any, ...]:
    """A deviation in pixels for each axis, (x, y[, z])."""
    return for_each(_given(features, name, thetas), inputs.logits.ndim - 2, name, "spatial axes")


def channel_thetas(features: Bilateral, image: Tensor, thetas: Thetas) -> list[Any]:
    """θ_β in the image's own levels, for each channel."""
    given = for_each(_given(features, "theta_beta", thetas), image.shape[1], "theta_beta", "image channels")
    return [theta * features.level for theta in given]


def _given(features: Features, name: str, thetas: Thetas) -> Sequence[Any]:
    theta = thetas[name] if name in thetas else getattr(features, name)
    if isinstance(theta, Tensor):
        return theta.unbind()
    return theta if isinstance(theta, tuple) else (theta,)


def _coordinates(scores: Tensor, thetas: Sequence[Any], dtype: torch.dtype) -> list[Tensor]:
    """x/θ, y/θ, … of all points of the scores, (B, *spatial) each."""
    images, _, *shape = scores.shape
    columns = []
    for axis, theta in enumerate(thetas):
        position = torch.arange(shape[-1 - axis], dtype=dtype, device=scores.device)
        column = _divided(position, theta, dtype).reshape(-1, *(1,) * axis)
        columns.append(column.expand(images, *shape))
    return columns


def _divided(values: Tensor, theta: Any, dtype: torch.dtype) -> Tensor:
    """values / θ, rounded once: a GPU multiplies by the reciprocal of a Python number."""
    if not isinstance(theta, Tensor):
        theta = torch.full((), min(theta, torch.finfo(dtype).max), dtype=dtype, device=values.device)
    quotient: Tensor = values / theta
    return quotient.to(dtype)
