"""The dense CRF and its Gaussian filter as differentiable functions of tensors: checks, types, couplings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, overload

import torch
from torch import Tensor

from crfrnn.crf import CRF, Bilateral, Exact, Features, Given, Lattice, Normalization, Spatial, thetas_of
from crfrnn.files.parameter_files import crf_of
from crfrnn.inference import batch
from crfrnn.inference.backend import Ability, Asked, Execution, Inputs, able, asked_by
from crfrnn.kernels.build import given_mapping
from crfrnn.numbers import in_pixels, one_of, spacing_steps
from crfrnn.parameters import CRFParameters, Filter
from crfrnn.threads import thread_count
from crfrnn.torch import differentiable, gpu, ops
from crfrnn.torch.scene import (
    Own,
    Scene,
    check_beside,
    check_device,
    check_mask,
    check_scene,
    check_scores,
    check_tensor,
)
from crfrnn.unary import num_classes_of

SMALL = 64
NO_GRADIENT = "{name} requires a gradient, which a lattice does not give; pass {name}.detach(), or use filter='exact'"


def mean_field(
    logits: Tensor,
    image: Tensor | None,
    mask: Tensor | None = None,
    parameters: CRFParameters | CRF | str | Path = "crfrnn",
    *,
    given: Mapping[str, Own] | None = None,
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

    Computed in float64 for float64 logits, else in float32, also under autocast; the result has the logits' dtype.
    Gradients go to the logits, the weights and the compatibility. With filter="exact" in the parameters they also go to
    image, mask and θ, but only first derivatives.

    Args:
        logits: (B, C, *spatial) class scores, higher is likelier; 1 to 3 spatial axes. One channel is the log-odds of
            the foreground: weights and compatibility are then of two classes, background first.
        image: (B, K, *spatial) in the units of theta_beta (0 to 255 for the default). None if no kernel needs it.
        mask: (B, *spatial) weight of each pixel; those of weight 0 neither send nor receive messages.
        parameters: `CRFParameters`, a `CRF` of any kernels, the name of a preset, or a parameters file.
        given: For kernels over `Given(name)`, by name: features (B, d, *spatial), divided by their deviations, or the
            kernel itself, a function or module from values (B, channels, *spatial) to as many. For its norm it is
            also called with one channel.
        spatial_weight: Tensor that replaces the first spatial kernel's weight: a number, (C,) or (C, C).
        bilateral_weight: The same for the bilateral kernel.
        compatibility: The same for M in a = U - M (W_s s + W_b b).
        theta_alpha: Tensor that replaces the θ_α of the parameters: a number above 0, or one for each axis as
            (x, y[, z]). For filter="exact" only, like the next two.
        theta_beta: The same, or one for each channel.
        theta_gamma: The same, or one for each axis. Its value is read, which makes a GPU wait.
        spacing: Distance between neighbouring pixels, a number or one for each axis as (x, y[, z]); θ_α and θ_γ are
            then in its unit. None: they are in pixels.
        return_probabilities: Return softmax(a) instead of the logits a.
        deterministic: Give the same bits in every run, on a GPU too, where sums in any order may be faster
            (docs/gpu.md). The CPU always does; so do all with `torch.use_deterministic_algorithms(True)`.
        storage: torch.float16 or torch.bfloat16 to keep marginals in 16 bits, at half the memory and a rounding of
            2^-9; this does not change the precision of computing. On the CPU these are the marginals that wait for the
            gradient, and results are the same; other devices keep messages so too. None keeps them as computed. Not
            for filter="exact".
        threads: Threads to use on the CPU; None takes torch.get_num_threads().
    Returns: (B, C, *spatial) logits, or probabilities that sum to 1 over classes; of one channel, log-odds or
        probabilities of the foreground.
    Raises: ValueError: if shapes do not fit, scores on the CPU are not finite, or tensors are on several devices.
    References: Krähenbühl & Koltun 2011, eq. 4; Zheng et al. 2015, algorithm 1.
    """
    crf = crf_of(parameters)
    thetas = {
        name: theta
        for name, theta in (("theta_alpha", theta_alpha), ("theta_beta", theta_beta), ("theta_gamma", theta_gamma))
        if theta is not None
    }
    crf.require_thetas(thetas)
    crf, weights = _weighted(crf, {Spatial: spatial_weight, Bilateral: bilateral_weight})
    return refine(
        crf,
        Scene(logits, image, mask, given_mapping(given), spacing),
        weights,
        crf.compatibility if compatibility is None else compatibility,
        return_probabilities,
        Execution(threads, deterministic, check_storage(storage, crf)),
        thetas,
    )


