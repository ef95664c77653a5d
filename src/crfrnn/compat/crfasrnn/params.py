"""The port's parameters of a CRF."""

from dataclasses import dataclass


@dataclass
class DenseCRFParams:
    """Deviations, and weights at the start.

    Attributes:
        alpha: θ_α in pixels.
        beta: θ_β in levels.
        gamma: θ_γ in pixels.
        spatial_ker_weight: Weight of the spatial kernel.
        bilateral_ker_weight: Weight of the bilateral kernel.
    """

    alpha: float = 160.0
    beta: float = 3.0
    gamma: float = 3.0
    spatial_ker_weight: float = 3.0
    bilateral_ker_weight: float = 5.0
