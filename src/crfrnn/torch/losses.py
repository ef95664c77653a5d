"""Losses that need no labels: pixels that a dense CRF's kernels connect should be of one class.

They are added to the cross-entropy of the pixels that have a label: clicks, scribbles, boxes. All take probabilities,
as the published codes do, softmax(logits) or the sigmoid of a single channel, and each is one filter forward and one
backward for all classes. docs/weak-supervision.md tells which to take.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crfrnn.arrays import mask_array
from crfrnn.crf import CRF, EPSILON
from crfrnn.inference.losses import (
    DENSE_CRF,
    GATED_CRF,
    LEAST_CONNECTION,
    SLACK,
    Parameters,
    loss_crf,
    not_probabilities,
)
from crfrnn.kernels.build import given_mapping
from crfrnn.torch.differentiable import Normalised, check_outcome
from crfrnn.torch.exact_filter import full_precision
from crfrnn.torch.functional import compute_dtype, pairwise_filters
from crfrnn.torch.plausibility import check_levels
from crfrnn.torch.scene import Own, Scene, check_mask, check_scores

__all__ = [
    "DENSE_CRF",
    "GATED_CRF",
    "DenseCrfLoss",
    "GatedCrfLoss",
    "NormalizedCutLoss",
    "PairwiseLoss",
    "dense_crf_loss",
    "gated_crf_loss",
    "normalized_cut_loss",
]


def dense_crf_loss(
    probabilities: Tensor,
    image: Tensor | None,
    mask: Tensor | None = None,
    parameters: Parameters = DENSE_CRF,
    *,
    given: Mapping[str, Own] | None = None,
    spacing: float | Sequence[float] | None = None,
    threads: int | None = None,
) -> Tensor:
    """The relaxed Potts energy Σ_c q_cᵀ N (1 - q_c), N = Σ_k w_k N_k, over the pixels (docs/algorithm.md, eq. 25).

    Gradients go to the probabilities, and where they are asked for to image, mask and features.
    It is never negative. The published code sums over pixels, takes the mean over images, and leaves out a part that
    does not depend on the probabilities: 1ᵀN1.

    Args:
        probabilities: (B, C, *spatial), 0 to 1; 1 to 3 spatial axes. One channel is the probability of the
            foreground, and stands for two classes.
        image: (B, K, *spatial) in the units of theta_beta (0 to 255 for the default), or in the `image_range` of the
            parameters. None if no kernel needs it.
        mask: (B, *spatial) weight of each pixel; those of weight 0 do not count.
        parameters: Kernels, as `CRFParameters`, a `CRF`, the name of a preset or a parameters file. Their weights are
            numbers of at least 0. There is no compatibility, and the solver has no use. The default is the published
            kernel: bilateral, θ_α = 100, θ_β = 15, raw sums.
        given: For kernels over `Given(name)`, by name, as in `crfrnn.torch.mean_field`.
        spacing: Distance between neighbouring pixels, a number or one for each axis as (x, y[, z]); θ_α and θ_γ are
            then in its unit.
        threads: Threads to use on the CPU; None takes torch.get_num_threads().
    Returns: A number, in float64 for float64 probabilities, else in float32, also under autocast.
    Raises: ValueError: if shapes do not fit, or values on the CPU are not finite or no probabilities.
    References: Tang et al. 2018, On regularized losses for weakly-supervised CNN segmentation.
    """
    q = _of_all_classes(probabilities)
    scene = Scene(probabilities, image, mask, given_mapping(given), spacing)
    filtered = pair_filter(loss_crf(parameters), scene, True, threads)
    with full_precision(q.device):
        return _checked((q * filtered(_complement(q))).sum() / _pixels(q, mask))


def gated_crf_loss(
    probabilities: Tensor,
    image: Tensor | None,
    mask: Tensor | None = None,
    source: Tensor | None = None,
    destination: Tensor | None = None,
    parameters: Parameters = GATED_CRF,
    *,
    given: Mapping[str, Own] | None = None,
    spacing: float | Sequence[float] | None = None,
    threads: int | None = None,
) -> Tensor:
    """The relaxed Potts energy of the pairs of two different pixels that gates let through (docs/algorithm.md, eq. 26).

    It is never negative. The published code counts only pairs within a window around a pixel; here all count, by
    their weight in the kernel. Gradients are as in `dense_crf_loss`.

    Args:
        probabilities: As in `dense_crf_loss`, and so are image, mask, given, spacing and threads.
        source: (B, *spatial) weight of each pixel as one that others should agree with, such as 0 where the network
            is known to be wrong. None is 1.
        destination: (B, *spatial) weight of each pixel as one that should agree with others, such as 0 where it has a
            label. None is 1.
        parameters: As in `dense_crf_loss`; the default is the published kernel: bilateral, θ_α = 6, θ_β = 25.5, raw
            sums. On a lattice a pixel's pair with itself weighs about 1 or less and counts as 1.
    Returns: As `dense_crf_loss`. The mean is over the pixels that are destinations or, without a destination, sources.
    References: Obukhov et al. 2019.
    """
    q = _of_all_classes(probabilities)
    for name, gate in (("source", source), ("destination", destination)):
        _check_gate(name, gate, probabilities)
    scene = Scene(probabilities, image, mask, given_mapping(given), spacing)
    filtered = pair_filter(loss_crf(parameters), scene, False, threads)
    with full_precision(q.device):
        received = filtered(_gated(_complement(q), source)).clamp(min=0)
        pixels = _pixels(q, mask, source if destination is None else destination)
        return _checked(_gated(q * received, destination).sum() / pixels)


def normalized_cut_loss(
    probabilities: Tensor,
    image: Tensor | None,
    mask: Tensor | None = None,
    parameters: Parameters = DENSE_CRF,
    *,
    given: Mapping[str, Own] | None = None,
    spacing: float | Sequence[float] | None = None,
    threads: int | None = None,
) -> Tensor:
    """The normalised cut Σ_c q_cᵀ N (1 - q_c) / q_cᵀ N 1, a mean over images (docs/algorithm.md, eq. 27).

    It is never negative; where N is symmetric it is at most the number of classes. A class counts by the share of its
    own connections that it cuts, so that small objects count as large ones do.

    Args:
        probabilities: As in `dense_crf_loss`, and so are all other arguments.
    Returns: As `dense_crf_loss`.
    References: Tang et al. 2018, Normalized cut loss for weakly-supervised CNN segmentation; Shi & Malik 2000.
    """
    q = _of_all_classes(probabilities)
    scene = Scene(probabilities, image, mask, given_mapping(given), spacing)
    filtered = pair_filter(loss_crf(parameters), scene, True, threads)
    with full_precision(q.device):
        apart = _complement(q)
        received = filtered(torch.cat([apart, torch.ones_like(apart[:, :1])], dim=1))
        cut = (q * received[:, :-1]).flatten(2).sum(dim=2)
        connected = (q * received[:, -1:]).flatten(2).sum(dim=2)
        return _checked((cut / (connected + LEAST_CONNECTION)).sum(dim=1).mean())


def pair_filter(crf: CRF, scene: Scene, own_pairs: bool, threads: int | None) -> Callable[[Tensor], Tensor]:
    """v ↦ Σ_k w_k N_k v for values (B, channels, *spatial), built once for all of them.

    Args:
        scene: The logits in it are probabilities.
        own_pairs: Whether the pair of a pixel with itself counts; it weighs 1 in a Gaussian.
    """
    filters = pairwise_filters(crf, scene, threads)
    if not torch.compiler.is_compiling():
        check_levels(crf, scene.image)
    weighted: list[tuple[Any, Normalised]] = [
        (kernel.weight, each) for kernel, each in zip(crf.kernels, filters, strict=True)
    ]

    def filtered(values: Tensor) -> Tensor:
        total = torch.zeros_like(values)
        for weight, normalised in weighted:
            message = normalised(values)
            total = total + weight * (message if own_pairs else message - normalised.pre * normalised.post * values)
        return total

    return filtered


class PairwiseLoss(nn.Module):
    """One of the losses as a module, which has no weights to train.

    Args:
        parameters: Kernels, as `dense_crf_loss` takes them; None is the published kernel.
        threads: Threads of a call on the CPU; None takes torch.get_num_threads().
        **settings: Fields of `CRFParameters` that replace those of the parameters: `theta_alpha=50`,
            `spatial_weight=1`, `normalization="after"`, `filter="exact"`.
    Attributes:
        crf: The kernels.
    Raises: TypeError or ValueError: if the parameters are not for a loss.
    """

    published = DENSE_CRF

    def __init__(self, parameters: Parameters | None = None, *, threads: int | None = None, **settings: Any) -> None:
        super().__init__()
        self.crf = loss_crf(self.published if parameters is None else parameters, settings)
        self.threads = threads

    def extra_repr(self) -> str:
        return ", ".join(f"{each.weight} × {each.features} on {each.filter}" for each in self.crf.kernels)


class DenseCrfLoss(PairwiseLoss):
    """`dense_crf_loss` as a module; its arguments are those of `PairwiseLoss`."""

    def forward(
        self,
        probabilities: Tensor,
        image: Tensor | None,
        mask: Tensor | None = None,
        spacing: float | Sequence[float] | None = None,
        given: Mapping[str, Own] | None = None,
    ) -> Tensor:
        """The loss of probabilities (B, C, *spatial) and an image (B, K, *spatial); see `dense_crf_loss`."""
        return dense_crf_loss(probabilities, image, mask, self.crf, given=given, spacing=spacing, threads=self.threads)


class GatedCrfLoss(PairwiseLoss):
    """`gated_crf_loss` as a module; its arguments are those of `PairwiseLoss`."""

    published = GATED_CRF

    def forward(
        self,
        probabilities: Tensor,
        image: Tensor | None,
        mask: Tensor | None = None,
        source: Tensor | None = None,
        destination: Tensor | None = None,
        spacing: float | Sequence[float] | None = None,
        given: Mapping[str, Own] | None = None,
    ) -> Tensor:
        """The loss of probabilities (B, C, *spatial) and an image (B, K, *spatial); see `gated_crf_loss`."""
        gates = mask, source, destination
        return gated_crf_loss(
            probabilities, image, *gates, self.crf, given=given, spacing=spacing, threads=self.threads
        )


class NormalizedCutLoss(PairwiseLoss):
    """`normalized_cut_loss` as a module; its arguments are those of `PairwiseLoss`."""

    def forward(
        self,
        probabilities: Tensor,
        image: Tensor | None,
        mask: Tensor | None = None,
        spacing: float | Sequence[float] | None = None,
        given: Mapping[str, Own] | None = None,
    ) -> Tensor:
        """The loss of probabilities (B, C, *spatial) and an image (B, K, *spatial); see `normalized_cut_loss`."""
        return normalized_cut_loss(
            probabilities, image, mask, self.crf, given=given, spacing=spacing, threads=self.threads
        )


def _checked(loss: Tensor) -> Tensor:
    """A loss; on the CPU a ValueError if it is not finite although all that it was computed from is."""
    check_outcome(loss, "losses", "weights, mask or gates")
    return loss


def _of_all_classes(probabilities: Tensor) -> Tensor:
    """Probabilities (B, C, *spatial), C > 1, in the precision of computing.

    On the CPU, values that are no probabilities are refused. Elsewhere a check would wait for the device.
    """
    check_scores("probabilities", probabilities)
    q = probabilities.to(compute_dtype(probabilities))
    if q.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (float(each) for each in q.detach().aminmax())
        if not (low >= -SLACK and high <= 1 + SLACK):  # NaN too
            raise ValueError(not_probabilities(low, high))
    return torch.cat([1 - q, q], dim=1) if q.shape[1] == 1 else q


def _check_gate(name: str, gate: Tensor | None, probabilities: Tensor) -> None:
    check_mask(gate, "probabilities", probabilities, name)
    if gate is not None and gate.device.type == "cpu" and not torch.compiler.is_compiling():
        mask_array(gate.detach().double().numpy(), tuple(gate.shape), name)


def _complement(q: Tensor) -> Tensor:
    """1 - q, of which rounding makes nothing negative."""
    return (1 - q).clamp(min=0)


def _gated(values: Tensor, gate: Tensor | None) -> Tensor:
    """Values (B, C, *spatial) times a gate (B, *spatial)."""
    return values if gate is None else values * gate.to(values.dtype)[:, None]


def _pixels(q: Tensor, *weights: Tensor | None) -> Tensor:
    """How many pixels of all images count, by the product of weights (B, *spatial)."""
    counted = q.new_ones(len(q), 1, *q.shape[2:])
    for weight in weights:
        counted = _gated(counted, weight)
    return counted.sum() + EPSILON
