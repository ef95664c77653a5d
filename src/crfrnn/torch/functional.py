"""The dense CRF and its Gaussian filter as differentiable functions of tensors: checks, types, couplings."""

from typing import Any

import torch
from torch import Tensor

from crfrnn.batch import Settings, as_list
from crfrnn.parameters import CRFParameters, chosen
from crfrnn.threads import thread_count
from crfrnn.torch import ops

LAYOUT = "(batch, {}, *spatial) with 1 to 3 spatial axes"
SMALL = 64


def mean_field(
    logits: Tensor,
    image: Tensor,
    mask: Tensor | None = None,
    parameters: CRFParameters | str = "crfrnn",
    *,
    spatial_weight: Any = None,
    bilateral_weight: Any = None,
    compatibility: Any = None,
    return_probabilities: bool = False,
    threads: int | None = None,
) -> Tensor:
    """Refine a batch of logits by mean-field iterations of a dense CRF, differentiably.

    Computed in float64 for float64 logits, else in float32, under autocast too; the result has the logits' dtype.
    Gradients go to the logits, the weights and the compatibility.

    Args:
        logits: (B, C, *spatial) class scores, higher is likelier; 1 to 3 spatial axes.
        image: (B, K, *spatial) in the units of theta_beta (0 to 255 for the default). It gets no gradient.
        mask: (B, *spatial) weight of each pixel; those of weight 0 neither send nor receive messages.
        parameters: Kernels, normalisation, iterations, damping and weights, or the name of a preset.
        spatial_weight: Tensor that takes the place of the parameters': a number, (C,) or (C, C).
        bilateral_weight: The same for the bilateral kernel.
        compatibility: The same for M in a = U - M (W_s s + W_b b).
        return_probabilities: Return softmax(a) instead of the logits a.
        threads: Threads to use; None takes torch.get_num_threads().
    Returns: (B, C, *spatial) logits, or probabilities that sum to 1 over classes.
    Raises: ValueError: if shapes do not fit, scores are not finite or a tensor is not on the CPU.
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
            as_list(given.theta_alpha),
            as_list(given.theta_beta),
            as_list(given.theta_gamma),
            given.normalization,
            given.spatial,
            given.neighbour_rounds,
            given.iterations,
            given.damping,
            threads,
        ),
        return_probabilities,
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
) -> Tensor:
    """`mean_field` with its parameters taken apart."""
    _check_scores("logits", logits)
    _check_beside("image", image, "logits", logits)
    _check_mask(mask, "logits", logits)
    if settings.threads is not None:
        thread_count(settings.threads)
    dtype = _compute_dtype(logits)
    spatial, bilateral = (
        _coupling(name, compatibility, weight, logits.shape[1], dtype)
        for name, weight in (("spatial_weight", spatial_weight), ("bilateral_weight", bilateral_weight))
    )
    trained = logits.requires_grad or spatial.requires_grad or bilateral.requires_grad
    refined, _ = ops.mean_field(
        logits.to(dtype),
        _readable(image),
        mask if mask is None else _readable(mask),
        spatial,
        bilateral,
        torch.is_grad_enabled() and trained,
        *settings,
    )
    return (torch.softmax(refined, dim=1) if return_probabilities else refined).to(logits.dtype)


def gaussian_filter(
    values: Tensor,
    features: Tensor,
    mask: Tensor | None = None,
    *,
    normalization: str = "after",
    neighbour_rounds: int = 0,
    threads: int | None = None,
) -> Tensor:
    """Filter values by the Gaussian exp(-½ |f_i - f_j|²) of any features, on the permutohedral lattice.

    Gradients go to the values, by the transposed filter, to any order; features get none.

    Args:
        values: (B, C, *spatial).
        features: (B, d, *spatial), d from 1 to 16, divided by their deviations.
        mask: (B, *spatial) weight of each point; those of weight 0 neither send nor receive.
        normalization: "after" (weighted means), "before", "symmetric" or "none".
        neighbour_rounds: Rounds of vertices added that no point touches: more exact, several times the cost.
        threads: Threads to use; None takes torch.get_num_threads().
    Returns: Filtered values in their own dtype; computed in float64 for float64 values, else in float32.
    Raises: ValueError: if shapes do not fit, features are not finite or require a gradient.
    """
    _check_scores("values", values)
    _check_beside("features", features, "values", values)
    _check_mask(mask, "values", values)
    if threads is not None:
        thread_count(threads)
    dtype = _compute_dtype(values)
    weights = mask if mask is None else _readable(mask)
    arguments = (features.to(dtype), weights, normalization, neighbour_rounds, threads)
    handle = ops.lattice(*arguments)
    filtered: Tensor = ops.gaussian_filter(values.to(dtype), handle, False, *arguments)
    return filtered.to(values.dtype)


def _coupling(name: str, compatibility: Any, weight: Any, classes: int, dtype: torch.dtype) -> Tensor:
    """E = M W from numbers, diagonals (C,) and matrices (C, C); M = None is Potts, -I."""
    W = _weight(name, weight, classes, dtype)
    if compatibility is None:
        return -W
    M = _weight("compatibility", compatibility, classes, dtype)
    if M.ndim == 2 and W.ndim == 2:
        return _product(M, W)
    return M[:, None] * W if M.ndim == 1 and W.ndim == 2 else M * W


def _product(M: Tensor, W: Tensor) -> Tensor:
    """M W in full precision, also under autocast."""
    if len(M) <= SMALL:
        # A BLAS starts its threads for even 21×21 numbers, and on a busy machine waits tens of milliseconds for them.
        return (M[:, :, None] * W).sum(dim=1)
    # Autocast takes float32 products down to 16 bits, but leaves float64 alone.
    return (M.double() @ W.double()).to(M.dtype)


def _weight(name: str, given: Any, classes: int, dtype: torch.dtype) -> Tensor:
    tensor = given if isinstance(given, Tensor) else torch.as_tensor(given, dtype=dtype)
    if tensor.ndim > 2 or any(size != classes for size in tensor.shape):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected a number, ({classes},) or ({classes}, {classes}) "
            f"for logits with {classes} classes"
        )
    _check_device(name, tensor)
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


def _check_beside(name: str, tensor: Tensor, beside: str, scores: Tensor) -> None:
    _check_tensor(name, tensor)
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
    _check_no_gradient(name, tensor)


def _check_mask(mask: Tensor | None, beside: str, scores: Tensor) -> None:
    if mask is None:
        return
    _check_tensor("mask", mask)
    expected = (scores.shape[0], *scores.shape[2:])
    if mask.shape != expected:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; expected {expected}, without a channel axis, "
            f"to go with {beside} of shape {tuple(scores.shape)}"
        )
    _check_no_gradient("mask", mask)


def _check_no_gradient(name: str, tensor: Tensor) -> None:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires a gradient, which crfrnn does not compute; pass {name}.detach()")


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; expected a torch.Tensor")
    _check_device(name, tensor)


def _check_device(name: str, tensor: Tensor) -> None:
    if tensor.device.type not in ("cpu", "meta"):
        raise ValueError(
            f"{name} is on {tensor.device}; crfrnn.torch runs on the CPU: call .cpu() on it, or on the layer"
        )
