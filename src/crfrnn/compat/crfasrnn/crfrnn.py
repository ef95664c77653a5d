"""The port's layer."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from crfrnn.compat.crfasrnn.params import DenseCRFParams
from crfrnn.numbers import deviations, finite_number, whole_number
from crfrnn.parameters import CRFParameters
from crfrnn.terms import speaking
from crfrnn.torch import mean_field

TERMS = {
    "theta_alpha": "alpha",
    "theta_beta": "beta",
    "theta_gamma": "gamma",
    "spatial_weight": "spatial_ker_weights",
    "bilateral_weight": "bilateral_ker_weights",
    "times the compatibility is": "times compatibility_matrix is",
    "compatibility": "compatibility_matrix",
    "iterations": "num_iterations",
    "mean_field(logits, image)": "crf(image, logits)",
    "Say so by upsampling='bilinear'; 'joint-bilateral' follows the image's edges": (
        "Give logits of its size, such as torch.nn.functional.interpolate(logits, image.shape[2:], mode='bilinear')"
    ),
    "; for a network that saw a padded image, see covers= of crfrnn.upsample": "",
    "give upsampling='bilinear'": "give logits of that size",
    ", or take filter='exact'": "",
    "(theta)": "(alpha, beta or gamma)",
}


class CrfRnn(nn.Module):
    """CRF-RNN as the official PyTorch port has it; its state loads strictly.

    The compatibility is added here, so that it begins as +I; `crfrnn.torch.CrfRnn` and Keras subtract it. Batches may
    be of any size, where the port takes one image.

    Args:
        num_labels: Number of classes.
        num_iterations: An attribute that may be set at any time.
        crf_init_params: Deviations, and weights at the start; None takes the defaults.
    Attributes:
        params: What was given. Its deviations count at every call.
        spatial_ker_weights, bilateral_ker_weights, compatibility_matrix: (num_labels, num_labels), trainable.
    """

    def __init__(self, num_labels: int, num_iterations: int = 5, crf_init_params: DenseCRFParams | None = None) -> None:
        super().__init__()
        self.params = DenseCRFParams() if crf_init_params is None else crf_init_params
        missing = [each.name for each in fields(DenseCRFParams) if not hasattr(self.params, each.name)]
        if missing:
            raise TypeError(f"crf_init_params={self.params!r} has no {', '.join(missing)}; expected DenseCRFParams(…)")
        self.num_labels = num_labels = whole_number(num_labels, "num_labels", least=2)
        for name in ("spatial_ker_weight", "bilateral_ker_weight"):
            finite_number(getattr(self.params, name), name)
        for name in ("alpha", "beta", "gamma"):
            deviations(getattr(self.params, name), name)
        self.num_iterations = num_iterations
        self.spatial_ker_weights = nn.Parameter(self.params.spatial_ker_weight * torch.eye(num_labels))
        self.bilateral_ker_weights = nn.Parameter(self.params.bilateral_ker_weight * torch.eye(num_labels))
        self.compatibility_matrix = nn.Parameter(torch.eye(num_labels))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *others: Any) -> None:
        """Refuse weights of `crfrnn.torch.CrfRnn`, which have the same names and the opposite compatibility."""
        matrix = state_dict.get(f"{prefix}compatibility_matrix")
        if matrix is not None and matrix.ndim == 2 and matrix.device.type != "meta" and matrix.diagonal().mean() < 0:
            others[-1].append(
                f"{prefix}compatibility_matrix has a diagonal of mean {float(matrix.diagonal().mean()):.3g}, below 0 "
                "as in weights of crfrnn.torch.CrfRnn: that layer subtracts the compatibility, and this one adds it. "
                "Give -compatibility_matrix"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    @speaking(TERMS)
    def forward(self, image: Tensor, logits: Tensor) -> Tensor:
        """Refined logits (B, num_labels, H, W).

        Args:
            image: (B, K, H, W) in the units of beta.
            logits: (B, num_labels, H, W).
        Raises: ValueError: if shapes do not fit.
        """
        if isinstance(logits, Tensor) and (logits.ndim < 3 or logits.shape[1] != self.num_labels):
            raise ValueError(
                f"logits have shape {tuple(logits.shape)}; expected (batch, {self.num_labels}, height, width): the "
                "image comes first, crf(image, logits)"
            )
        parameters = CRFParameters(
            theta_alpha=self.params.alpha,
            theta_beta=self.params.beta,
            theta_gamma=self.params.gamma,
            spatial="lattice",
            iterations=self.num_iterations,
        )
        return mean_field(
            logits,
            image,
            parameters=parameters,
            spatial_weight=self.spatial_ker_weights,
            bilateral_weight=self.bilateral_ker_weights,
            compatibility=-self.compatibility_matrix,
        )
