"""MONAI's CRF and bilateral filters, trainable: gradients reach all tensors, and weights and matrices that are tensors.

Results of `CRF` and `PHLFilter` are MONAI's; the other filters are not cut off at a window as MONAI's are. Lattices are
built once per call, not once per iteration. There may be any number of classes, and up to 16 features. The computation
is on the device of the tensors. MetaTensors keep their metadata. After `install()` code that imports MONAI's `CRF` and
`PHLFilter` itself runs on these, without MONAI's compiled extensions.
"""

from collections.abc import Hashable, Mapping, Sequence
from importlib import import_module
from typing import Any, get_args

import numpy as np

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise ImportError(
        "crfrnn.compat.monai needs PyTorch, which is not installed: pip install 'crfrnn[torch]'"
    ) from error

from crfrnn.arrays import check_finite
from crfrnn.kernels.lattice import MAX_FEATURES
from crfrnn.numbers import deviations, finite_number, flag, one_of, whole_number
from crfrnn.parameters import CRFParameters, Filter
from crfrnn.plausibility import classes_last, likeness, warn_of_input
from crfrnn.terms import speaking
from crfrnn.torch import gaussian_filter, mean_field
from crfrnn.torch.plausibility import readable
from crfrnn.unary import num_classes_of

Deviation = float | Sequence[float]
CRF_TERMS = {
    "theta_alpha": "bilateral_spatial_sigma",
    "theta_beta": "bilateral_color_sigma",
    "theta_gamma": "gaussian_spatial_sigma",
    "spatial_weight": "gaussian_weight",
    "compatibility": "compatibility_matrix",
    "times the compatibility is": "times update_factor and compatibility_matrix is",
    "logits[": "input_tensor[",
    "-logits": "-input_tensor",
    "logits have": "input_tensor has",
    "(logits, -1, 0)": "(input_tensor, -1, 0)",
    "image holds": "reference_tensor holds",
    "image has": "reference_tensor has",
    "mean_field(logits, image)": "crf(input_tensor, reference_tensor)",
    ", or take filter='exact'": "",
    "(theta)": "(sigma)",
}
FILTER_TERMS = {"values[": "input[", "(theta)": "(sigma)"}
LAYER_TERMS = {"values[": "input_tensor[", "(theta)": "(sigma)"}


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

    @speaking(CRF_TERMS)
    def forward(self, input_tensor: Tensor, reference_tensor: Tensor) -> Tensor:
        """Class probabilities.

        Args:
            input_tensor: (B, C, *spatial) logits, 1 to 3 spatial axes. One channel is the log-odds of the foreground,
                for which MONAI's CRF returns 1 everywhere; the compatibility is then that of two classes.
            reference_tensor: (B, channels, *spatial), the image, which gets a gradient if it asks for one.
        Returns: (B, C, *spatial) probabilities, in the dtype and on the device of the logits.
        Raises:
            TypeError: if anything but tensors is given.
            ValueError: if shapes or values do not fit.
        """
        _check_pair(input_tensor, reference_tensor, "input_tensor", "reference_tensor")
        _doubt_order(input_tensor)
        there = input_tensor.device
        compatibility = -self._factor(there)
        if self.compatibility_matrix is not None:
            classes = num_classes_of(input_tensor.shape[1])
            if not isinstance(self.compatibility_matrix, Tensor):
                kind = type(self.compatibility_matrix).__name__
                raise TypeError(f"compatibility_matrix is a {kind}; expected a torch.Tensor")
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

    def _factor(self, device: torch.device) -> Any:
        factor = self.update_factor
        if not isinstance(factor, Tensor):
            return finite_number(factor, "update_factor")
        if factor.numel() != 1:
            raise ValueError(f"update_factor has shape {tuple(factor.shape)}; expected a number")
        return factor.to(device).reshape(())

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
        keys: Where the dictionary holds logits (C, *spatial).
        reference_key: Where it holds the image (channels, *spatial).
        output_key: Where probabilities go, one for each key; None puts them in the place of the logits.
        allow_missing_keys: Leave out keys that the dictionary does not have.
        device: Where to compute; None is where the logits are. Results go back to there.
        options: Arguments of `CRF`.
    Raises: ValueError: if there are not as many output keys as keys.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        reference_key: Hashable,
        output_key: Hashable | Sequence[Hashable] | None = None,
        allow_missing_keys: bool = False,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        self.keys = _keys(keys)
        self.reference_key = reference_key
        self.output_keys = self.keys if output_key is None else _keys(output_key)
        if len(self.output_keys) != len(self.keys):
            raise ValueError(f"output_key={output_key!r} must be as many as keys={keys!r}")
        self.allow_missing_keys = allow_missing_keys
        self.device = None if device is None else torch.device(device)
        self.crf = CRF(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy with probabilities: arrays for arrays, tensors for tensors.

        Raises: KeyError: if a key is missing.
        """
        refined = dict(data)
        for key, output_key in zip(self.keys, self.output_keys, strict=True):
            if key not in data and self.allow_missing_keys:
                continue
            logits = torch.as_tensor(data[key])
            there = logits.device if self.device is None else self.device
            reference = torch.as_tensor(data[self.reference_key])
            probabilities = self.crf(logits[None].to(there), reference[None].to(there))[0].to(logits.device)
            refined[output_key] = probabilities if isinstance(data[key], Tensor) else probabilities.detach().numpy()
        return refined


class PHLFilter:
    """Gaussian filtering over any features on the permutohedral lattice, as weighted means."""

    @staticmethod
    @speaking(FILTER_TERMS)
    def apply(input: Tensor, features: Tensor, sigmas: Sequence[float] | Tensor | None = None) -> Tensor:
        """The filtered input; gradients reach the input, and features and sigmas that ask for them.

        Args:
            input: (B, channels, *spatial), 1 to 3 spatial axes.
            features: (B, d, *spatial) for d from 1 to 16; they stay as they are.
            sigmas: Deviations, one for each feature; None is 1. Surplus ones are left out, with a warning.
        Returns: In the shape and dtype and on the device of the input.
        Raises:
            TypeError: if anything but tensors is given.
            ValueError: if shapes or values do not fit.
        """
        _check_pair(input, features, "input", "features")
        scaled = _readable(features)
        if sigmas is not None:
            count = features.shape[1]
            try:
                given = sigmas if isinstance(sigmas, Tensor) else np.asarray(sigmas, np.float64)
                divisors = torch.as_tensor(given, dtype=scaled.dtype, device=features.device)
            except (TypeError, ValueError, RuntimeError, OverflowError):
                raise ValueError(f"sigmas={sigmas!r} must be {count} numbers above 0, one for each feature") from None
            if divisors.ndim == 1 and len(divisors) > count:
                warn_of_input(f"sigmas={sigmas!r} are {len(divisors)} for {count} features: the last ones count not")
                divisors = divisors[:count]
            if divisors.shape != (count,) or not (divisors > 0).all():
                raise ValueError(f"sigmas={sigmas!r} must be {count} numbers above 0, one for each feature")
            scaled = scaled / divisors.reshape(-1, *[1] * (features.ndim - 2))
        return gaussian_filter(input, scaled.to(input.device))


class BilateralFilter:
    """The bilateral filter: weighted means over pixels that are near and of like levels."""

    @staticmethod
    @speaking(FILTER_TERMS)
    def apply(input: Tensor, spatial_sigma: float = 5, color_sigma: float = 0.5, fast_approx: bool = True) -> Tensor:
        """The filtered input.

        The gradient to the input is that of what is computed. (MONAI filters the gradient by itself.)

        Args:
            input: (B, channels, *spatial), 1 to 3 spatial axes; all channels are compared.
            spatial_sigma: Deviation in pixels.
            color_sigma: Deviation in levels of the input.
            fast_approx: On a lattice, with at most 16 axes and channels; False sums over all pairs of pixels, O(N²),
                where MONAI sums over a window of 5 deviations.
        Returns: In the shape and dtype and on the device of the input.
        Raises:
            TypeError: if the input is no floating-point tensor.
            ValueError: if its shape does not fit, values are not finite, or a deviation is not above 0.
        """
        _check_pair(input, input, "input", "input")
        space, color = deviations(spatial_sigma, "spatial_sigma"), deviations(color_sigma, "color_sigma")
        if isinstance(space, tuple) or isinstance(color, tuple):
            raise ValueError(f"spatial_sigma={spatial_sigma!r} and color_sigma={color_sigma!r} must be numbers")
        filter: Filter = "lattice" if flag(fast_approx, "fast_approx") else "exact"
        return _bilateral(input, input, "input", [space] * (input.ndim - 2), color, filter)


class TrainableJointBilateralFilter(nn.Module):
    """A bilateral filter over the levels of a guidance image, whose deviations are trained.

    Gradients go to the input, the guidance and the deviations. MONAI sums over a window of 5 deviations; here all
    pairs of pixels count: in O(N²) time, for small images and patches, or on a lattice.

    Args:
        spatial_sigma: Deviation in pixels at the start, or one for each axis in their order.
        color_sigma: Deviation in levels of the guidance at the start.
        filter: "exact"; "lattice" approximates it in time linear in the pixels, and gradients are those of what it
            computes.
    Attributes:
        sigma_x, sigma_y, sigma_z: Deviations along the first, second and third spatial axis; those of axes that an
            image does not have are not used.
        sigma_color: Deviation in levels.
    References: Wagner et al. 2022, "Trainable joint bilateral filters for enhanced prediction stability in low-dose
        CT".
    """

    def __init__(self, spatial_sigma: Deviation, color_sigma: float, *, filter: Filter = "lattice") -> None:
        super().__init__()
        one_of(filter, get_args(Filter), "filter")
        given, color = deviations(spatial_sigma, "spatial_sigma"), deviations(color_sigma, "color_sigma")
        sigmas = list(given) if isinstance(given, tuple) else [given]
        if len(sigmas) > 3 or isinstance(color, tuple):
            raise ValueError(
                f"spatial_sigma={spatial_sigma!r} and color_sigma={color_sigma!r} must be 1 to 3 numbers and one"
            )
        alike = np.ndim(spatial_sigma) == 0
        self.axes = (1, 2, 3) if alike else (len(sigmas),)
        self.filter = filter
        for name, sigma in zip("xyz", sigmas * 3 if alike else [*sigmas, 0.01, 0.01], strict=False):
            self.register_parameter(f"sigma_{name}", nn.Parameter(torch.tensor(sigma)))
        self.sigma_color = nn.Parameter(torch.tensor(color))

    @speaking(LAYER_TERMS)
    def forward(self, input_tensor: Tensor, guidance_tensor: Tensor) -> Tensor:
        """Weighted means of the input.

        Args:
            input_tensor: (B, C, *spatial), with as many axes as deviations, or up to 3 if one was given.
            guidance_tensor: (B, K, *spatial); all channels are compared. (MONAI takes one of each.)
        Returns: In the shape and dtype of the input.
        Raises:
            TypeError: if these are no floating-point tensors.
            ValueError: if shapes do not fit, or values are not finite.
        """
        _check_pair(input_tensor, guidance_tensor, "input_tensor", "guidance_tensor")
        axes = input_tensor.ndim - 2
        if axes not in self.axes:
            raise ValueError(
                f"input_tensor has shape {tuple(input_tensor.shape)}, {axes} spatial axes, but spatial_sigma was given "
                f"for {self.axes[0]}"
            )
        sigmas = [self.sigma_x, self.sigma_y, self.sigma_z][:axes]
        guide = guidance_tensor.to(input_tensor.device)
        name = "input_tensor" if guidance_tensor is input_tensor else "guidance_tensor"
        return _bilateral(input_tensor, guide, name, sigmas, self.sigma_color, self.filter)


class TrainableBilateralFilter(TrainableJointBilateralFilter):
    """A bilateral filter whose deviations are trained: the input is its own guidance.

    References: Wagner et al. 2022, "Ultralow-parameter denoising: trainable bilateral filter layers in computed
        tomography".
    """

    def forward(self, input_tensor: Tensor) -> Tensor:  # type: ignore[override]
        """Weighted means of the input (B, C, *spatial), all channels of which are compared. (MONAI takes one.)"""
        return super().forward(input_tensor, input_tensor)


def install() -> None:
    """Put `CRF` and `PHLFilter` in the place of MONAI's, in `monai.networks.blocks` and `monai.networks.layers`.

    Modules that have imported the names before keep MONAI's. The other filters stay: their numbers are not the same.

    Raises: ImportError: if MONAI is not installed.
    """
    try:
        modules = [
            import_module(f"monai.networks.{name}") for name in ("blocks", "blocks.crf", "layers", "layers.filtering")
        ]
    except ImportError as error:
        raise ImportError(
            "crfrnn.compat.monai.install() puts names into MONAI, which is not installed: pip install monai, or import "
            "them from crfrnn.compat.monai"
        ) from error
    for module in modules:
        for ours in (CRF, PHLFilter):
            if hasattr(module, ours.__name__):
                setattr(module, ours.__name__, ours)


def _doubt_order(logits: Tensor) -> None:
    """Warn of logits (B, C, *spatial) whose classes were last; with their axes turned, nothing gives that away."""
    scores = None if torch.compiler.is_compiling() or not len(logits) else readable(logits)
    alike = None if scores is None else likeness(scores[0])
    if alike is not None and alike.classes_last:
        warn_of_input(classes_last(tuple(logits.shape[1:]), alike.kind, "input_tensor"))


def _keys(keys: Hashable | Sequence[Hashable]) -> tuple[Hashable, ...]:
    return tuple(keys) if isinstance(keys, list | tuple) else (keys,)


def _check_pair(scores: Tensor, beside: Tensor, name: str, name_beside: str) -> None:
    for tensor, called in ((scores, name), (beside, name_beside)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{called} is a {type(tensor).__name__}; expected a torch.Tensor")
    layout = "(batch, channels, *spatial) with 1 to 3 spatial axes"
    if not 3 <= scores.ndim <= 5 or 0 in scores.shape:
        raise ValueError(f"{name} has shape {tuple(scores.shape)}; expected {layout}")
    if beside.is_complex():
        raise TypeError(f"{name_beside} is {beside.dtype}; expected real numbers")
    if not scores.is_floating_point():
        raise TypeError(f"{name} is {scores.dtype}; expected a floating-point tensor: call .float() first")
    if (beside.shape[:1], beside.shape[2:], beside.ndim) != (scores.shape[:1], scores.shape[2:], scores.ndim):
        raise ValueError(
            f"{name_beside} has shape {tuple(beside.shape)}; expected {layout}, of the same batch and spatial shape as "
            f"{name} of shape {tuple(scores.shape)}"
        )


def _bilateral(values: Tensor, guide: Tensor, name: str, spatial: Sequence[Any], color: Any, filter: Filter) -> Tensor:
    """Weighted means of values by position and guide; deviations, one for each axis in their order, may be tensors.

    Args:
        name: What the guide is called.
    """
    guide = _readable(guide)
    levels = None if torch.compiler.is_compiling() else readable(guide)
    if levels is not None:
        check_finite(levels, name)
    if filter == "lattice" and guide.shape[1] + len(spatial) > MAX_FEATURES:
        raise ValueError(
            f"{name} has {guide.shape[1]} channels; with {len(spatial)} axes that makes "
            f"{guide.shape[1] + len(spatial)} features, and a lattice takes at most {MAX_FEATURES}: reduce the "
            "channels, for example by PCA"
        )
    images, _, *shape = values.shape
    axes = range(len(shape))
    columns = []
    for axis, (length, sigma) in enumerate(zip(shape, spatial, strict=True)):
        places = torch.arange(length, dtype=guide.dtype, device=guide.device) / sigma
        columns.append(places.reshape(-1, *(1 for _ in axes[axis + 1 :])).expand(images, 1, *shape))
    return gaussian_filter(values, torch.cat([*columns, guide / color], dim=1), filter=filter)


def _readable(features: Tensor) -> Tensor:
    """Features in a precision that can hold positions and be divided: 16 bits and whole numbers become float32."""
    return features if features.dtype == torch.float64 else features.float()


def _turned(tensor: Tensor) -> Tensor:
    """(B, C, *spatial) with the spatial axes in reverse order."""
    return tensor.permute(0, 1, *range(tensor.ndim - 1, 1, -1))


def _on(device: torch.device, value: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
