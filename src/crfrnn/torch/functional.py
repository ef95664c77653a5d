"""The dense CRF and its Gaussian filter as differentiable functions of tensors: checks, types, couplings."""

from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import torch
from torch import Tensor

from crfrnn.arrays import MAGNITUDES
from crfrnn.crf import CRF, Bilateral, Exact, Features, Lattice, Normalization, Spatial
from crfrnn.doubts import Doubts
from crfrnn.files.parameter_files import crf_of
from crfrnn.inference import batch
from crfrnn.inference.backend import Ability, Asked, Execution, Inputs, able, asked_by
from crfrnn.kernels.build import given_mapping
from crfrnn.numbers import flag, one_of, spacing_steps
from crfrnn.parameters import CRFParameters, Filter
from crfrnn.threads import thread_count
from crfrnn.torch import differentiable, gpu, ops
from crfrnn.torch.exact_filter import full_precision
from crfrnn.torch.features import thetas_in_pixels
from crfrnn.torch.plausibility import look
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
from crfrnn.torch.upsampling import at_image_size
from crfrnn.unary import num_classes_of
from crfrnn.upsampling import Method

SMALL = 64
NO_GRADIENT = "{name} requires a gradient, which is not available; pass {name}.detach()"


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
    upsampling: Method | None = None,
    return_probabilities: bool = False,
    deterministic: bool = True,
    storage: torch.dtype | None = None,
    count_vertices: bool = False,
    threads: int | None = None,
) -> Tensor:
    """Refine a batch of logits by mean-field iterations of a dense CRF, differentiably.

    Computed in float64 for float64 logits, else in float32, also under autocast; the result has the logits' dtype.
    Gradients go to logits, weights and compatibility, and where they are asked for to image, mask, given features and
    θ, in about twice the time of the backward pass; first derivatives only. Those through a lattice are the exact
    derivative of what it computes (docs/algorithm.md, eq. 22-24).

    Args:
        logits: (B, C, *spatial) class scores, higher is likelier; 1 to 3 spatial axes. One channel is the log-odds of
            the foreground: weights and compatibility are then of two classes, background first.
        image: (B, K, *spatial) in the units of theta_beta (0 to 255 for the default), or in the `image_range` of the
            parameters. None if no kernel needs it.
        mask: (B, *spatial) weight of each pixel; those of weight 0 neither send nor receive messages.
        parameters: `CRFParameters`, a `CRF` of any kernels, the name of a preset, or a parameters file.
        given: For kernels over `Given(name)`, by name: features (B, d, *spatial), divided by their deviations, or the
            kernel itself, a function or module from values (B, channels, *spatial) to as many. For its norm it is
            also called with one channel. For regions, by name: integer ids (B, *spatial), where a negative id is in no
            segment, or memberships (B, S, *spatial) from 0 to 1, which get gradients.
        spatial_weight: Tensor that replaces the first spatial kernel's weight: a number, (C,) or (C, C).
        bilateral_weight: The same for the bilateral kernel.
        compatibility: The same for M in a = U - M (W_s s + W_b b).
        theta_alpha: Tensor that replaces the θ_α of the parameters: a number above 0, or one for each axis as
            (x, y[, z]).
        theta_beta: The same, or one for each channel.
        theta_gamma: The same, or one for each axis. Its value is read, which makes a GPU wait.
        spacing: Distance between neighbouring pixels, a number or one for each axis as (x, y[, z]); θ_α and θ_γ are
            then in its unit. None: they are in pixels.
        upsampling: How logits smaller than the image are brought to its size, "joint-bilateral" (along its edges, as
            `crfrnn.torch.upsample` does) or "bilinear". None is "bilinear" too,
            with an `InputWarning`.
        return_probabilities: Return softmax(a) instead of the logits a.
        deterministic: Give the same bits in every run, on a GPU too, where sums in any order may be faster
            (docs/gpu.md). The CPU always does; so do all with `torch.use_deterministic_algorithms(True)`.
        storage: torch.float16 or torch.bfloat16 to keep marginals in 16 bits, at half the memory and a rounding of
            2^-9; this does not change the precision of computing. On the CPU these are the marginals that wait for the
            gradient, and results are the same; other devices keep messages so too. None keeps them as computed. Not
            for filter="exact".
        count_vertices: On a GPU, wait once in every call for the number of lattice vertices and have room for these
            alone, at about a third of the memory (docs/gpu.md). Such a call cannot be recorded as a CUDA graph.
        threads: Threads to use on the CPU; None takes torch.get_num_threads().
    Returns: (B, C, *spatial) logits, or probabilities that sum to 1 over classes; of one channel, log-odds or
        probabilities of the foreground.
    Warns: crfrnn.InputWarning: on the CPU and not where it is compiled, if levels are far from θ_β, or logits look like
        something else.
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
    scores = at_image_size(logits, image, upsampling, deterministic, threads)
    refined = refine(
        crf,
        Scene(scores, image, mask, given_mapping(given), spacing),
        weights,
        crf.compatibility if compatibility is None else compatibility,
        return_probabilities,
        Execution(threads, deterministic, check_storage(storage, crf), count_vertices),
        thetas,
    )
    if not torch.compiler.is_compiling():
        look(Doubts(), crf, scores, image, thetas, "mean_field(logits, image)")
    return refined


def _weighted(crf: CRF, weights: Mapping[type[Features], Any]) -> tuple[CRF, list[Any]]:
    """The CRF without terms of weight 0, and each one's weight; a given one is for the first kernel of its name."""
    kinds = [type(kernel.features) for kernel in crf.kernels]
    given = {kind: weight for kind, weight in weights.items() if weight is not None}
    for kind in given:
        if kind not in kinds:
            name = kind.__name__.lower()
            raise ValueError(f"{name}_weight has no kernel {name!r}; the kernels are {', '.join(crf.names) or 'none'}")
    if not given:
        return crf.active, [term.weight for term in crf.active.terms]
    replaced = [*(given.pop(kind, None) for kind in kinds), *(None for _ in crf.regions)]
    pairs = list(zip(crf.terms, replaced, strict=True))
    kept = [weight is not None or any(term is each for each in crf.active.terms) for term, weight in pairs]
    chosen = [term.weight if weight is None else weight for term, weight in compress(pairs, kept)]
    return crf if all(kept) else crf.where(kept), chosen


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
    execution = checked_execution(execution)
    return_probabilities = flag(return_probabilities, "return_probabilities")
    learned = {name: _theta(name, theta, logits) for name, theta in (thetas or {}).items()}
    dtype = compute_dtype(logits)
    couplings = [
        _coupling(f"{name}_weight", compatibility, weight, logits, dtype)
        for name, weight in zip(crf.names, weights, strict=True)
    ]
    binary = logits.shape[1] == 1
    scores = logits.to(dtype)
    scores = torch.cat([torch.zeros_like(scores), scores], dim=1) if binary else scores
    given = {name: _own(scene.given[name]) for name in crf.given_names}
    spacing = None if scene.spacing is None else spacing_steps(scene.spacing)
    inputs = Inputs(scores, _readable(image), _readable(mask), given, spacing, learned)

    operator = batch if logits.device.type in ("cpu", "meta") else gpu
    guides = [each for each in _guides(inputs).values() if isinstance(each, Tensor)]
    trained = any(map(_trained, (logits, *couplings, *guides)))
    asked = _asked(crf, inputs, execution, trained)
    if able((operator, differentiable), asked, "crfrnn.torch") is differentiable:
        refined = _differentiable(crf, inputs, couplings, execution)
    else:
        tensors = (*inputs[:3], list(given.values()), list(learned.values()), couplings)
        refined, _ = ops.mean_field(trained, *tensors, " ".join(learned), crf.text, spacing, *execution)
    result: Tensor = torch.softmax(refined, dim=1) if return_probabilities else refined
    if binary:
        result = result[:, 1:] if return_probabilities else result[:, 1:] - result[:, :1]
    return _stored(result, logits.dtype, "scores", MAGNITUDES)


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

    Gradients go to the values, by the transposed filter, to any order; to features and mask once. Those to features
    through a lattice are the exact derivative of what it computes (docs/algorithm.md, eq. 22).

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
    Raises: ValueError: if shapes do not fit, features on the CPU are not finite, or tensors are on several devices.
    """
    one_of(filter, get_args(Filter), "filter")
    check_scores("values", values)
    check_beside("features", features, "values", values)
    check_mask(mask, "values", values)
    threads, deterministic, *_ = checked_execution(Execution(threads, deterministic))
    dtype = compute_dtype(values)
    weights = _readable(mask)
    one_of(normalization, get_args(Normalization), "normalization")
    lattice = Lattice(neighbour_rounds)
    if filter == "exact" and lattice.neighbour_rounds:
        raise ValueError(f"filter='exact' has no lattice for neighbour_rounds={neighbour_rounds}; leave it at 0")
    if filter == "exact" or any(tensor is not None and _trained(tensor) for tensor in (features, mask)):
        kernel = Exact() if filter == "exact" else lattice
        execution = Execution(threads, deterministic)
        points = features.to(dtype)
        differentiably = differentiable.gaussian_filter(
            values.to(dtype), points, weights, normalization, kernel, execution
        )
        return _stored(differentiably, values.dtype, "filtered values", "values")
    arguments = (features.to(dtype), weights, normalization, lattice.neighbour_rounds, deterministic, threads)
    handle = ops.lattice(*arguments)
    filtered: Tensor = ops.gaussian_filter(values.to(dtype), handle, False, *arguments)
    return _stored(filtered, values.dtype, "filtered values", "values")


def _stored(result: Tensor, dtype: torch.dtype, what: str, causes: str) -> Tensor:
    """A result in the dtype of what was given, which in 16 bits may hold less than it was computed in."""
    stored = result.to(dtype)
    if dtype in (torch.float16, torch.bfloat16):
        differentiable.check_outcome(stored, what, causes)
    return stored


def pairwise_filters(crf: CRF, scene: Scene, threads: int | None) -> list[differentiable.Normalised]:
    """v ↦ N v of each kernel for values of the scene's size, in the precision of computing; for losses.

    Gradients go to the values, and to image, mask and given features.

    Args:
        scene: The logits in it are probabilities that have been checked.
    """
    scores = scene.logits
    check_scene(crf, scene, "probabilities")
    execution = checked_execution(Execution(threads))
    if scene.spacing is not None:
        crf = crf.in_pixels(scene.spacing, scores.ndim - 2)
    image = scene.image if any(kernel.features.reads_image for kernel in crf.kernels) else None
    given = {name: _own(scene.given[name]) for name in crf.given_names}
    inputs = Inputs(scores.to(compute_dtype(scores)), _readable(image), _readable(scene.mask), given)
    backends: Sequence[Any] = (differentiable,)
    able(backends, _asked(crf, inputs, execution, False), "crfrnn.torch.losses")
    differentiable.check_values({"probabilities": inputs.logits, "image": inputs.image}, inputs.mask)
    with full_precision(scores.device):
        return differentiable.normalised_filters(crf, inputs, execution)


def checked_execution(execution: Execution) -> Execution:
    """How to compute, as operators of torch take it.

    Raises: TypeError or ValueError: if threads, deterministic or count_vertices are none.
    """
    threads = None if execution.threads is None else thread_count(execution.threads)
    return execution._replace(
        threads=threads,
        deterministic=flag(execution.deterministic, "deterministic"),
        count_vertices=flag(execution.count_vertices, "count_vertices"),
    )


def check_storage(storage: torch.dtype | None, crf: CRF) -> torch.dtype | None:
    """A dtype of 16 bits, or None."""
    if not (storage is None or storage is torch.float16 or storage is torch.bfloat16):
        raise ValueError(f"storage={storage!r} must be torch.float16, torch.bfloat16 or None")
    if storage is not None and any(isinstance(kernel.filter, Exact) for kernel in crf.kernels):
        raise ValueError(f"filter='exact' has no lattice to keep in {storage}; leave out storage")
    return storage


def _asked(crf: CRF, inputs: Inputs, execution: Execution, trained: bool) -> dict[Asked, str]:
    """What a call asks of a backend, each with the message for when it is missing."""
    asked = asked_by(crf)
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
    for name, tensor in _guides(inputs).items():
        if isinstance(tensor, Tensor) and _trained(tensor):
            asked[Ability.GRADIENT_TO_GUIDE] = NO_GRADIENT.format(name=name)
    if crf.regions and Ability.GRADIENT_TO_GUIDE in asked:
        asked[Ability.GRADIENT_TO_GUIDE_BESIDE_REGIONS] = asked[Ability.GRADIENT_TO_GUIDE]
    return asked


def _guides(inputs: Inputs) -> dict[str, Any]:
    """What kernels are built from, by the name that users know."""
    given = {f"given[{name!r}]": own for name, own in inputs.given.items()}
    return {"image": inputs.image, "mask": inputs.mask, **given, **inputs.thetas}


def _differentiable(crf: CRF, inputs: Inputs, couplings: Sequence[Tensor], execution: Execution) -> Tensor:
    """By operations of torch, in pixels."""
    spacing = inputs.spacing
    if spacing is not None:
        inputs = inputs._replace(spacing=None, thetas=thetas_in_pixels(crf, inputs))
        crf = crf.in_pixels(spacing, inputs.logits.ndim - 2)
    return differentiable.forward(crf, inputs, couplings, execution)


def _theta(name: str, tensor: Tensor, logits: Tensor) -> Tensor:
    """The numbers (n,) of a tensor that replaces a specification's θ."""
    check_tensor(name, tensor)
    if tensor.device.type != "cpu":  # numbers of the CPU go with tensors of any device
        check_device(name, tensor, "logits", logits)
    if tensor.ndim > 1 or tensor.numel() == 0 or not tensor.is_floating_point():
        raise ValueError(
            f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected floating-point, a number or one for "
            "each axis or channel"
        )
    if tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((tensor > 0).all()):
        raise ValueError(f"{name}={tensor.tolist()} must be above 0")
    return _readable(tensor.reshape(-1))


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
        if not abs(given) <= torch.finfo(dtype).max:
            raise ValueError(f"{name}={given} is not a finite number that {dtype} can hold")
        # A GPU would wait for a number that is copied to it.
        tensor = torch.full((), float(given), dtype=dtype, device=logits.device)
    else:
        tensor = given if isinstance(given, Tensor) else _tensor_of(name, given, dtype, logits.device)
        check_tensor(name, tensor)
    if tensor.ndim > 2 or any(size != classes for size in tensor.shape):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected a number, ({classes},) or ({classes}, {classes}) "
            f"for logits with {classes} classes{' or one channel' if classes == 2 else ''}"
        )
    check_device(name, tensor, "logits", logits)
    return tensor.to(dtype)


def _tensor_of(name: str, given: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers of a caller as a tensor."""
    try:
        arrays = isinstance(given, list | tuple) and any(isinstance(each, np.ndarray) for each in given)
        return torch.as_tensor(np.asarray(given) if arrays else given, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} is a {type(given).__name__}; expected a number, a vector or matrix over classes, or a tensor"
        ) from error


def compute_dtype(scores: Tensor) -> torch.dtype:
    """The precision in which scores are computed."""
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


@overload
def _readable(tensor: Tensor) -> Tensor: ...
@overload
def _readable(tensor: None) -> None: ...
def _readable(tensor: Tensor | None) -> Tensor | None:
    """The tensor in a dtype that NumPy knows."""
    return tensor.float() if tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16) else tensor
