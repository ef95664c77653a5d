"""The kernels of a batch of images, normalised, and how tensors become rows of points and back."""

import math
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from crfrnn import crf as specification
from crfrnn.crf import CRF, EPSILON, Spatial
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.torch.features import axis_thetas, feature_columns
from crfrnn.torch.gpu.grid import Grid, build_grid
from crfrnn.torch.gpu.lattice import Lattice, build_lattice

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


def build_terms(
    crf: CRF, inputs: Inputs, dtype: torch.dtype, execution: Execution, steps: ModuleType
) -> list[Term[Any]]:
    """The term of every kernel.

    Args:
        dtype: float32 or float64, to compute in.
    """
    images, _, *shape = inputs.logits.shape
    device = inputs.logits.device
    points = images * math.prod(shape)
    factors = None if inputs.mask is None else mask_factors(inputs.mask, dtype)
    in_pixels = crf if inputs.spacing is None else crf.in_pixels(inputs.spacing, len(shape))
    terms = []
    for kernel in in_pixels.kernels:
        built: Grid | Lattice
        if isinstance(kernel.features, Spatial) and isinstance(kernel.filter, specification.Grid):
            built = build_grid(shape, axis_thetas(kernel.features, "theta_gamma", inputs, {})[::-1], dtype, device)
        else:
            columns = feature_columns(kernel.features, inputs, {}, dtype)
            rounds = kernel.filter.neighbour_rounds  # type: ignore[union-attr]
            rows = torch.stack(columns).view(len(columns), -1)
            built = build_lattice(rows, images, steps, rounds, fixed_order(execution.deterministic))
        terms.append(normalised(built, kernel.normalization, factors, points, dtype, device, steps))
    return terms


def fixed_order(deterministic: bool) -> bool:
    """Whether sums must have a fixed order, asked for here or for all of torch."""
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
