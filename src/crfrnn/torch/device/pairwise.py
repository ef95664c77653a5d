"""The two kernels of a batch of images, normalised, and how tensors become rows of points and back."""

from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from crfrnn.batch import Settings
from crfrnn.pairwise import EPSILON
from crfrnn.parameters import per_axis
from crfrnn.torch.device.grid import Grid, build_grid
from crfrnn.torch.device.lattice import Lattice, build_lattice

Kernel = TypeVar("Kernel", bound=Grid | Lattice)


class Term(NamedTuple, Generic[Kernel]):
    """A normalised kernel, diag(post) K diag(pre) (docs/algorithm.md, eq. 5). Factors are (P,), None for ones."""

    kernel: Kernel
    pre: Tensor | None
    post: Tensor | None

    def filter(self, rows: Tensor, transpose: bool, steps: ModuleType) -> Tensor:
        """N rows, or Nᵀ rows."""
        before, after = (self.post, self.pre) if transpose else (self.pre, self.post)
        return self.kernel.filter(rows, before, after, transpose, steps)


def pairwise_terms(
    image: Tensor, mask: Tensor | None, settings: Settings, dtype: torch.dtype, steps: ModuleType
) -> tuple[Term[Grid | Lattice], Term[Lattice]]:
    """The spatial and the bilateral term.

    Args:
        image: (B, K, *spatial), real.
        mask: (B, *spatial) weights of the pixels.
        dtype: float32 or float64, to compute in.
    """
    images, channels, *shape = image.shape
    device = image.device
    alphas = per_axis(settings.theta_alpha, len(shape), "theta_alpha", "spatial axes")
    betas = per_axis(settings.theta_beta, channels, "theta_beta", "image channels")
    gammas = per_axis(settings.theta_gamma, len(shape), "theta_gamma", "spatial axes")
    lattice = partial(
        build_lattice,
        images=images,
        steps=steps,
        neighbour_rounds=settings.neighbour_rounds,
        deterministic=fixed_order(settings.deterministic),
    )
    spatial: Grid | Lattice
    if settings.spatial == "lattice":
        spatial = lattice(torch.stack(_coordinates(images, shape, gammas, dtype, device)))
    else:
        spatial = build_grid(shape, gammas[::-1], dtype, device)
    features = _coordinates(images, shape, alphas, dtype, device)
    given = image if image.dtype == torch.float64 else image.to(dtype)
    for channel, theta in enumerate(betas):
        features.append(_divided(given[:, channel], theta, dtype).reshape(-1))
    bilateral = lattice(torch.stack(features))
    factors = None if mask is None else mask_factors(mask, dtype)
    points = len(features[0])
    return (
        normalised(spatial, settings.normalization, factors, points, dtype, device, steps),
        normalised(bilateral, settings.normalization, factors, points, dtype, device, steps),
    )


def fixed_order(deterministic: bool) -> bool:
    """Whether sums must have a fixed order: if asked for here, or of all of torch."""
    return deterministic or torch.are_deterministic_algorithms_enabled()


def normalised(
    kernel: Kernel,
    normalization: str,
    mask: Tensor | None,
    points: int,
    dtype: torch.dtype,
    device: torch.device,
    steps: ModuleType,
) -> Term[Kernel]:
    """The kernel under "after", "before", "symmetric" or "none"; mask (P,) or None."""
    if normalization == "none":
        return Term(kernel, mask, mask)
    sent = torch.ones(points, dtype=dtype, device=device) if mask is None else mask
    norm = kernel.filter(sent[:, None], None, None, False, steps)[:, 0] + EPSILON
    if normalization == "symmetric":
        root = sent / norm.sqrt()
        return Term(kernel, root, root)
    divided = sent / norm
    return Term(kernel, mask, divided) if normalization == "after" else Term(kernel, divided, mask)


def mask_factors(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as (P,) factors; weights below 0, which the CPU reports, are NaN."""
    factors = mask.to(dtype).reshape(-1)
    return torch.where(factors >= 0, factors, torch.nan)


def rows_of(planes: Tensor, channels: int, padding: float) -> Tensor:
    """(B, C, *spatial) as contiguous rows (P, channels)."""
    classes = planes.shape[1]
    points = planes.movedim(1, -1)
    rows = planes.new_full((*points.shape[:-1], channels), padding)
    rows[..., :classes] = points
    return rows.view(-1, channels)


def planes_of(rows: Tensor, like: Tensor) -> Tensor:
    """Rows back as (B, C, *spatial), in shape and memory layout like another tensor."""
    images, classes, *spatial = like.shape
    planes = torch.empty_like(like)
    return planes.copy_(rows.view(images, *spatial, -1)[..., :classes].movedim(-1, 1))


def padded_channels(channels: int) -> int:
    """1, 2, 4, 8, 16, 24, …: rows stay aligned."""
    return channels if channels <= 2 else 4 if channels <= 4 else -(-channels // 8) * 8


def _coordinates(
    images: int, shape: Sequence[int], thetas: Sequence[float], dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """x/θ, y/θ, … of all points, (P,) each."""
    columns = []
    for axis, theta in enumerate(thetas):
        position = torch.arange(shape[-1 - axis], dtype=dtype, device=device)
        column = _divided(position, theta, dtype).reshape(-1, *(1,) * axis)
        columns.append(column.expand(images, *shape).reshape(-1))
    return columns


def _divided(values: Tensor, theta: float, dtype: torch.dtype) -> Tensor:
    """values / θ, rounded once: a GPU multiplies by the reciprocal of a Python number."""
    return (values / torch.full((), theta, dtype=dtype, device=values.device)).to(dtype)
