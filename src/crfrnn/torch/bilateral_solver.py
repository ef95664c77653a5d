"""`crfrnn.bilateral_solver` of a batch of tensors on any device, with gradients (docs/algorithm.md, eq. 34 and 35)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crfrnn.arrays import check_finite
from crfrnn.bilateral_solver import NEAR, ROUNDS
from crfrnn.crf import Exact, Features, Lattice
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.kernels.build import check_specification
from crfrnn.numbers import finite_number, flag, proper_fraction, whole_number
from crfrnn.threads import thread_count
from crfrnn.torch.differentiable import of_features
from crfrnn.torch.exact_filter import full_precision
from crfrnn.torch.features import feature_columns
from crfrnn.torch.scene import check_beside, check_device, check_scores, check_tensor


def bilateral_solver(
    target: Tensor,
    confidence: Tensor,
    image: Tensor,
    features: Features = NEAR,
    filter: Lattice | Exact | None = None,
    *,
    smoothness: float = 128.0,
    iterations: int = 25,
    tolerance: float = 1e-5,
    deterministic: bool = True,
    threads: int | None = None,
) -> Tensor:
    """Values that are near the target where it is certain, and smooth along the image's edges everywhere.

    `crfrnn.bilateral_solver`, which has the equations. Nothing here waits for a GPU: every iteration is worked out, and
    channels that are solved stay as they are. Gradients go to target and confidence, once, by as many iterations on the
    way back; they take no notice of where values are held within the range of those with confidence.

    Args:
        target: t, (B, C, *spatial), with 1 to 3 spatial axes.
        confidence: c, (B, *spatial) of at least 0, with some above 0 in each image.
        image: (B, K, *spatial).
        features: `Bilateral`, with θ_α in pixels and θ_β in levels of the image; the default suits levels 0-255.
        filter: `Lattice()`, which None is too, or `Exact()`, over all pairs of pixels.
        smoothness: λ, above 0.
        iterations: Of conjugate gradients, two filters of the target each (one with `Exact()`).
        tolerance: A channel is solved where its residual is below this share of the right-hand side.
        deterministic: Give the same bits in every run, on a GPU too.
        threads: Threads to use on the CPU; None takes torch.get_num_threads().
    Returns: x, (B, C, *spatial) in the target's dtype; computed in float64 for float64 targets, else in float32.
    Raises:
        TypeError: if something is no tensor of real numbers, or features or filter are none of the above.
        ValueError: if shapes do not fit, values on the CPU are not finite, tensors are on several devices, or the image
            asks for a gradient.
    """
    check_scores("target", target)
    _check_confidence(confidence, target)
    check_beside("image", image, "target", target)
    if image.requires_grad and torch.is_grad_enabled():
        raise ValueError("there is no gradient to the image of a bilateral solver: pass it as image.detach()")
    strength, most = finite_number(smoothness, "smoothness"), whole_number(iterations, "iterations")
    error = proper_fraction(tolerance, "tolerance")
    dtype = torch.float64 if target.dtype == torch.float64 else torch.float32
    if not 0 < strength <= torch.finfo(dtype).max:
        raise ValueError(f"smoothness={smoothness!r} must be above 0, and a number that {dtype} can hold")
    check_specification(features, filter)
    execution = Execution(None if threads is None else thread_count(threads), flag(deterministic, "deterministic"))
    t, c = target.to(dtype), confidence.to(dtype)[:, None]
    _check_values(t, c, image)
    with full_precision(target.device):
        columns = feature_columns(features, Inputs(t, image.to(dtype)), {}, dtype)
        kernels = of_features(filter or Lattice(), torch.stack(columns, dim=1), execution)
        solved: Tensor = _Solved.apply(t, c, _Problem(kernels, strength, most, error))  # type: ignore[no-untyped-call]
    return solved.to(target.dtype)


class _Problem(NamedTuple):
    """What a solution depends on beside target and confidence: K and Kᵀ, λ, and when to end."""

    kernels: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
    smoothness: float
    iterations: int
    tolerance: float

    def symmetric(self, values: Tensor) -> Tensor:
        """½ (K + Kᵀ) v."""
        forward, back = self.kernels
        return forward(values) if forward is back else 0.5 * (forward(values) + back(values))

    def system(self, confidence: Tensor) -> Callable[[Tensor], Tensor]:
        """A x = λ (diag(Ŵ 1) - Ŵ) x + c x, with Ŵ = D ½ (K + Kᵀ) D."""
        scale = torch.ones_like(confidence)
        for _ in range(ROUNDS):
            scale = (scale / self.symmetric(scale)).sqrt()
        rows = scale * self.symmetric(scale)

        def applied(x: Tensor) -> Tensor:
            # What all values share is smooth and stays so. Rounding would add to it.
            apart = x - _mean(x)
            roughness = rows * apart - scale * self.symmetric(scale * apart)
            return self.smoothness * (roughness - _mean(roughness)) + confidence * x

        return applied

    def start(self, target: Tensor, confidence: Tensor) -> Tensor:
        """Weighted means of the target; their own mean where nothing certain is near."""
        near = self.symmetric(torch.cat([confidence * target, confidence], dim=1))
        axes = tuple(range(2, target.ndim))
        mean = (confidence * target).sum(axes, keepdim=True) / confidence.sum(axes, keepdim=True)
        there = near[:, -1:] > torch.finfo(near.dtype).tiny
        return torch.where(there, near[:, :-1] / torch.where(there, near[:, -1:], 1.0), mean)

    def solution(self, confidence: Tensor, right: Tensor, x: Tensor) -> Tensor:
        """A x = b by conjugate gradients, preconditioned by about the diagonal of A."""
        system, diagonal = self.system(confidence), self.smoothness + confidence
        enough = self.tolerance**2 * _products(right, right)
        residual = right - system(x)
        direction = scaled = residual / diagonal
        before = _products(residual, scaled)
        for _ in range(self.iterations):
            going_on = _products(residual, residual) > enough
            image = system(direction)
            step = _quotient(before, _products(direction, image), going_on)
            x = x + step * direction
            residual = residual - step * image
            scaled = residual / diagonal
            after = _products(residual, scaled)
            direction = scaled + _quotient(after, before, going_on) * direction
            before = after
        return x


class _Solved(torch.autograd.Function):
    """A⁻¹ (c t), held within the range of what is certain. A is symmetric, so that its inverse takes gradients back."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, confidence: Tensor, problem: _Problem) -> Tensor:
        x = problem.solution(confidence, confidence * target, problem.start(target, confidence))
        ctx.problem = problem
        ctx.save_for_backward(target, confidence, x)
        axes = tuple(range(2, target.ndim))
        low, high = (torch.where(confidence > 0, target, end) for end in (torch.inf, -torch.inf))
        return torch.minimum(torch.maximum(x, low.amin(axes, keepdim=True)), high.amax(axes, keepdim=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None]:
        target, confidence, x = ctx.saved_tensors
        y = ctx.problem.solution(confidence, cotangent, torch.zeros_like(cotangent))
        return confidence * y, (y * (target - x)).sum(dim=1, keepdim=True), None


def _mean(values: Tensor) -> Tensor:
    return values.mean(tuple(range(2, values.ndim)), keepdim=True)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Σ a b of each image and channel."""
    return (a * b).sum(tuple(range(2, a.ndim)), keepdim=True)


def _quotient(a: Tensor, b: Tensor, going_on: Tensor) -> Tensor:
    """a / b, 0 where a channel is solved."""
    use = going_on & (b > 0)
    return torch.where(use, a / torch.where(use, b, 1.0), 0.0)


def _check_confidence(confidence: Any, target: Tensor) -> None:
    check_tensor("confidence", confidence)
    check_device("confidence", confidence, "target", target)
    expected = (len(target), *target.shape[2:])
    if confidence.shape != expected or confidence.is_complex():
        raise ValueError(
            f"confidence has shape {tuple(confidence.shape)} and {confidence.dtype}; expected real numbers of shape "
            f"{expected} to go with target of shape {tuple(target.shape)}"
        )


def _check_values(target: Tensor, confidence: Tensor, image: Tensor) -> None:
    """On the CPU; elsewhere it would wait for the device."""
    if target.device.type != "cpu" or torch.compiler.is_compiling():
        return
    for name, tensor in (("target", target), ("confidence", confidence), ("image", image)):
        check_finite(tensor.detach().numpy(), name)
    axes = tuple(range(1, confidence.ndim))
    low, high = confidence.detach().amin(axes), confidence.detach().amax(axes)
    for index in torch.nonzero((low < 0) | (high == 0))[:1, 0].tolist():
        raise ValueError(
            f"confidence[{index}] ranges from {float(low[index])} to {float(high[index])}; expected at least 0, and "
            "above 0 somewhere"
        )
