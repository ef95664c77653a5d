"""The dense CRF and its Gaussian filter as differentiable functions of tensors: checks, types, couplings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from crfrnn.batch import Settings, as_list
from crfrnn.parameters import CRFParameters, Filter, Normalization, chosen, in_pixels, one_of
from crfrnn.threads import thread_count
from crfrnn.torch import exact, ops
from crfrnn.unary import num_classes_of

LAYOUT = "(batch, {}, *spatial) with 1 to 3 spatial axes"
SMALL = 64


def mean_field(
    logits: Tensor,
    image: Tensor,
    mask: Tensor | None = None,
    parameters: CRFParameters | str | Path = "crfrnn",
    *,
    spatial_weight: Any = None,
    bilateral_weight: Any = None,
    compatibility: Any = None,
    theta_alpha: Tensor | None = None,
    theta_beta: Tensor | None = None,
    theta_gamma: Tensor | None = None,
    spacing: float | Sequence[float] | None = None,
    return_probabilities: bool = False,
    deterministic: bool = True,
    storage: torch.dtype | None = None,
    threads: int | None = None,
) -> Tensor:
    """Refine a batch of logits by mean-field iterations of a dense CRF, differentiably.

    Computed in float64 for float64 logits, else in float32, under autocast too; the result has the logits' dtype.
    Gradients go to the logits, the weights and the compatibility. With parameters of filter="exact" they also go to
    image, mask and θ, but not to gradients of these again.

    Args:
        logits: (B, C, *spatial) class scores, higher is likelier; 1 to 3 spatial axes. One channel is the log-odds of
            the foreground: weights and compatibility are then of two classes, background first.
        image: (B, K, *spatial) in the units of theta_beta (0 to 255 for the default).
        mask: (B, *spatial) weight of each pixel; those of weight 0 neither send nor receive messages.
        parameters: Kernels, normalisation, iterations, damping and weights, the name of a preset, or a parameters file.
        spatial_weight: Tensor that takes the place of the parameters': a number, (C,) or (C, C).
        bilateral_weight: The same for the bilateral kernel.
        compatibility: The same for M in a = U - M (W_s s + W_b b).
        theta_alpha: Tensor that takes the place of the parameters': a number above 0, or one for each axis as
            (x, y[, z]). For filter="exact" only, like the next two.
        theta_beta: The same, or one for each channel.
        theta_gamma: The same, or one for each axis. Its value is read, which makes a GPU wait.
        spacing: Distance between neighbouring pixels, a number or one for each axis as (x, y[, z]); θ_α and θ_γ are
            then in its unit. None: they are in pixels.
        return_probabilities: Return softmax(a) instead of the logits a.
        deterministic: Give the same bits in every run, on a GPU too, where sums in any order may be faster
            (docs/gpu.md). The CPU always does; so do all with `torch.use_deterministic_algorithms(True)`.
        storage: torch.float16 or torch.bfloat16 to keep marginals and messages in 16 bits on other devices than the
            CPU, at half the memory and a rounding of 2^-9; numbers are computed as without. None keeps them as
            computed. Not for filter="exact".
        threads: Threads to use on the CPU; None takes torch.get_num_threads().
    Returns: (B, C, *spatial) logits, or probabilities that sum to 1 over classes; of one channel, log-odds or
        probabilities of the foreground.
    Raises: ValueError: if shapes do not fit, scores on the CPU are not finite, or tensors are on several devices.
    References: Krähenbühl & Koltun 2011, eq. 4; Zheng et al. 2015, algorithm 1.
    """
    given = chosen(parameters)
    if given.class_threshold:
        raise ValueError("class_threshold is not available in crfrnn.torch; set it to 0, or use crfrnn.mean_field")
    return run(
        logits,
        image,
        mask,
        given.spatial_weight if spatial_weight is None else spatial_weight,
        given.bilateral_weight if bilateral_weight is None else bilateral_weight,
        given.compatibility if compatibility is None else compatibility,
        Settings(
            _theta("theta_alpha", theta_alpha, given),
            _theta("theta_beta", theta_beta, given),
            _theta("theta_gamma", theta_gamma, given),
            given.normalization,
            given.spatial,
            given.filter,
            given.neighbour_rounds,
            given.iterations,
            given.damping,
            threads,
            deterministic,
            check_storage(storage, given.filter),
        ),
        return_probabilities,
        spacing,
    )


def run(
    logits: Tensor,
    image: Tensor,
    mask: Tensor | None,
    spatial_weight: Any,
    bilateral_weight: Any,
    compatibility: Any,
    settings: Settings,
    return_probabilities: bool,
    spacing: float | Sequence[float] | None = None,
) -> Tensor:
    """`mean_field` with its parameters taken apart."""
    _check_scores("logits", logits)
    _check_beside("image", image, "logits", logits, settings.filter)
    _check_mask(mask, "logits", logits, settings.filter)
    if settings.threads is not None:
        thread_count(settings.threads)
    if spacing is not None:
        settings = _in_pixels(settings, spacing, logits.ndim - 2)
    dtype = _compute_dtype(logits)
    spatial, bilateral = (
        _coupling(name, compatibility, weight, logits, dtype)
        for name, weight in (("spatial_weight", spatial_weight), ("bilateral_weight", bilateral_weight))
    )
    trained = logits.requires_grad or spatial.requires_grad or bilateral.requires_grad
    binary = logits.shape[1] == 1
    scores = logits.to(dtype)
    scores = torch.cat([torch.zeros_like(scores), scores], dim=1) if binary else scores
    inputs = scores, _readable(image), mask if mask is None else _readable(mask)
    if settings.filter == "exact" and _beyond_native(image, mask, settings):
        refined = exact.mean_field(*inputs, (spatial, bilateral), settings)
    else:
        refined, _ = ops.mean_field(*inputs, spatial, bilateral, torch.is_grad_enabled() and trained, *settings)
    result: Tensor = torch.softmax(refined, dim=1) if return_probabilities else refined
    if binary:
        result = result[:, 1:] if return_probabilities else result[:, 1:] - result[:, :1]
    return result.to(logits.dtype)


def gaussian_filter(
    values: Tensor,
    features: Tensor,
    mask: Tensor | None = None,
    *,
    normalization: str = "after",
    neighbour_rounds: int = 0,
    filter: Filter = "lattice",
    deterministic: bool = True,
    threads: int | None = None,
) -> Tensor:
    """Filter values by the Gaussian exp(-½ |f_i - f_j|²) of any features.

    Gradients go to the values, by the transposed filter, to any order. With filter="exact" they also go to features
    and mask, once.

    Args:
        values: (B, C, *spatial).
        features: (B, d, *spatial), divided by their deviations; d from 1 to 16 on a lattice.
        mask: (B, *spatial) weight of each point; those of weight 0 neither send nor receive.
        normalization: "after" (weighted means), "before", "symmetric" or "none".
        neighbour_rounds: Rounds of vertices added that no point touches: more exact, several times the cost.
        filter: On the permutohedral "lattice", in time linear in the points, or "exact", over all pairs of them.
        deterministic: Give the same bits in every run, on a GPU too, where sums in any order may be faster.
        threads: Threads to use on the CPU; None takes torch.get_num_threads().
    Returns: Filtered values in their own dtype; computed in float64 for float64 values, else in float32.
    Raises: ValueError: if shapes do not fit, features on the CPU are not finite, features
        require a gradient from a lattice, or tensors are on several devices.
    """
    one_of(filter, get_args(Filter), "filter")
    _check_scores("values", values)
    _check_beside("features", features, "values", values, filter)
    _check_mask(mask, "values", values, filter)
    if threads is not None:
        thread_count(threads)
    dtype = _compute_dtype(values)
    weights = mask if mask is None else _readable(mask)
    if filter == "exact":
        one_of(normalization, get_args(Normalization), "normalization")
        if neighbour_rounds:
            raise ValueError(f"filter='exact' has no lattice for neighbour_rounds={neighbour_rounds}; leave it at 0")
        return exact.gaussian_filter(values.to(dtype), features.to(dtype), weights, normalization, threads).to(
            values.dtype
        )
    arguments = (features.to(dtype), weights, normalization, neighbour_rounds, deterministic, threads)
    handle = ops.lattice(*arguments)
    filtered: Tensor = ops.gaussian_filter(values.to(dtype), handle, False, *arguments)
    return filtered.to(values.dtype)


def check_storage(storage: torch.dtype | None, filter: Filter) -> torch.dtype | None:
    """A dtype of 16 bits, or None."""
    if storage not in (None, torch.float16, torch.bfloat16):
        raise ValueError(f"storage={storage!r} must be torch.float16, torch.bfloat16 or None")
    if storage is not None and filter == "exact":
        raise ValueError(f"filter='exact' has no lattice to keep in {storage}; leave out storage")
    return storage


def _theta(name: str, tensor: Tensor | None, given: CRFParameters) -> list[Any]:
    """θ as `Settings` hold it: the parameters', or the numbers of a tensor that takes their place."""
    if tensor is None:
        return as_list(getattr(given, name))
    if given.filter != "exact":
        raise ValueError(f"{name} as a tensor needs parameters with filter='exact'; here it is {given.filter!r}")
    _check_tensor(name, tensor)
    if tensor.ndim > 1 or tensor.numel() == 0 or not tensor.is_floating_point():
        raise ValueError(
            f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected floating-point, a number or one for "
            "each axis or channel"
        )
    if tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((tensor > 0).all()):
        raise ValueError(f"{name}={tensor.tolist()} must be above 0")
    return list(tensor.reshape(-1).unbind())


