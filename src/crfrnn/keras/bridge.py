"""The CRF as a differentiable function of the backend's tensors; the only file that tells the backends apart.

A layer's call is one call of native code forward and one backward; lattices stay out of the frameworks' graphs. On
PyTorch that is `crfrnn.torch`. On TensorFlow and JAX it is a `Run`, which their graphs call with NumPy arrays.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import mask_array
from crfrnn.crf import CRF
from crfrnn.doubts import Doubts
from crfrnn.inference import batch
from crfrnn.inference.backend import Execution, Gradients, Inputs, UnsupportedError
from crfrnn.inference.losses import SLACK, not_probabilities
from crfrnn.keras.kept import Kept
from crfrnn.keras.layout import Layout
from crfrnn.levels import check_levels

Array = NDArray[Any]
kept = Kept()
CALL = "layer([logits, image])"


class Scene(NamedTuple):
    """What a layer is called with, in the backend's own tensors.

    Attributes:
        logits: (B, *spatial, C) or, channels first, (B, C, *spatial), float32 or float64.
        image: The same with its own number of channels.
        given: The same layout; features by the names in `Given`, and memberships by those of regions, or ids
            (B, *spatial) of int32.
        mask: (B, *spatial), or None.
    """

    logits: Any
    image: Any
    given: dict[str, Any]
    mask: Any


def refine(
    crf: CRF,
    scene: Scene,
    weights: Sequence[Any],
    compatibility: Any,
    thetas: Mapping[str, Any],
    layout: Layout,
    training: bool,
    doubts: Doubts,
) -> Any:
    """Refined logits, in the backend's own tensors; everything gets gradients, or what `Pass.fixed` leaves.

    Args:
        weights: W of each term, (C, C) in the dtype of the logits; compatibility, M, too.
        thetas: θ that are trained, (n,), by name.
        training: Whether gradients will be asked for; needed only where TensorFlow runs eagerly.
        doubts: Of the layer.
    Returns: As the logits.
    Raises: UnsupportedError: on TensorFlow and JAX, for θ that are trained beside regions.
    """
    if keras.backend.backend() == "torch":
        return _torch(crf, scene, weights, compatibility, thetas, layout, doubts)
    if thetas and not batch.learns_guide(crf):
        raise UnsupportedError(
            "learn_theta beside regions is available on Keras' PyTorch backend only: use that, or leave out learn_theta"
        )
    couplings = [keras.ops.matmul(compatibility, weight) for weight in weights]
    masks = [] if scene.mask is None else [scene.mask]
    inputs = [scene.logits, *couplings, *thetas.values(), scene.image, *scene.given.values(), *masks]
    return call(Pass(crf, tuple(thetas), tuple(scene.given), layout, doubts), inputs, training)


def pair_filter(
    crf: CRF, scene: Scene, layout: Layout, own_pairs: bool, gates: Mapping[str, Any], training: bool
) -> Any:
    """Σ_k w_k N_k v for values v, in the place of the scene's logits; they get gradients.

    Args:
        layout: Of the values.
        own_pairs: Whether the pair of a pixel with itself counts; it weighs 1 in a Gaussian.
        gates: (B, *spatial) by name, which are only checked.
        training: As for `refine`.
    Returns: As the values.
    """
    if keras.backend.backend() == "torch":
        return _torch_filter(crf, scene, layout, own_pairs, gates)
    masks = [] if scene.mask is None else [scene.mask]
    checked = [keras.ops.stop_gradient(each) for each in gates.values()]
    inputs = [scene.logits, scene.image, *scene.given.values(), *masks, *checked]
    return call(FilterPass(crf, (), tuple(scene.given), layout, own_pairs, tuple(gates)), inputs, training)


def call(run: "Run", inputs: Sequence[Any], training: bool) -> Any:
    """What a run makes of tensors of TensorFlow or JAX, with its gradients."""
    if keras.backend.backend() == "jax":
        return _jax_function(run)(*inputs)
    return _tensorflow(inputs, run, training)


class Run(Hashable, Protocol):
    """A function of arrays with its gradient, hashable. Scores are the first input."""

    @property
    def coupled(self) -> int:
        """How many inputs get the gradients that `backward` computes."""
        ...

    @property
    def learned(self) -> int:
        """How many inputs get gradients whenever there are any."""
        ...

    @property
    def fixed(self) -> tuple[str, ...]:
        """The names of the inputs after the coupled ones, if they get no gradients; else none."""
        ...

    def result_shape(self, shapes: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        """The shape of the result from those of the inputs, with sizes as they are known."""
        ...

    def infer(self, *inputs: Array) -> tuple[Array, Array]:
        """The result, and the number of nothing."""
        ...

    def forward(self, *inputs: Array) -> tuple[Array, Array]:
        """The result, and the number for `backward`."""
        ...

    def backward(self, cotangent: Array, number: Array, *inputs: Array) -> tuple[Array, ...]:
        """Gradients to the coupled inputs."""
        ...

    def backward_to_all(self, cotangent: Array, number: Array, *inputs: Array) -> tuple[Array, ...]:
        """Gradients to all inputs; not called where some are fixed."""
        ...


@dataclass(frozen=True)
class Crossing:
    """A function of scores and a CRF's kernels, on arrays in the layout of the caller.

    Inputs are scores, what is coupled with them, θ by name, image, features and segments by name, and the mask if there
    is one.
    """

    crf: CRF
    thetas: tuple[str, ...]
    given: tuple[str, ...]
    layout: Layout

    @property
    def coupled(self) -> int:
        """The scores alone."""
        return 1

    @property
    def learned(self) -> int:
        """How many inputs come before those that no layer trains."""
        return self.coupled + len(self.thetas)

    @property
    def fixed(self) -> tuple[str, ...]:
        """None."""
        return ()

    def result_shape(self, shapes: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        """That of the scores."""
        return tuple(shapes[0])

    def infer(self, *inputs: Array) -> tuple[Array, Array]:
        """The result, and the number of nothing."""
        return self._channels_back(self._run(inputs, False)[0]), np.asarray(-1, np.int32)

    def forward(self, *inputs: Array) -> tuple[Array, Array]:
        """The result, and the number for `backward`."""
        result, records = self._run(inputs, True)
        return self._channels_back(result), np.asarray(kept.put(records), np.int32)

    def backward(self, cotangent: Array, number: Array, *inputs: Array) -> tuple[Array, ...]:
        """Gradients to the scores and to what is coupled with them."""
        found = self._gradients(cotangent, number, inputs, False)
        return self._channels_back(found.logits), *found.couplings

    def backward_to_all(self, cotangent: Array, number: Array, *inputs: Array) -> tuple[Array, ...]:
        """Gradients to all inputs."""
        found = self._gradients(cotangent, number, inputs, True)
        planes = [found.image, *(found.given[name] for name in self.given)]
        thetas = [found.thetas[name] for name in self.thetas]
        rest = [None if each is None else self._channels_back(each) for each in planes] + [found.mask]
        gradients = [self._channels_back(found.logits), *found.couplings, *thetas, *rest]
        pairs = zip(gradients, inputs, strict=False)
        return tuple(np.zeros_like(of) if each is None else np.asarray(each, of.dtype) for each, of in pairs)

    def _gradients(self, cotangent: Array, number: Array, inputs: Sequence[Array], guide: bool) -> Gradients:
        records = kept.take(int(number))
        if records is None:
            _, records = self._run(inputs, True)
        return self._vjp(self._channels_first(cotangent), records, inputs, guide)

    def _run(self, inputs: Sequence[Array], keep: bool) -> tuple[Array, list[batch.Record]]:
        raise NotImplementedError

    def _vjp(
        self, cotangent: Array, records: Sequence[batch.Record], inputs: Sequence[Array], guide: bool
    ) -> Gradients:
        raise NotImplementedError

    def _scene(self, inputs: Sequence[Array]) -> Inputs:
        """What is computed from, channels first."""
        scores, thetas = inputs[0], inputs[self.coupled : self.learned]
        image, *others = inputs[self.learned :]
        mask = others[len(self.given)] if len(others) > len(self.given) else None
        self.layout.check(scores.shape, image.shape, None if mask is None else mask.shape)
        given = {
            name: each if each.ndim < scores.ndim else self._channels_first(each)
            for name, each in zip(self.given, others, strict=False)
        }
        by_name = dict(zip(self.thetas, thetas, strict=True))
        return Inputs(self._channels_first(scores), self._channels_first(image), mask, given, thetas=by_name)

    def _channels_first(self, array: Array) -> Array:
        return np.moveaxis(array, self.layout.channel_axis, 1)

    def _channels_back(self, array: Array) -> Array:
        return np.moveaxis(array, 1, self.layout.channel_axis)


@dataclass(frozen=True)
class Pass(Crossing):
    """The CRF: logits refined, coupled with M W of each term.

    `doubts` are those of the layer that first made it: JAX calls the same function for all equal layers.
    """

    doubts: Doubts = field(compare=False)

    @property
    def coupled(self) -> int:
        """The logits and the couplings."""
        return 1 + len(self.crf.terms)

    @property
    def fixed(self) -> tuple[str, ...]:
        """All but the logits and the couplings, where the native backend has no gradients to others."""
        return () if batch.learns_guide(self.crf) else ("image", *self.given, "mask")

    def _run(self, inputs: Sequence[Array], keep: bool) -> tuple[Array, list[batch.Record]]:
        scene = self._scene(inputs)
        refined = batch.forward(self.crf, scene, inputs[1 : self.coupled], keep, Execution())
        self.doubts.look(self.crf, scene.logits, scene.image, CALL)
        return refined

    def _vjp(
        self, cotangent: Array, records: Sequence[batch.Record], inputs: Sequence[Array], guide: bool
    ) -> Gradients:
        couplings = inputs[1 : self.coupled]
        return batch.vjp(self.crf, self._scene(inputs), cotangent, records, couplings, Execution(), guide)


@dataclass(frozen=True)
class FilterPass(Crossing):
    """The sum of the CRF's weighted filters, of values that are one less probabilities.

    The last inputs are gates, by name, which are only checked.
    """

    own_pairs: bool
    gates: tuple[str, ...]

    @property
    def fixed(self) -> tuple[str, ...]:
        """All but the values."""
        return ("image", *self.given, "mask")

    def _run(self, inputs: Sequence[Array], keep: bool) -> tuple[Array, list[batch.Record]]:
        used = len(inputs) - len(self.gates)
        for name, gate in zip(self.gates, inputs[used:], strict=True):
            mask_array(gate, gate.shape, name)
        scene = self._scene(inputs[:used])
        check_complement(scene.logits, not self.own_pairs)
        records = batch.pairwise(self.crf, scene, Execution())
        if scene.image is not None:
            check_levels(self.crf, np.moveaxis(scene.image, 1, -1))
        return batch.pairwise_filtered(scene.logits, records, self.own_pairs, False, Execution()), records

    def _vjp(
        self, cotangent: Array, records: Sequence[batch.Record], inputs: Sequence[Array], guide: bool
    ) -> Gradients:
        return Gradients(batch.pairwise_filtered(cotangent, records, self.own_pairs, True, Execution()), [])


def check_complement(values: Array, gated: bool) -> None:
    """Raise a ValueError if some of what these values complete to 1 are no probabilities.

    Args:
        gated: Whether the values are multiplied by weights, so that large ones say nothing.
    """
    if not (values.min() >= -SLACK and (gated or values.max() <= 1 + SLACK)):
        raise ValueError(not_probabilities(1 - values.max(), 1 - values.min()))


def _torch_filter(crf: CRF, scene: Scene, layout: Layout, own_pairs: bool, gates: Mapping[str, Any]) -> Any:
    import torch

    from crfrnn.torch import losses
    from crfrnn.torch import scene as torch_scene

    def planes(tensor: Any) -> Any:
        return tensor.movedim(layout.channel_axis, 1)

    values = planes(scene.logits)
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        for name, gate in gates.items():
            mask_array(gate.detach().numpy(), tuple(gate.shape), name)
        check_complement(values.detach().numpy(), not own_pairs)
    given = {name: planes(features) for name, features in scene.given.items()}
    inputs = torch_scene.Scene(values, planes(scene.image), scene.mask, given, None)
    return losses.pair_filter(crf, inputs, own_pairs, None)(values).movedim(1, layout.channel_axis)


def _torch(
    crf: CRF,
    scene: Scene,
    weights: Sequence[Any],
    compatibility: Any,
    thetas: Mapping[str, Any],
    layout: Layout,
    doubts: Doubts,
) -> Any:
    """By the operators of `crfrnn.torch`, where the tensors lie."""
    import torch

    from crfrnn.torch import functional
    from crfrnn.torch import plausibility as torch_plausibility
    from crfrnn.torch import scene as torch_scene

    def planes(tensor: Any) -> Any:
        return tensor.movedim(layout.channel_axis, 1)

    given = {
        name: tensor if tensor.ndim < scene.logits.ndim else planes(tensor) for name, tensor in scene.given.items()
    }
    inputs = torch_scene.Scene(planes(scene.logits), planes(scene.image), scene.mask, given, None)
    refined = functional.refine(crf, inputs, weights, compatibility, False, Execution(), thetas)
    if not torch.compiler.is_compiling():
        torch_plausibility.look(doubts, crf, inputs.logits, inputs.image, {}, CALL)
    return refined.movedim(1, layout.channel_axis)


@lru_cache(maxsize=64)
def _jax_function(run: Run) -> Any:
    """The differentiable function of JAX arrays; always the same object, or JAX would compile again at every call."""
    import jax

    infer, learn = _jax_call(run.infer), _jax_call(run.forward)
    to_layer, to_all = _jax_call(run.backward), _jax_call(run.backward_to_all)
    number = jax.ShapeDtypeStruct((), np.int32)

    def result(inputs: Sequence[Any]) -> Any:
        return jax.ShapeDtypeStruct(run.result_shape([each.shape for each in inputs]), inputs[0].dtype)

    def refine(*inputs: Any) -> Any:
        return infer([result(inputs), number], *inputs)[0]

    def forward(*primals: Any) -> tuple[Any, Any]:
        inputs = [primal.value for primal in primals]
        for name, primal in zip(run.fixed, primals[run.coupled :], strict=False):
            if primal.perturbed:
                raise ValueError(
                    f"{name} requires a gradient, which crfrnn does not compute; pass keras.ops.stop_gradient({name})"
                )
        refined, kept_under = learn([result(inputs), number], *inputs)
        guide = any(primal.perturbed for primal in primals[run.coupled :])
        return refined, (kept_under, inputs, () if guide else None)  # JAX would make an array of a truth value

    def backward(residuals: Any, cotangent: Any) -> tuple[Any, ...]:
        kept_under, inputs, guide = residuals
        if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
            cotangent = jax.numpy.zeros(cotangent.shape, inputs[0].dtype)
        back, of = (to_layer, inputs[: run.coupled]) if guide is None else (to_all, inputs)
        gradients = back(of, cotangent, kept_under, *inputs)
        return (*gradients, *[None] * (len(inputs) - len(gradients)))

    function: Any = jax.custom_vjp(refine)
    function.defvjp(forward, backward, symbolic_zeros=True)
    return function


def _jax_call(function: Callable[..., tuple[Array, ...]]) -> Callable[..., Any]:
    """A function of NumPy arrays as one of JAX arrays; results have the shapes and dtypes of the arrays given first."""
    import jax
    from jax.experimental.buffer_callback import buffer_callback

    def give(*buffers: Any) -> tuple[Array, ...]:
        return function(*map(np.asarray, buffers))

    def write(_: Any, results: Sequence[Any], *buffers: Any) -> None:
        for result, array in zip(results, give(*buffers), strict=True):
            np.asarray(result)[...] = array

    def call(like: Sequence[Any], *arrays: Any) -> Any:
        results = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in like]
        if jax.default_backend() == "cpu":
            # pure_callback would copy large arrays in the thread that the callback blocks, and sometimes never end.
            return buffer_callback(write, results, vmap_method="sequential")(*arrays)
        return jax.pure_callback(give, results, *arrays, vmap_method="sequential")

    return call


def _tensorflow(inputs: Sequence[Any], run: Run, training: bool) -> Any:
    import tensorflow as tf

    eager = tf.executing_eagerly()
    watched = eager and not run.fixed and _watched(inputs[run.coupled :])
    if not eager and _compiled_by_xla(tf.compat.v1.get_default_graph()):
        raise ValueError(
            "crfrnn cannot be compiled by XLA on TensorFlow, nor run on a TPU, because it runs in Python: leave "
            "out jit_compile=True, or use Keras' JAX backend"
        )

    def call(function: Callable[..., Any], tensors: Sequence[Any], dtypes: Sequence[Any]) -> list[Any]:
        if eager:  # like numpy_function, without its copies
            return [tf.convert_to_tensor(array) for array in function(*map(np.asarray, tensors))]
        results: list[Any] = tf.numpy_function(function, tensors, dtypes, stateful=False)
        return results

    keep = [False]

    def forward(*arrays: Array) -> tuple[Array, Array]:
        return run.forward(*arrays) if keep[-1] else run.infer(*arrays)

    def refine(*inputs: Any) -> tuple[Any, Callable[[Any], list[Any]]]:
        logits = inputs[0]
        keep.append(eager and training)
        refined, number = call(forward, inputs, [logits.dtype, tf.int32])
        refined.set_shape(run.result_shape([each.shape for each in inputs]))

        def back(function: Callable[..., Any], cotangent: Any, of: Sequence[Any]) -> list[Any]:
            gradients = call(function, [cotangent, number, *inputs], [tensor.dtype for tensor in of])
            for tensor, other in zip(gradients, of, strict=True):
                tensor.set_shape(other.shape)
            return gradients

        def gradient(cotangent: Any) -> list[Any]:
            keep.append(not eager or training)  # a graph is traced before it runs, so this is known in time
            if run.learned > run.coupled or watched:
                return back(run.backward_to_all, cotangent, inputs)
            to_layer = back(run.backward, cotangent, inputs[: run.coupled])
            if eager or run.fixed:
                return to_layer + [None] * (len(inputs) - len(to_layer))
            # A call of its own, which a graph leaves out where nobody asks for its gradients.
            return to_layer + back(run.backward_to_all, cotangent, inputs)[run.coupled :]

        return refined, gradient

    return tf.custom_gradient(refine)(*inputs)


def _watched(tensors: Sequence[Any]) -> bool:
    """Whether a tape records what happens to these tensors; True if TensorFlow no longer says it where it did."""
    try:
        from tensorflow.python.eager.record import should_record_backprop
    except ImportError:
        return True
    return bool(should_record_backprop(tensors))


def _compiled_by_xla(graph: Any) -> bool:
    """Whether XLA will compile the graph that is being traced; False if TensorFlow no longer says it where it did."""
    while graph is not None:
        context = getattr(graph, "_control_flow_context", None)
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False
