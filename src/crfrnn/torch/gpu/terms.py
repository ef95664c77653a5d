"""The kernels of a batch of images, normalised."""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from crfrnn import crf as specification
from crfrnn.crf import CRF, EPSILON, Features
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.torch.features import Thetas, axis_thetas, feature_columns, thetas_in_pixels
from crfrnn.torch.gpu.grid import Grid, build_grid
from crfrnn.torch.gpu.lattice import Lattice, build_lattice

Kernel = TypeVar("Kernel", bound=Grid | Lattice)


class Term(NamedTuple, Generic[Kernel]):
    """A normalised kernel, diag(post) K diag(pre) (docs/algorithm.md, eq. 5). Factors are (P,), None for ones.

    Attributes:
        normalization: "after", "before", "symmetric" or "none", by which the factors come from the next two.
        mask: (P,), None for ones.
        norm: K m + ε, (P,); None where nothing is divided by it.
    """

    kernel: Kernel
    pre: Tensor | None
    post: Tensor | None
    normalization: str
    mask: Tensor | None
    norm: Tensor | None

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
    thetas = thetas_in_pixels(crf, inputs)
    terms = []
    for kernel in kernels_in_pixels(crf, inputs):
        built: Grid | Lattice
        if isinstance(kernel.filter, specification.Grid):
            sigmas = axis_thetas(kernel.features, "theta_gamma", inputs, thetas)[::-1]
            built = build_grid(shape, sigmas, dtype, device, steps)
        else:
            rows = feature_rows(kernel.features, inputs, thetas, dtype)
            rounds = kernel.filter.neighbour_rounds  # type: ignore[union-attr]
            order = fixed_order(execution.deterministic)
            built = build_lattice(rows, images, shape[-1], steps, rounds, order, execution.count_vertices)
        terms.append(normalised(built, kernel.normalization, factors, points, dtype, device, steps))
    return terms


def kernels_in_pixels(crf: CRF, inputs: Inputs) -> Sequence[specification.Kernel]:
    """The kernels, with deviations of positions in pixels."""
    return crf.kernels if inputs.spacing is None else crf.in_pixels(inputs.spacing, inputs.logits.ndim - 2).kernels


def feature_rows(features: Features, inputs: Inputs, thetas: Thetas, dtype: torch.dtype) -> Tensor:
    """Features (d, P), which a lattice is built from."""
    columns = feature_columns(features, inputs, thetas, dtype)
    return torch.stack(columns).view(len(columns), -1)


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
        return Term(kernel, mask, mask, normalization, mask, None)
    sent = torch.ones(points, dtype=dtype, device=device) if mask is None else mask
    norm = kernel.filter(sent[:, None], None, None, False, steps)[:, 0] + EPSILON
    divided = sent / (norm.sqrt() if normalization == "symmetric" else norm)
    pre = mask if normalization == "after" else divided
    post = mask if normalization == "before" else divided
    return Term(kernel, pre, post, normalization, mask, norm)


def mask_factors(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as (P,) factors; weights below 0, which the CPU reports, are NaN."""
    factors = mask.to(dtype).reshape(-1)
    return torch.where(factors >= 0, factors, torch.nan)