def _beyond_native(image: Tensor, mask: Tensor | None, settings: Settings) -> bool:
    """Whether the native mean field cannot do it: on another device, or with gradients to image, mask or θ."""
    if image.device.type not in ("cpu", "meta"):
        return True
    trained = image.requires_grad or (mask is not None and mask.requires_grad)
    thetas = (*settings.theta_alpha, *settings.theta_beta, *settings.theta_gamma)
    return (torch.is_grad_enabled() and trained) or any(isinstance(theta, Tensor) for theta in thetas)


def _in_pixels(settings: Settings, spacing: float | Sequence[float], axes: int) -> Settings:
    """Settings with θ_α and θ_γ in pixels that were in the unit of the spacing."""
    return settings._replace(
        theta_alpha=list(in_pixels(settings.theta_alpha, spacing, axes, "theta_alpha")),
        theta_gamma=list(in_pixels(settings.theta_gamma, spacing, axes, "theta_gamma")),
    )


def _coupling(name: str, compatibility: Any, weight: Any, logits: Tensor, dtype: torch.dtype) -> Tensor:
    """E = M W from numbers, diagonals (C,) and matrices (C, C); M = None is Potts, -I."""
    W = _weight(name, weight, logits, dtype)
    if compatibility is None:
        return -W
    M = _weight("compatibility", compatibility, logits, dtype)
    if M.ndim == 2 and W.ndim == 2:
        return _product(M, W)
    return M[:, None] * W if M.ndim == 1 and W.ndim == 2 else M * W


