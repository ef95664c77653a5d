"""The CRF in operations of torch as a backend: autograd computes gradients to all inputs.

Gradients go to scores, weights, mask, image, features, memberships of regions and θ.
A kernel may be any function of tensors. Every operation keeps what its gradient needs, so memory grows with the
iterations.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from crfrnn.arrays import MAGNITUDES, check_finite, check_result, mask_array, region_array
from crfrnn.crf import CRF, CUTOFF, EPSILON, Exact, FrankWolfe, Given, Grid, Kernel, Lattice, MeanField
from crfrnn.inference.backend import Ability, Execution, Inputs
from crfrnn.torch import ops
from crfrnn.torch.coupling import couple
from crfrnn.torch.exact_filter import exact_filter, exact_order, full_precision
from crfrnn.torch.features import axis_thetas, feature_columns
from crfrnn.torch.frankwolfe import frank_wolfe
from crfrnn.torch.gpu.grid import NARROW, at_least_narrow
from crfrnn.torch.implicit import mean_field_at_fixed_point
from crfrnn.torch.plausibility import readable
from crfrnn.torch.regions import region_filter

Filter = Callable[[Tensor], Tensor]
OFFERS = frozenset(
    {
        Ability.GRID,
        Ability.LATTICE,
        Ability.EXACT,
        Ability.REGIONS,
        Ability.OWN_KERNEL,
        Ability.IMPLICIT_GRADIENT,
        Ability.GRADIENT_TO_GUIDE,
        Ability.GRADIENT_TO_GUIDE_BESIDE_REGIONS,
    }
)


def forward(crf: CRF, inputs: Inputs, couplings: Sequence[Tensor], execution: Execution) -> Tensor:
    """Logits after the last iteration.

    Args:
        inputs: Without a spacing. The value of θ_γ is read to find where its Gaussian is cut.
    Raises: ValueError: on the CPU, if scores, image or mask are not finite, or a mask is below 0.
    """
    check_values({"logits": inputs.logits, "image": inputs.image}, inputs.mask)
    _check_segments(crf, inputs)
    logits, mask = inputs.logits, inputs.mask
    with full_precision(logits.device):
        filters: list[Filter] = [*normalised_filters(crf, inputs, execution)]
        filters += [region_filter(inputs.given[regions.name], regions.order, mask, logits) for regions in crf.regions]
        refined: Tensor = SOLVERS[type(crf.solver)](crf.solver, logits, filters, couplings)
    check_outcome(refined, "scores")
    return refined


def normalised_filters(crf: CRF, inputs: Inputs, execution: Execution) -> list["Normalised"]:
    """N of each kernel for inputs as `forward` takes them; each is built once, here."""
    scores, mask = inputs.logits, inputs.mask
    sent = scores.new_ones(len(scores), 1, *scores.shape[2:]) if mask is None else mask.to(scores.dtype)[:, None]
    return [_normalised(*_filter(kernel, inputs, execution), sent, kernel.normalization) for kernel in crf.kernels]


def gaussian_filter(
    values: Tensor,
    features: Tensor,
    mask: Tensor | None,
    normalization: str,
    filter: Exact | Lattice,
    execution: Execution,
) -> Tensor:
    """Values (B, C, *spatial) under the normalised filter of features (B, d, *spatial) of the same dtype."""
    check_values({"values": values, "features": features}, mask)
    with full_precision(values.device):
        sent = values.new_ones(len(values), 1, *values.shape[2:]) if mask is None else mask.to(values.dtype)[:, None]
        filtered = _normalised(*of_features(filter, features, execution), sent, normalization)(values)
    check_outcome(filtered, "filtered values", "values or mask")
    return filtered


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
        width = at_least_narrow(sigma) if isinstance(sigma, Tensor) else max(sigma, NARROW)
        taps = torch.exp(-0.5 * (step / width) ** 2)
        padded = pad(values, [0, 0] * after + [radius, radius])
        values = torch.zeros_like(values)
        for start, tap in enumerate(taps.unbind()):
            values = torch.addcmul(values, padded.narrow(axis, start, length), tap)
    return values


def _mean_field(solver: MeanField, logits: Tensor, filters: Sequence[Filter], couplings: Sequence[Tensor]) -> Tensor:
    """docs/algorithm.md, eq. 4."""

    def update(scores: Tensor) -> Tensor:
        """The logits that an iteration finds, before damping."""
        q = torch.softmax(scores, dim=1)
        received = logits
        for coupling, filtered in zip(couplings, filters, strict=True):
            received = received - couple(coupling, filtered(q))
        return received

    implicit = solver.gradient == "implicit" and torch.is_grad_enabled()
    scores = logits
    with torch.set_grad_enabled(torch.is_grad_enabled() and not implicit):
        for _ in range(solver.iterations):
            received = update(scores)
            scores = torch.lerp(received, scores, solver.damping) if solver.damping else received
    return mean_field_at_fixed_point(solver, scores, update) if implicit else scores


SOLVERS: dict[type, Any] = {MeanField: _mean_field, FrankWolfe: frank_wolfe}


@dataclass(frozen=True)
class Normalised:
    """N = diag(post) K diag(pre) (docs/algorithm.md, eq. 5) as a function of values, with factors (B, 1, *spatial).

    Attributes:
        back: By Kᵀ; the kernel itself if that is known to be symmetric.
    """

    kernel: Filter
    back: Filter
    pre: Tensor
    post: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        return self.post * self.kernel(self.pre * values)

    def transposed(self, values: Tensor) -> Tensor:
        """Nᵀ values."""
        return self.pre * self.back(self.post * values)

    @property
    def symmetric(self) -> bool:
        """Whether N is known to be its own transpose."""
        return self.kernel is self.back and self.pre is self.post


def _filter(kernel: Kernel, inputs: Inputs, execution: Execution) -> tuple[Filter, Filter]:
    """K v and Kᵀ v as functions of values (B, C, *spatial); the same one for both if K is symmetric."""
    dtype = inputs.logits.dtype
    if isinstance(kernel.features, Given) and not isinstance(inputs.given[kernel.features.name], Tensor):
        own = partial(_own, kernel=inputs.given[kernel.features.name], name=kernel.features.name)
        return own, partial(_transposed, kernel=own)
    if isinstance(kernel.filter, Grid):
        sigmas = axis_thetas(kernel.features, "theta_gamma", inputs, inputs.thetas)
        grid = partial(grid_filter, sigmas=sigmas[::-1])
        return grid, grid
    features = torch.stack(feature_columns(kernel.features, inputs, inputs.thetas, dtype), dim=1)
    return of_features(kernel.filter, features, execution)  # type: ignore[arg-type]


def of_features(filter: Exact | Lattice, features: Tensor, execution: Execution) -> tuple[Filter, Filter]:
    """The same for features (B, d, *spatial)."""
    if isinstance(filter, Exact):
        points = features.flatten(2).contiguous()
        exact = partial(_exact, features=points, order=exact_order(points.detach()), threads=execution.threads)
        return exact, exact
    settings = None, "none", filter.neighbour_rounds, execution.deterministic, execution.threads
    handle = ops.lattice(features.detach(), *settings)

    def filtered(values: Tensor, transpose: bool) -> Tensor:
        result: Tensor = ops.gaussian_filter(values, handle, transpose, features, *settings)
        return result

    return partial(filtered, transpose=False), partial(filtered, transpose=True)


def _own(values: Tensor, kernel: Callable[[Tensor], Tensor], name: str) -> Tensor:
    """K v by a caller's function."""
    filtered = kernel(values)
    if not isinstance(filtered, Tensor) or filtered.shape != values.shape:
        got = tuple(filtered.shape) if isinstance(filtered, Tensor) else f"a {type(filtered).__name__}"
        raise ValueError(
            f"given[{name!r}] turned shape {tuple(values.shape)} into {got}; expected a tensor of the same shape"
        )
    return filtered.to(values.dtype)


