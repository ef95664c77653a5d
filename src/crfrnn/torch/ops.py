"""The dense CRF as operators of torch; those of exact filters are in exact.py.

Tensors on the CPU go to the native core, those on any other device to `device`. Around the operators autograd does the
rest: couplings from weights and compatibility, softmax, conversions. What the backward pass needs besides its inputs,
lattices and marginals, stays under a handle (tape.py). Should the handle get lost on the way, they are computed once
more.
"""

from typing import Any

import torch
from torch import Tensor

from crfrnn import batch
from crfrnn.batch import Array, Settings
from crfrnn.pairwise import PairwiseTerm
from crfrnn.parameters import Normalization
from crfrnn.torch import device, tape

MODEL = "Tensor logits, Tensor image, Tensor? mask, Tensor spatial_coupling, Tensor bilateral_coupling"
SETTINGS = (
    "float[] theta_alpha, float[] theta_beta, float[] theta_gamma, str normalization, str spatial, "
    "str filter, int neighbour_rounds, int iterations, float damping, int? threads, bool deterministic, "
    "ScalarType? storage"
)
LATTICE = "Tensor features, Tensor? mask, str normalization, int neighbour_rounds, bool deterministic, int? threads"


@torch.library.custom_op(
    "crfrnn::mean_field",
    mutates_args=(),
    device_types="cpu",
    schema=f"({MODEL}, bool keep, {SETTINGS}) -> (Tensor, Tensor)",
)
def mean_field(
    logits: Tensor,
    image: Tensor,
    mask: Tensor | None,
    spatial_coupling: Tensor,
    bilateral_coupling: Tensor,
    keep: bool,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    """Logits after the last iteration, and the handle for the backward pass; it is blank unless `keep`."""
    couplings = [_array(spatial_coupling), _array(bilateral_coupling)]
    refined, records = batch.mean_field(
        _array(_dense(logits)), _array(image), _optional(mask), couplings, _native(settings), keep
    )
    return torch.from_numpy(refined), tape.keep(records) if keep else tape.blank_handle()


@torch.library.custom_op(
    "crfrnn::mean_field_vjp",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor cotangent, Tensor handle, {MODEL}, {SETTINGS}) -> (Tensor, Tensor, Tensor)",
)
def mean_field_vjp(
    cotangent: Tensor,
    handle: Tensor,
    logits: Tensor,
    image: Tensor,
    mask: Tensor | None,
    spatial_coupling: Tensor,
    bilateral_coupling: Tensor,
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to the logits and to the two couplings."""
    couplings = [_array(spatial_coupling), _array(bilateral_coupling)]
    numbers = _native(settings)
    records = tape.find(handle)
    if records is None:
        _, records = batch.mean_field(_array(logits), _array(image), _optional(mask), couplings, numbers, keep=True)
    given = _array(_dense(cotangent))
    to_logits, (to_spatial, to_bilateral) = batch.mean_field_vjp(given, records, couplings, numbers)
    return torch.from_numpy(to_logits), torch.from_numpy(to_spatial), torch.from_numpy(to_bilateral)


@mean_field.register_kernel(None)
def _(
    logits: Tensor,
    image: Tensor,
    mask: Tensor | None,
    spatial_coupling: Tensor,
    bilateral_coupling: Tensor,
    keep: bool,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    couplings = [spatial_coupling, bilateral_coupling]
    refined, record = device.mean_field(_dense(logits), image, mask, couplings, Settings(*settings), keep)
    return refined, tape.keep(record) if keep else tape.blank_handle()


@mean_field_vjp.register_kernel(None)
def _(
    cotangent: Tensor,
    handle: Tensor,
    logits: Tensor,
    image: Tensor,
    mask: Tensor | None,
    spatial_coupling: Tensor,
    bilateral_coupling: Tensor,
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    couplings = [spatial_coupling, bilateral_coupling]
    numbers = Settings(*settings)
    record = tape.find(handle)
    if record is None:
        _, record = device.mean_field(logits, image, mask, couplings, numbers, keep=True)
    to_logits, (to_spatial, to_bilateral) = device.mean_field_vjp(_dense(cotangent), record, couplings, numbers)
    return to_logits, to_spatial, to_bilateral


@mean_field.register_fake
def _(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(_dense(logits)), _fake_handle()


@mean_field_vjp.register_fake
def _(cotangent: Tensor, handle: Tensor, logits: Tensor, image: Tensor, mask: Any, *rest: Any) -> tuple[Tensor, ...]:
    return (torch.empty_like(_dense(cotangent)), *(coupling.new_empty(coupling.shape) for coupling in rest[:2]))


def _save_mean_field(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[:5])
    ctx.settings = inputs[6:]
    ctx.set_materialize_grads(False)


def _mean_field_backward(ctx: Any, cotangent: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if cotangent is None:
        return (None,) * (6 + len(ctx.settings))
    gradients = mean_field_vjp(cotangent, *ctx.saved_tensors, *ctx.settings)
    to_logits, to_spatial, to_bilateral = gradients
    return (to_logits, None, None, to_spatial, to_bilateral, None, *[None] * len(ctx.settings))


mean_field.register_autograd(_mean_field_backward, setup_context=_save_mean_field)


@torch.library.custom_op("crfrnn::lattice", mutates_args=(), device_types="cpu", schema=f"({LATTICE}) -> Tensor")
def lattice(features: Tensor, mask: Tensor | None, *settings: Any) -> Tensor:
    """The handle of the normalised lattices over features."""
    return tape.keep(_native_lattices(features, mask, *settings))


@torch.library.custom_op(
    "crfrnn::gaussian_filter",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor values, Tensor handle, bool transpose, {LATTICE}) -> Tensor",
)
def gaussian_filter(
    values: Tensor, handle: Tensor, transpose: bool, features: Tensor, mask: Tensor | None, *settings: Any
) -> Tensor:
    """Values filtered by the lattices under the handle, or by their transposes."""
    terms = tape.find(handle)
    if terms is None:
        terms = _native_lattices(features, mask, *settings)
    return torch.from_numpy(batch.filtered(_array(values), terms, transpose, _thread_count(settings[-1])))


@lattice.register_kernel(None)
def _(features: Tensor, mask: Tensor | None, *settings: Any) -> Tensor:
    return tape.keep(device.lattices(features, mask, *settings[:3]))


@gaussian_filter.register_kernel(None)
def _(values: Tensor, handle: Tensor, transpose: bool, features: Tensor, mask: Tensor | None, *settings: Any) -> Tensor:
    term = tape.find(handle)
    if term is None:
        term = device.lattices(features, mask, *settings[:3])
    return device.filtered(values.contiguous(), term, transpose)


@lattice.register_fake
def _(features: Tensor, *_: Any) -> Tensor:
    return _fake_handle()


@gaussian_filter.register_fake
def _(values: Tensor, *_: Any) -> Tensor:
    return values.new_empty(values.shape)


def _save_filter(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, handle, ctx.transpose, features, mask, *ctx.settings = inputs
    ctx.save_for_backward(handle, features, mask)


def _filter_backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    handle, features, mask = ctx.saved_tensors
    gradient = gaussian_filter(cotangent, handle, not ctx.transpose, features, mask, *ctx.settings)
    return (gradient, None, None, None, None, *[None] * len(ctx.settings))


gaussian_filter.register_autograd(_filter_backward, setup_context=_save_filter)


def _fake_handle() -> Tensor:
    """Handles are in the memory of the process, whatever the device."""
    return torch.empty(1, dtype=torch.int64, device="cpu")


def _dense(scores: Tensor) -> Tensor:
    """Scores (B, C, *spatial) as they are with channels last or contiguous in memory, else contiguous."""
    return scores if scores.movedim(1, -1).is_contiguous() else scores.contiguous()


def _array(tensor: Tensor) -> Array:
    """The tensor's own memory as an array."""
    array: Array = tensor.detach().numpy()
    return array


def _optional(tensor: Tensor | None) -> Array | None:
    return None if tensor is None else _array(tensor)


def _native(settings: tuple[Any, ...]) -> Settings:
    """Settings for the CPU."""
    numbers = Settings(*settings)
    return numbers._replace(threads=_thread_count(numbers.threads))


def _native_lattices(
    features: Tensor,
    mask: Tensor | None,
    normalization: Normalization,
    neighbour_rounds: int,
    deterministic: bool,
    threads: int | None,
) -> list[PairwiseTerm]:
    count = _thread_count(threads)
    return batch.lattices(_array(features), _optional(mask), normalization, neighbour_rounds, count)


def _thread_count(threads: int | None) -> int:
    """The number given, or torch's own."""
    return torch.get_num_threads() if threads is None else threads