def _weighted(crf: CRF, weights: Mapping[type[Features], Any]) -> tuple[CRF, list[Any]]:
    """The CRF without kernels of weight 0, and each one's weight; a given one is for the first kernel of its name."""
    kinds = [type(kernel.features) for kernel in crf.kernels]
    given = {kind: weight for kind, weight in weights.items() if weight is not None}
    for kind in given:
        if kind not in kinds:
            name = kind.__name__.lower()
            raise ValueError(f"{name}_weight has no kernel {name!r}; the kernels are {', '.join(crf.names) or 'none'}")
    if not given:
        return crf.active, [kernel.weight for kernel in crf.active.kernels]
    pairs = [(kernel, given.pop(kind, None)) for kind, kernel in zip(kinds, crf.kernels, strict=True)]
    kept = [pair for pair in pairs if pair[1] is not None or any(pair[0] is kernel for kernel in crf.active.kernels)]
    if len(kept) < len(pairs):
        crf = replace(crf, kernels=[kernel for kernel, _ in kept])
    return crf, [kernel.weight if weight is None else weight for kernel, weight in kept]


def refine(
    crf: CRF,
    scene: Scene,
    weights: Sequence[Any],
    compatibility: Any,
    return_probabilities: bool,
    execution: Execution,
    thetas: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """`mean_field` of a CRF whose weights and compatibility are numbers, arrays or tensors of their own."""
    logits, mask = scene.logits, scene.mask
    check_scores("logits", logits)
    image = scene.image if any(kernel.features.reads_image for kernel in crf.kernels) else None
    check_scene(crf, scene)
    if execution.threads is not None:
        thread_count(execution.threads)
    overrides = {name: _theta(name, theta) for name, theta in (thetas or {}).items()}
    dtype = _compute_dtype(logits)
    couplings = [
        _coupling(f"{name}_weight", compatibility, weight, logits, dtype)
        for name, weight in zip(crf.names, weights, strict=True)
    ]
    binary = logits.shape[1] == 1
    scores = logits.to(dtype)
    scores = torch.cat([torch.zeros_like(scores), scores], dim=1) if binary else scores
    given = {name: _own(scene.given[name]) for name in crf.given_names}
    spacing = None if scene.spacing is None else spacing_steps(scene.spacing)
    inputs = Inputs(scores, _readable(image), _readable(mask), given, spacing)

    operator = batch if logits.device.type in ("cpu", "meta") else gpu
    trained = any(map(_trained, (logits, *couplings)))
    asked = _asked(crf, inputs, overrides, execution, trained)
    if able((operator, differentiable), asked, "crfrnn.torch") is differentiable:
        refined = _differentiable(crf, inputs, couplings, overrides, execution)
    else:
        model = (*inputs[:3], list(given.values()), couplings, crf.text, spacing, *execution)
        refined, _ = ops.mean_field(trained, *model)
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
    Raises: ValueError: if shapes do not fit, features on the CPU are not finite, features of a lattice require a
        gradient, or tensors are on several devices.
    """
    one_of(filter, get_args(Filter), "filter")
    check_scores("values", values)
    check_beside("features", features, "values", values)
    check_mask(mask, "values", values)
    if threads is not None:
        thread_count(threads)
    dtype = _compute_dtype(values)
    weights = _readable(mask)
    if filter == "exact":
        one_of(normalization, get_args(Normalization), "normalization")
        if neighbour_rounds:
            raise ValueError(f"filter='exact' has no lattice for neighbour_rounds={neighbour_rounds}; leave it at 0")
        exact = differentiable.gaussian_filter(values.to(dtype), features.to(dtype), weights, normalization, threads)
        return exact.to(values.dtype)
    for name, tensor in (("features", features), ("mask", mask)):
        if tensor is not None and _trained(tensor):
            raise ValueError(NO_GRADIENT.format(name=name))
    arguments = (features.to(dtype), weights, normalization, neighbour_rounds, deterministic, threads)
    handle = ops.lattice(*arguments)
    filtered: Tensor = ops.gaussian_filter(values.to(dtype), handle, False, *arguments)
    return filtered.to(values.dtype)


def check_storage(storage: torch.dtype | None, crf: CRF) -> torch.dtype | None:
    """A dtype of 16 bits, or None."""
    if storage not in (None, torch.float16, torch.bfloat16):
        raise ValueError(f"storage={storage!r} must be torch.float16, torch.bfloat16 or None")
    if storage is not None and any(isinstance(kernel.filter, Exact) for kernel in crf.kernels):
        raise ValueError(f"filter='exact' has no lattice to keep in {storage}; leave out storage")
    return storage


def _asked(
    crf: CRF, inputs: Inputs, thetas: Mapping[str, Any], execution: Execution, trained: bool
) -> dict[Asked, str]:
    """What a call asks of a backend, each with the message for when it is missing."""
    asked = asked_by(crf)
    on_lattices = [kernel.features for kernel in crf.kernels if isinstance(kernel.filter, Lattice)]
    if any(not isinstance(own, Tensor) for own in inputs.given.values()):
        asked[Ability.OWN_KERNEL] = "a kernel of your own is not available"
    if execution.storage is not None:
        asked[Ability.SIXTEEN_BITS] = f"storage={execution.storage} is not available; leave it out"
    if trained and Ability.CLASS_THRESHOLD in asked:
        asked[Ability.GRADIENT_WITH_CLASS_THRESHOLD] = (
            "class_threshold is not available where gradients are wanted; set it to 0"
        )
    if trained and getattr(crf.solver, "gradient", "unrolled") == "implicit":
        asked[Ability.IMPLICIT_GRADIENT] = "gradient='implicit' is not available; set it to 'unrolled'"
    image_on_lattices = any(each.reads_image for each in on_lattices)
    given = ((f"given[{name!r}]", own, Given(name) in on_lattices) for name, own in inputs.given.items())
    for name, tensor, on_a_lattice in (
        ("image", inputs.image, image_on_lattices),
        ("mask", inputs.mask, len(on_lattices) > 0),
        *given,
    ):
        if isinstance(tensor, Tensor) and _trained(tensor):
            asked[Ability.GRADIENT_TO_GUIDE] = NO_GRADIENT.format(name=name)
            if on_a_lattice:
                asked[Ability.GRADIENT_THROUGH_LATTICE] = NO_GRADIENT.format(name=name)
    for name in thetas:
        asked[Ability.GRADIENT_TO_GUIDE] = f"{name} as a tensor needs parameters with filter='exact'"
        if any(name in thetas_of(each) for each in on_lattices):
            asked[Ability.GRADIENT_THROUGH_LATTICE] = f"{name} as a tensor needs parameters with filter='exact'"
    return asked


def _differentiable(
    crf: CRF, inputs: Inputs, couplings: Sequence[Tensor], thetas: Mapping[str, Sequence[Any]], execution: Execution
) -> Tensor:
    """By operations of torch, in pixels."""
    spacing, axes = inputs.spacing, inputs.logits.ndim - 2
    if spacing is not None:
        crf = crf.in_pixels(spacing, axes)
        positions = {name for kernel in crf.kernels for name in kernel.features.positions}
        scaled = {name: in_pixels(thetas[name], spacing, axes, name) for name in thetas if name in positions}
        thetas = {**thetas, **scaled}
    return differentiable.forward(crf, inputs._replace(spacing=None), couplings, thetas, execution)


def _theta(name: str, tensor: Tensor) -> list[Tensor]:
    """The numbers of a tensor that replaces a specification's θ."""
    check_tensor(name, tensor)
    if tensor.ndim > 1 or tensor.numel() == 0 or not tensor.is_floating_point():
        raise ValueError(
            f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected floating-point, a number or one for "
            "each axis or channel"
        )
    if tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((tensor > 0).all()):
        raise ValueError(f"{name}={tensor.tolist()} must be above 0")
    return list(tensor.reshape(-1).unbind())


def _own(given: Own) -> Own:
    return _readable(given) if isinstance(given, Tensor) else given


def _trained(tensor: Tensor) -> bool:
    return tensor.requires_grad and torch.is_grad_enabled()


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
    check_device(name, tensor, "logits", logits)
    return tensor.to(dtype)


def _compute_dtype(scores: Tensor) -> torch.dtype:
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


@overload
def _readable(tensor: Tensor) -> Tensor: ...
@overload
def _readable(tensor: None) -> None: ...
def _readable(tensor: Tensor | None) -> Tensor | None:
    """The tensor in a dtype that NumPy knows."""
    return tensor.float() if tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16) else tensor