def _product(M: Tensor, W: Tensor) -> Tensor:
    """M W in full precision, also under autocast."""
    if len(M) <= SMALL:
        # A BLAS starts its threads for even 21×21 numbers, and on a busy machine waits tens of milliseconds for them.
        return (M[:, :, None] * W).sum(dim=1)
    with torch.autocast(M.device.type, enabled=False):
        return M @ W


def _weight(name: str, given: Any, logits: Tensor, dtype: torch.dtype) -> Tensor:
    classes = num_classes_of(logits.shape[1])
    if isinstance(given, int | float):
        # A GPU would wait for a number that is copied to it.
        tensor = torch.full((), given, dtype=dtype, device=logits.device)
    else:
        tensor = given if isinstance(given, Tensor) else torch.as_tensor(given, dtype=dtype, device=logits.device)
    if tensor.ndim > 2 or any(size != classes for size in tensor.shape):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected a number, ({classes},) or ({classes}, {classes}) "
            f"for logits with {classes} classes{' or one channel' if classes == 2 else ''}"
        )
    _check_device(name, tensor, "logits", logits)
    return tensor.to(dtype)


def _compute_dtype(scores: Tensor) -> torch.dtype:
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


def _readable(tensor: Tensor) -> Tensor:
    """The tensor in a dtype that NumPy knows."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check_scores(name: str, tensor: Tensor) -> None:
    _check_tensor(name, tensor)
    layout = LAYOUT.format("classes" if name == "logits" else "channels")
    if not 3 <= tensor.ndim <= 5:
        raise ValueError(f"{name} have shape {tuple(tensor.shape)}; expected {layout}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} are {tensor.dtype}; expected a floating-point tensor: call .float() first")
    if tensor.numel() == 0:
        raise ValueError(f"{name} have shape {tuple(tensor.shape)}, which holds nothing; expected {layout}")


def _check_beside(name: str, tensor: Tensor, beside: str, scores: Tensor, filter: Filter) -> None:
    _check_tensor(name, tensor)
    _check_device(name, tensor, beside, scores)
    expected = (scores.shape[0], "channels", *scores.shape[2:])
    if tensor.ndim != scores.ndim or tensor.shape[0] != scores.shape[0] or tensor.shape[2:] != scores.shape[2:]:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected ({', '.join(map(str, expected))}) "
            f"to go with {beside} of shape {tuple(scores.shape)}"
        )
    if tensor.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected at least one channel")
    if tensor.is_complex():
        raise TypeError(f"{name} is {tensor.dtype}; expected real numbers")
    if filter != "exact":
        _check_no_gradient(name, tensor)


def _check_mask(mask: Tensor | None, beside: str, scores: Tensor, filter: Filter) -> None:
    if mask is None:
        return
    _check_tensor("mask", mask)
    _check_device("mask", mask, beside, scores)
    expected = (scores.shape[0], *scores.shape[2:])
    if mask.shape != expected:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; expected {expected}, without a channel axis, "
            f"to go with {beside} of shape {tuple(scores.shape)}"
        )
    if filter != "exact":
        _check_no_gradient("mask", mask)


def _check_no_gradient(name: str, tensor: Tensor) -> None:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires a gradient, which a lattice does not give; pass {name}.detach(), or take filter='exact'"
        )


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; expected a torch.Tensor")


def _check_device(name: str, tensor: Tensor, beside: str, scores: Tensor) -> None:
    if tensor.device != scores.device:
        raise ValueError(
            f"{name} is on {tensor.device}, but {beside} are on {scores.device}; move all, the layer too, to one device"
        )