def _transposed(values: Tensor, kernel: Filter) -> Tensor:
    """Kᵀ v of a linear function v ↦ K v, by its derivative."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        start = torch.zeros_like(values, requires_grad=True)
        (found,) = torch.autograd.grad(kernel(start), start, values, create_graph=differentiable)
    return found


def _exact(values: Tensor, features: Tensor, order: Tensor, threads: int | None) -> Tensor:
    """K v for (B, C, *spatial) values and (B, d, N) features."""
    filtered: Tensor = exact_filter(values.flatten(2).contiguous(), features, threads, order)
    return filtered.view(values.shape)


def _normalised(kernel: Filter, back: Filter, mask: Tensor, normalization: str) -> Normalised:
    """N of K and Kᵀ for a mask (B, 1, *spatial)."""
    pre = post = mask
    if normalization != "none":
        norm = kernel(mask) + EPSILON
        if normalization == "after":
            post = mask / norm
        elif normalization == "before":
            pre = mask / norm
        else:
            pre = post = mask / norm.sqrt()
    return Normalised(kernel, back, pre, post)


def _check_segments(crf: CRF, inputs: Inputs) -> None:
    """The same for segments of regions."""
    if torch.compiler.is_compiling() or inputs.logits.device.type != "cpu":
        return
    for name in crf.region_names:
        for index, item in enumerate(inputs.given[name].detach().numpy()):
            region_array(item, f"given[{name!r}][{index}]", tuple(inputs.logits.shape[2:]))


def check_outcome(result: Tensor, what: str, causes: str = MAGNITUDES) -> None:
    """`check_result` where `check_values` looks."""
    if not torch.compiler.is_compiling():
        numbers = readable(result)
        if numbers is not None:
            check_result(numbers, what, causes)


def check_values(tensors: dict[str, Tensor | None], mask: Tensor | None) -> None:
    """Refuse on the CPU what the native core refuses. Elsewhere a check would wait for the device; NaN stays NaN."""
    there = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if torch.compiler.is_compiling() or next(iter(there.values())).device.type != "cpu":
        return
    for name, tensor in there.items():
        for index, item in enumerate(tensor.detach().numpy()):
            check_finite(item, f"{name}[{index}]")
    if mask is not None:
        mask_array(mask.detach().numpy().reshape(-1), (mask.numel(),))
