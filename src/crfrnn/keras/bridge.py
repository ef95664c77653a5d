"""The CRF as a differentiable function of the backend's tensors; the only file that tells the backends apart.

A layer's call is one call of native code forward and one backward; lattices stay out of the frameworks' graphs. On
PyTorch that is `crfrnn.torch`. On TensorFlow and JAX it is a `Pass`, which their graphs call with NumPy arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from crfrnn.crf import CRF
from crfrnn.inference import batch
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.keras.kept import Kept
from crfrnn.keras.layout import Layout

Array = NDArray[Any]
kept = Kept()


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


def refine(crf: CRF, scene: Scene, weights: Sequence[Any], compatibility: Any, layout: Layout, training: bool) -> Any:
    """Refined logits, in the backend's own tensors; logits and weights get gradients.

    Args:
        weights: W of each term, (C, C) in the dtype of the logits; compatibility, M, too.
        training: Whether gradients will be asked for; needed only where TensorFlow runs eagerly.
    Returns: As the logits.
    """
    if keras.backend.backend() == "torch":
        return _torch(crf, scene, weights, compatibility, layout)
    couplings = [keras.ops.matmul(compatibility, weight) for weight in weights]
    masks = [] if scene.mask is None else [scene.mask]
    inputs = [scene.logits, scene.image, *couplings, *scene.given.values(), *masks]
    run = Pass(crf, tuple(scene.given), layout)
    if keras.backend.backend() == "jax":
        return _jax_function(run)(*inputs)
    return _tensorflow(inputs, run, training)


@dataclass(frozen=True)
class Pass:
    """The CRF and its gradients on arrays in the layout of the layer, called from the graphs of a framework.

    Inputs are logits, image, the coupling M W of each term, features by name, and the mask if there is one.
    """

    crf: CRF
    given: tuple[str, ...]
    layout: Layout

    @property
    def trained(self) -> int:
        """How many couplings there are."""
        return len(self.crf.terms)

    def infer(self, *inputs: Array) -> tuple[Array, Array]:
        """Refined logits, and the number of nothing."""
        return self._run(inputs, False)[0], np.asarray(-1, np.int32)

    def forward(self, *inputs: Array) -> tuple[Array, Array]:
        """Refined logits, and the number for `backward`."""
        refined, records = self._run(inputs, True)
        return refined, np.asarray(kept.put(records), np.int32)

    def backward(self, cotangent: Array, number: Array, *inputs: Array) -> tuple[Array, ...]:
        """Gradients to the logits and to the couplings."""
        records = kept.take(int(number))
        if records is None:
            _, records = self._run(inputs, True)
        couplings = inputs[2 : 2 + self.trained]
        to_logits, to_couplings = batch.vjp(self.crf, self._channels_first(cotangent), records, couplings, Execution())
        return self._channels_back(to_logits), *to_couplings

    def _run(self, inputs: Sequence[Array], keep: bool) -> tuple[Array, list[batch.Record]]:
        logits, image, *rest = inputs
        couplings, others = rest[: self.trained], rest[self.trained :]
        given = dict(zip(self.given, others, strict=False))
        mask = others[len(given)] if len(others) > len(given) else None
        self.layout.check(logits.shape, image.shape, None if mask is None else mask.shape)
        planes = {
            name: array if array.ndim < logits.ndim else self._channels_first(array) for name, array in given.items()
        }
        scene = Inputs(self._channels_first(logits), self._channels_first(image), mask, planes)
        refined, records = batch.forward(self.crf, scene, couplings, keep, Execution())
        return self._channels_back(refined), records

    def _channels_first(self, array: Array) -> Array:
        return np.moveaxis(array, self.layout.channel_axis, 1)

    def _channels_back(self, array: Array) -> Array:
        return np.moveaxis(array, 1, self.layout.channel_axis)


def _torch(crf: CRF, scene: Scene, weights: Sequence[Any], compatibility: Any, layout: Layout) -> Any:
    """By the operators of `crfrnn.torch`, where the tensors lie."""
    from crfrnn.torch import functional
    from crfrnn.torch import scene as torch_scene

    def planes(tensor: Any) -> Any:
        return tensor.movedim(layout.channel_axis, 1)

    given = {
        name: tensor if tensor.ndim < scene.logits.ndim else planes(tensor) for name, tensor in scene.given.items()
    }
    inputs = torch_scene.Scene(planes(scene.logits), planes(scene.image), scene.mask, given, None)
    refined = functional.refine(crf, inputs, weights, compatibility, False, Execution())
    return refined.movedim(1, layout.channel_axis)


@lru_cache(maxsize=64)
def _jax_function(run: Pass) -> Any:
    """The differentiable function of JAX arrays; always the same object, or JAX would compile again at every call."""
    import jax

    infer, learn, learn_back = (_jax_call(function) for function in (run.infer, run.forward, run.backward))
    number = jax.ShapeDtypeStruct((), np.int32)

    def refine(*inputs: Any) -> Any:
        return infer([inputs[0], number], *inputs)[0]

    def forward(*primals: Any) -> tuple[Any, Any]:
        names = ["image", *run.given, *(["mask"] if len(primals) > 2 + run.trained + len(run.given) else [])]
        for name, primal in zip(names, [primals[1], *primals[2 + run.trained :]], strict=True):
            if primal.perturbed:
                raise ValueError(
                    f"{name} requires a gradient, which crfrnn does not compute; pass keras.ops.stop_gradient({name})"
                )
        inputs = [primal.value for primal in primals]
        refined, kept_under = learn([inputs[0], number], *inputs)
        return refined, (kept_under, inputs)

    def backward(residuals: Any, cotangent: Any) -> tuple[Any, ...]:
        kept_under, inputs = residuals
        logits, _, *couplings = inputs
        if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
            cotangent = jax.numpy.zeros_like(logits)
        trained = couplings[: run.trained]
        to_logits, *to_couplings = learn_back([logits, *trained], cotangent, kept_under, *inputs)
        return (to_logits, None, *to_couplings, *[None] * (len(inputs) - 2 - run.trained))

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


def _tensorflow(inputs: Sequence[Any], run: Pass, training: bool) -> Any:
    import tensorflow as tf

    eager = tf.executing_eagerly()
    if not eager and _compiled_by_xla(tf.compat.v1.get_default_graph()):
        raise ValueError(
            "CrfRnnLayer cannot be compiled by XLA on TensorFlow, nor run on a TPU, because it runs in Python: leave "
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
        logits, _, *couplings = inputs
        keep.append(eager and training)
        refined, number = call(forward, inputs, [logits.dtype, tf.int32])
        refined.set_shape(logits.shape)

        def gradient(cotangent: Any) -> list[Any]:
            keep.append(not eager or training)  # a graph is traced before it runs, so this is known in time
            given = [logits, *couplings[: run.trained]]
            gradients = call(run.backward, [cotangent, number, *inputs], [tensor.dtype for tensor in given])
            for tensor, of in zip(gradients, given, strict=True):
                tensor.set_shape(of.shape)
            to_logits, *to_couplings = gradients
            return [to_logits, None, *to_couplings, *[None] * (len(inputs) - 2 - run.trained)]

        return refined, gradient

    return tf.custom_gradient(refine)(*inputs)


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
