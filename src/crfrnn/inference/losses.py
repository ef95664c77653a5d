"""Which kernels a loss over pairs of pixels takes, the same in every framework (docs/algorithm.md, section 10)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crfrnn.crf import CRF
from crfrnn.files.parameter_files import crf_of, parameters_of, short_form
from crfrnn.parameters import CRFParameters

DENSE_CRF = CRFParameters(theta_alpha=100, theta_beta=15, spatial_weight=0, bilateral_weight=1, normalization="none")
"""The kernel that the dense CRF loss was published with."""
GATED_CRF = replace(DENSE_CRF, theta_alpha=6, theta_beta=25.5)
"""The kernel that the gated CRF loss was published with: colours there are from 0 to 1, and θ_β is 0.1."""
SETTINGS = (
    *("theta_alpha", "theta_beta", "theta_gamma", "spatial_weight", "bilateral_weight"),
    *("normalization", "spatial", "neighbour_rounds", "filter", "image_range"),
)
"""The fields of `CRFParameters` that say something of kernels."""
SLACK = 1e-3
"""How far rounding may take a probability beyond 0 or 1."""
LEAST_CONNECTION = 1e-18
"""Added to a class's connections in a normalised cut: they are 0 if it is nowhere. Its square is not 0 in float32."""

Parameters = CRFParameters | CRF | str | Path


def loss_crf(parameters: Parameters, settings: Mapping[str, Any] | None = None) -> CRF:
    """The CRF whose kernels a loss takes, without those of weight 0.

    Args:
        parameters: In any form that users give. Its solver has no use here.
        settings: Those of `SETTINGS` that replace its own.
    Raises: TypeError or ValueError: if there is no kernel, a weight is not a number of at least 0, there are
        regions or a compatibility, or settings are others or for a CRF of any kernels.
    """
    if settings:
        unknown = [name for name in settings if name not in SETTINGS]
        if unknown:
            raise TypeError(f"a loss has no {', '.join(unknown)}; its kernels have {', '.join(SETTINGS)}")
        parameters = replace(short_form(parameters_of(parameters), f"a loss with {', '.join(settings)}"), **settings)
    crf = crf_of(parameters)
    if crf.regions:
        raise ValueError(
            f"regions {', '.join(map(repr, crf.region_names))}: losses are sums over pairs of pixels, which kernels "
            "give; leave out regions"
        )
    if crf.compatibility is not None:
        raise ValueError(
            f"compatibility={crf.compatibility!r}: losses are those of the Potts model; leave it at None, and give "
            "kernels weights"
        )
    for name, kernel in zip(crf.names, crf.kernels, strict=True):
        if isinstance(kernel.weight, tuple) or kernel.weight < 0:  # type: ignore[operator]
            raise ValueError(f"{name}_weight={kernel.weight!r} must be a number of at least 0 in a loss")
    if not crf.active.kernels:
        raise ValueError("no kernel has a weight above 0, so that the loss would be 0: give bilateral_weight=1")
    active = crf.active
    return active if active.solver == CRF.solver else replace(active, solver=CRF.solver)  # no new one when compiled


def not_probabilities(low: float, high: float) -> str:
    """The message for probabilities that lie beyond 0 or 1."""
    return (
        f"probabilities are from {low:.3g} to {high:.3g}; expected 0 to 1: pass softmax(logits), or the sigmoid of "
        "one channel"
    )
