"""The dense CRF as operators of torch; the operator of the exact filter is in exact_filter.py.

Tensors on the CPU go to the native core, those on any other device to `gpu`. An operator takes the specification in one
piece, the `text` of a CRF, and what may be trained as a list of tensors. Around it autograd does the rest: couplings
from weights and compatibility, softmax, conversions. Besides its inputs, the backward pass needs lattices and
marginals, which are kept under a handle (kept.py). If the handle gets lost on the way, they are computed once more.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from crfrnn.crf import CRF, Normalization
from crfrnn.inference import batch
from crfrnn.inference.backend import Execution, Gradients, Inputs
from crfrnn.inference.batch import Array
from crfrnn.inference.terms import PairwiseTerm
from crfrnn.torch import gpu, kept
from crfrnn.torch.operator import operator

MODEL = (
    "Tensor logits, Tensor? image, Tensor? mask, Tensor[] given, Tensor[] thetas, Tensor[] couplings, "
    "str theta_names, str crf, float[]? spacing, int? threads, bool deterministic, ScalarType? storage, "
    "bool count_vertices"
)
TENSORS = 6  # so many entries of `MODEL` hold tensors
LATTICE = "Tensor features, Tensor? mask, str normalization, int neighbour_rounds, bool deterministic, int? threads"


class Model(NamedTuple):
    """What the operators take, in the order of `MODEL`."""

    logits: Tensor
    image: Tensor | None
    mask: Tensor | None
    given: Sequence[Tensor]
    thetas: Sequence[Tensor]
    couplings: Sequence[Tensor]
    theta_names: str  # with spaces between them: torch takes an empty list for one of tensors
    crf: str
    spacing: Sequence[float] | None
    threads: int | None
    deterministic: bool
    storage: torch.dtype | None
    count_vertices: bool

    def forward(self, backend: ModuleType, keep: bool, convert: Any) -> tuple[Any, Any]:
        """By a backend, of tensors converted for it."""
        refined, record = backend.forward(*self.described(convert), keep, self.execution)
        return refined, record

    def described(self, convert: Any) -> tuple[CRF, Inputs, list[Any]]:
        """The CRF, the inputs and the couplings."""
        crf = CRF.from_text(self.crf)
        image, mask = (None if tensor is None else convert(tensor) for tensor in (self.image, self.mask))
        given = dict(zip(crf.given_names, map(convert, self.given), strict=True))
        thetas = dict(zip(self.theta_names.split(), map(convert, self.thetas), strict=True))
        inputs = Inputs(convert(_dense(self.logits)), image, mask, given, self.spacing, thetas)
        return crf, inputs, [convert(coupling) for coupling in self.couplings]

    @property
    def guides(self) -> list[Tensor]:
        """What kernels are built from."""
        return [each for each in (self.image, self.mask, *self.given, *self.thetas) if each is not None]

    @property
    def execution(self) -> Execution:
        """For the CPU, torch's own number of threads is the default."""
        threads = self.threads
        if threads is None and self.logits.device.type == "cpu":
            threads = torch.get_num_threads()
        return Execution(threads, self.deterministic, self.storage, self.count_vertices)


@operator(f"(bool keep, {MODEL}) -> (Tensor, Tensor)", "cpu")
def mean_field(keep: bool, *model: Any) -> tuple[Tensor, Tensor]:
    """Logits after the last iteration, and the handle for the backward pass; it is blank unless `keep`."""
    refined, records = Model(*model).forward(batch, keep, _array)
    return torch.from_numpy(refined), kept.keep(records) if keep else kept.blank_handle()


@operator(f"(Tensor cotangent, Tensor handle, bool guide, {MODEL}) -> Tensor[]", "cpu")
def mean_field_vjp(cotangent: Tensor, handle: Tensor, guide: bool, *model: Any) -> list[Tensor]:
    """Gradients to the logits and to the couplings; with `guide` also to `Model.guides`."""
    return [torch.from_numpy(array) for array in _vjp(batch, cotangent, handle, guide, Model(*model), _array)]


@mean_field.kernel("default")
def _(keep: bool, *model: Any) -> tuple[Tensor, Tensor]:
    refined, record = Model(*model).forward(gpu, keep, _same)
    return refined, kept.keep(record) if keep else kept.blank_handle()


