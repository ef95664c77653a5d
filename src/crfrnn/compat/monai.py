"""MONAI's CRF and PHLFilter, trainable: gradients reach the logits, and weights and compatibility that are tensors.

Results are MONAI's. Lattices are built once per call, not once per iteration. There may be any number of classes, and
up to 16 features. The computation is on the device of the tensors. MetaTensors keep their metadata.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise ImportError(
        "crfrnn.compat.monai needs PyTorch, which is not installed: pip install 'crfrnn[torch]'"
    ) from error

from crfrnn.numbers import deviations, whole_number
from crfrnn.parameters import CRFParameters
from crfrnn.torch import gaussian_filter, mean_field
from crfrnn.unary import num_classes_of

Deviation = float | Sequence[float]


class CRF(nn.Module):
    """Refine class scores by mean field with a Gaussian and a bilateral kernel.

    All arguments are attributes that may be changed between calls. Weights, factor and matrix are trained if they are
    `nn.Parameter`s.

    Args:
        iterations: Iterations of mean field.
        bilateral_weight: Weight of the bilateral kernel, a number or a tensor of one.
        gaussian_weight: Weight of the Gaussian kernel, a number or a tensor of one.
        bilateral_spatial_sigma: Deviation of the bilateral kernel in pixels, or one for each axis in their order.
        bilateral_color_sigma: Deviation of the bilateral kernel in levels of the reference, or one for each channel.
        gaussian_spatial_sigma: Deviation of the Gaussian kernel in pixels, or one for each axis in their order.
        update_factor: Factor that multiplies the messages, a number or a tensor of one.
        compatibility_matrix: (classes, classes), multiplies messages from the right; None is the identity.
    """

    def __init__(
        self,
        iterations: int = 5,
        bilateral_weight: float | Tensor = 1.0,
        gaussian_weight: float | Tensor = 1.0,
        bilateral_spatial_sigma: Deviation = 5.0,
        bilateral_color_sigma: Deviation = 0.5,
        gaussian_spatial_sigma: Deviation = 5.0,
        update_factor: float | Tensor = 3.0,
        compatibility_matrix: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.iterations = iterations
        self.bilateral_weight = bilateral_weight
        self.gaussian_weight = gaussian_weight
        self.bilateral_spatial_sigma = bilateral_spatial_sigma
        self.bilateral_color_sigma = bilateral_color_sigma
        self.gaussian_spatial_sigma = gaussian_spatial_sigma
        self.update_factor = update_factor
        self.compatibility_matrix = compatibility_matrix
        self._parameters_of_kernels()

    def forward(self, input_tensor: Tensor, reference_tensor: Tensor) -> Tensor:
        """Class probabilities.

        Args:
            input_tensor: (B, C, *spatial) logits, 1 to 3 spatial axes. One channel is the log-odds of the foreground,
                for which MONAI's CRF returns 1 everywhere; the compatibility is then that of two classes.
            reference_tensor: (B, channels, *spatial), the image; it gets no gradient.
        Returns: (B, C, *spatial) probabilities, in the dtype and on the device of the logits.
        Raises:
            TypeError: if anything but tensors is given.
            ValueError: if shapes or values do not fit.
        """
        _check_pair(input_tensor, reference_tensor, "input_tensor", "reference_tensor")
        there = input_tensor.device
        compatibility = _on(there, self.update_factor) * -1
        if self.compatibility_matrix is not None:
            classes = num_classes_of(input_tensor.shape[1])
            if self.compatibility_matrix.shape != (classes, classes):
                raise ValueError(
                    f"compatibility_matrix has shape {tuple(self.compatibility_matrix.shape)}; expected "
                    f"{(classes, classes)} for input_tensor of shape {tuple(input_tensor.shape)}"
                )
            compatibility = compatibility * _on(there, self.compatibility_matrix).T
        # MONAI's features run along the axes in their order, ours from the last axis to the first.
        refined = mean_field(
            _turned(input_tensor),
            _turned(reference_tensor).to(there),
            None,
            self._parameters_of_kernels(),
            spatial_weight=_on(there, self.gaussian_weight),
            bilateral_weight=_on(there, self.bilateral_weight),
            compatibility=compatibility,
            return_probabilities=True,
        )
        return _turned(refined).contiguous()

    def _parameters_of_kernels(self) -> CRFParameters:
        return CRFParameters(
            theta_alpha=deviations(self.bilateral_spatial_sigma, "bilateral_spatial_sigma"),
            theta_beta=deviations(self.bilateral_color_sigma, "bilateral_color_sigma"),
            theta_gamma=deviations(self.gaussian_spatial_sigma, "gaussian_spatial_sigma"),
            spatial="lattice",
            iterations=whole_number(self.iterations, "iterations"),
        )


class CRFd:
    """The CRF as a MONAI dictionary transform: takes channel-first arrays without a batch axis and keeps metadata.

    Args:
        keys: Where the dictionary holds logits (C, *spatial); probabilities take their place.
        reference_key: Where it holds the image (channels, *spatial).
        options: Arguments of `CRF`.
    """

    def __init__(self, keys: Hashable | Sequence[Hashable], reference_key: Hashable, **options: Any) -> None:
        self.keys = tuple(keys) if isinstance(keys, list | tuple) else (keys,)
        self.reference_key = reference_key
        self.crf = CRF(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy with probabilities for logits: arrays for arrays, tensors for tensors.

        Raises: KeyError: if a key is missing.
        """
        refined = dict(data)
        reference = torch.as_tensor(data[self.reference_key]).unsqueeze(0)
        for key in self.keys:
            probabilities = self.crf(torch.as_tensor(data[key]).unsqueeze(0), reference).squeeze(0)
            refined[key] = probabilities if isinstance(data[key], Tensor) else probabilities.detach().numpy()
        return refined