@mean_field_vjp.kernel("default")
def _(cotangent: Tensor, handle: Tensor, guide: bool, *model: Any) -> list[Tensor]:
    return _vjp(gpu, cotangent, handle, guide, Model(*model), _same)


def _vjp(backend: ModuleType, cotangent: Tensor, handle: Tensor, guide: bool, model: Model, convert: Any) -> list[Any]:
    record = kept.find(handle)
    if record is None:
        _, record = model.forward(backend, True, convert)
    crf, inputs, couplings = model.described(convert)
    arguments = record, couplings, model.execution, guide
    found: Gradients = backend.vjp(crf, inputs, convert(_dense(cotangent)), *arguments)
    gradients = [found.logits, *found.couplings]
    if guide:
        to_given = [found.given[name] for name in crf.given_names]
        to_guides = [found.image, found.mask, *to_given, *(found.thetas[name] for name in model.theta_names.split())]
        there = [model.image, model.mask, *model.given, *model.thetas]
        for gradient, tensor in zip(to_guides, there, strict=True):
            if tensor is not None:
                gradients.append(convert(cotangent.new_zeros(tensor.shape)) if gradient is None else gradient)
    return gradients


@mean_field.fake
def _(keep: bool, logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(_dense(logits)), _fake_handle()


@mean_field_vjp.fake
def _(cotangent: Tensor, handle: Tensor, guide: bool, *model: Any) -> list[Tensor]:
    found = [torch.empty_like(_dense(cotangent)), *map(torch.empty_like, Model(*model).couplings)]
    return found + [cotangent.new_empty(tensor.shape) for tensor in Model(*model).guides if guide]


def _save_mean_field(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    model = Model(*inputs[1:])
    ctx.save_for_backward(
        output[1], model.logits, model.image, model.mask, *model.given, *model.thetas, *model.couplings
    )
    ctx.counts = len(model.given), len(model.thetas), len(model.couplings)
    ctx.rest = model[TENSORS:]
    ctx.set_materialize_grads(False)


def _mean_field_backward(ctx: Any, cotangent: Tensor | None, _: None) -> tuple[Any, ...]:
    handle, logits, image, mask, *rest = ctx.saved_tensors
    given, thetas, couplings = (list(part) for part in _split(rest, ctx.counts))
    found: list[Tensor | None] = [None] * (1 + len(couplings))
    guide = any(tree_leaves(ctx.needs_input_grad[2:6]))
    if cotangent is not None:
        model = logits, image, mask, given, thetas, couplings, *ctx.rest
        found = list(mean_field_vjp(cotangent, handle, guide, *model))
    to_guides = iter(found[1 + len(couplings) :])

    def to(tensor: Tensor | None) -> Tensor | None:
        gradient = None if tensor is None else next(to_guides, None)
        return gradient if gradient is None or tensor is None else gradient.to(tensor.dtype)

    to_model = found[0], to(image), to(mask), list(map(to, given)), list(map(to, thetas)), found[1 : 1 + len(couplings)]
    return None, *to_model, *[None] * len(ctx.rest)


def _split(tensors: Sequence[Tensor], counts: Sequence[int]) -> Iterator[Sequence[Tensor]]:
    rest = iter(tensors)
    for count in counts:
        yield tuple(islice(rest, count))


mean_field.differentiate(_mean_field_backward, _save_mean_field)


def _one_by_one(call: Any) -> Any:
    """torch.vmap of an operator: its calls one after the other."""

    def batched(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        calls = [
            call(*(_part(each, dim, index) for each, dim in zip(arguments, in_dims, strict=True)))
            for index in range(info.batch_size)
        ]
        stacked = [torch.stack(parts) for parts in zip(*calls, strict=True)]
        return (stacked, [0] * len(stacked)) if isinstance(calls[0], list) else (tuple(stacked), (0,) * len(stacked))

    return batched


def _part(given: Any, dim: Any, index: int) -> Any:
    if isinstance(given, list | tuple) and isinstance(dim, list | tuple):
        return [_part(each, along, index) for each, along in zip(given, dim, strict=True)]
    return given if dim is None else given.select(dim, index)


mean_field.batch(_one_by_one(mean_field))
mean_field_vjp.batch(_one_by_one(mean_field_vjp))


@operator(f"({LATTICE}) -> Tensor", "cpu")
def lattice(features: Tensor, mask: Tensor | None, *settings: Any) -> Tensor:
    """The handle of the normalised lattices over features."""
    return kept.keep(_native_lattices(features, mask, *settings))


@operator(f"(Tensor values, Tensor handle, bool transpose, {LATTICE}) -> Tensor", "cpu")
def gaussian_filter(
    values: Tensor, handle: Tensor, transpose: bool, features: Tensor, mask: Tensor | None, *settings: Any
) -> Tensor:
    """Values filtered by the lattices under the handle, or by their transposes."""
    terms = kept.find(handle)
    if terms is None:
        terms = _native_lattices(features, mask, *settings)
    return torch.from_numpy(batch.filtered(_array(values), terms, transpose, _thread_count(settings[-1])))


@operator(
    "(Tensor cotangent, Tensor values, Tensor handle, Tensor features, int neighbour_rounds, bool deterministic, "
    "int? threads) -> Tensor",
    "cpu",
)
def lattice_gradient(cotangent: Tensor, values: Tensor, handle: Tensor, features: Tensor, *settings: Any) -> Tensor:
    """Gradient of ⟨cotangent, K values⟩ to features (B, d, *spatial); K is not normalised."""
    terms = kept.find(handle)
    if terms is None:
        terms = _native_lattices(features, None, "none", *settings)
    return torch.from_numpy(
        batch.lattice_gradient(_array(cotangent), _array(values), terms, _thread_count(settings[-1]))
    )


@lattice.kernel("default")
def _(features: Tensor, mask: Tensor | None, *settings: Any) -> Tensor:
    return kept.keep(gpu.lattices(features, mask, *settings[:3]))


@gaussian_filter.kernel("default")
def _(values: Tensor, handle: Tensor, transpose: bool, features: Tensor, mask: Tensor | None, *settings: Any) -> Tensor:
    term = kept.find(handle)
    if term is None:
        term = gpu.lattices(features, mask, *settings[:3])
    return gpu.filtered(values.contiguous(), term, transpose)


@lattice.fake
def _(features: Tensor, *_: Any) -> Tensor:
    return _fake_handle()


@lattice_gradient.kernel("default")
def _(cotangent: Tensor, values: Tensor, handle: Tensor, features: Tensor, *settings: Any) -> Tensor:
    term = kept.find(handle)
    if term is None:
        term = gpu.lattices(features, None, "none", *settings[:2])
    return gpu.lattice_gradient(cotangent.contiguous(), values.contiguous(), features, term)


@lattice_gradient.fake
def _(cotangent: Tensor, values: Tensor, handle: Tensor, features: Tensor, *settings: Any) -> Tensor:
    return features.new_empty(features.shape)


@gaussian_filter.fake
def _(values: Tensor, *_: Any) -> Tensor:
    return values.new_empty(values.shape)


def _save_filter(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, handle, ctx.transpose, features, mask, *ctx.settings = inputs
    ctx.save_for_backward(values if features.requires_grad else None, handle, features, mask)


def _filter_backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    values, handle, features, mask = ctx.saved_tensors
    gradient = gaussian_filter(cotangent, handle, not ctx.transpose, features, mask, *ctx.settings)
    to_features = None
    if ctx.needs_input_grad[3]:
        pair = (values, cotangent) if ctx.transpose else (cotangent, values)
        to_features = lattice_gradient(*pair, handle, features, *ctx.settings[1:])
    return (gradient, None, None, to_features, None, *[None] * len(ctx.settings))


gaussian_filter.differentiate(_filter_backward, _save_filter)


def _first_derivatives_only(ctx: Any, *cotangents: Any) -> None:
    raise NotImplementedError("the gradient of a mean field cannot be differentiated again: leave out create_graph")


mean_field_vjp.differentiate(_first_derivatives_only)


def _no_second_order(ctx: Any, *cotangents: Tensor) -> None:
    raise NotImplementedError(
        "the gradient of a lattice to its features cannot be differentiated again; for second derivatives to scores "
        "and weights, pass image, features and θ without gradient: .detach()"
    )


lattice_gradient.differentiate(_no_second_order)


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


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _optional(tensor: Tensor | None) -> Array | None:
    return None if tensor is None else _array(tensor)


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