class PHLFilter:
    """Gaussian filtering over any features on the permutohedral lattice, as weighted means."""

    @staticmethod
    def apply(input: Tensor, features: Tensor, sigmas: Sequence[float] | Tensor | None = None) -> Tensor:
        """The filtered input; gradients reach the input.

        Args:
            input: (B, channels, *spatial), 1 to 3 spatial axes.
            features: (B, d, *spatial) for d from 1 to 16; they get no gradient and stay as they are.
            sigmas: Deviations, one for each feature; None is 1.
        Returns: In the shape and dtype and on the device of the input.
        Raises:
            TypeError: if anything but tensors is given.
            ValueError: if shapes or values do not fit.
        """
        _check_pair(input, features, "input", "features")
        scaled = features
        if sigmas is not None:
            divisors = torch.as_tensor(sigmas, dtype=features.dtype, device=features.device)
            if divisors.shape != features.shape[1:2] or not (divisors > 0).all():
                raise ValueError(f"sigmas={sigmas!r} must be {features.shape[1]} numbers above 0, one for each feature")
            scaled = features / divisors.reshape(-1, *[1] * (features.ndim - 2))
        return gaussian_filter(input, scaled.to(input.device))


def _check_pair(scores: Tensor, beside: Tensor, name: str, name_beside: str) -> None:
    for tensor, called in ((scores, name), (beside, name_beside)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{called} is a {type(tensor).__name__}; expected a torch.Tensor")
    layout = "(batch, channels, *spatial) with 1 to 3 spatial axes"
    if not 3 <= scores.ndim <= 5 or 0 in scores.shape:
        raise ValueError(f"{name} has shape {tuple(scores.shape)}; expected {layout}")
    if not scores.is_floating_point():
        raise TypeError(f"{name} is {scores.dtype}; expected a floating-point tensor: call .float() first")
    if (beside.ndim, beside.shape[0], beside.shape[2:]) != (scores.ndim, scores.shape[0], scores.shape[2:]):
        raise ValueError(
            f"{name_beside} has shape {tuple(beside.shape)}; expected {layout}, of the same batch and spatial shape as "
            f"{name} of shape {tuple(scores.shape)}"
        )
    if beside.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name_beside} requires a gradient, but it gets none: pass {name_beside}.detach()")


def _turned(tensor: Tensor) -> Tensor:
    """(B, C, *spatial) with the spatial axes in reverse order."""
    return tensor.permute(0, 1, *range(tensor.ndim - 1, 1, -1))


def _on(device: torch.device, value: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
