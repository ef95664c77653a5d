"""Logits brought to the size of the image before a layer refines them, on every backend of Keras."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from crfrnn.keras import bridge
from crfrnn.keras.layout import Layout
from crfrnn.upsampling import Grids, JointBilateral, Linear, Method, chosen_map, image_guide, method_for

Array = NDArray[Any]


def at_image_size(logits: Any, image: Any, method: Method | None, layout: Layout, training: bool) -> Any:
    """Logits at the size of the image, in the layout of the layer: the one rule for tensors of Keras.

    Args:
        logits: float32 or float64; they get a gradient.
        image: Of the same dtype.
        method: As for `method_for`. An image of their size leaves them as they are.
    """
    method = method_for(method, layout.spatial(logits.shape), layout.spatial(image.shape), "logits")
    if method is None:
        return logits
    shape = layout.upsampled(logits.shape, image.shape)
    if None not in shape and shape == tuple(logits.shape):
        return logits
    if keras.backend.backend() == "torch":
        from crfrnn.torch import upsampling

        planes = [tensor.movedim(layout.channel_axis, 1) for tensor in (logits, image)]
        return upsampling.at_image_size(planes[0], planes[1], method).movedim(1, layout.channel_axis)
    return bridge.call(Stretch(method, layout), [logits, image], training)


@dataclass(frozen=True)
class Stretch:
    """A batch of scores at the size of images, and the gradient, on arrays in the layout of a layer."""

    method: Method
    layout: Layout
    coupled: int = 1
    learned: int = 1
    fixed: tuple[str, ...] = ("image",)

    def result_shape(self, shapes: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        """That of the image, with the channels of the scores."""
        return self.layout.upsampled(*shapes)

    def infer(self, *inputs: Array) -> tuple[Array, Array]:
        """Upsampled scores, and the number of nothing."""
        scores, image = inputs
        return self._each([each.apply for each in self._maps(scores, image)], scores), np.asarray(-1, np.int32)

    def forward(self, *inputs: Array) -> tuple[Array, Array]:
        """The same: the backward pass builds the maps again."""
        return self.infer(*inputs)

    def backward(self, cotangent: Array, number: Array, *inputs: Array) -> tuple[Array, ...]:
        """The gradient to the scores."""
        return (self._each([each.transpose for each in self._maps(*inputs)], cotangent),)

    def backward_to_all(self, cotangent: Array, number: Array, *inputs: Array) -> tuple[Array, ...]:
        """The image is fixed."""
        raise NotImplementedError

    def _maps(self, scores: Array, image: Array) -> list[Linear | JointBilateral]:
        """The map of each image of the batch."""
        self.layout.upsampled(scores.shape, image.shape)
        maps = []
        planes = (np.moveaxis(array, self.layout.channel_axis, 1) for array in (scores, image))
        for values, levels in zip(*planes, strict=True):
            grids = Grids.of(values, image_guide(np.moveaxis(levels, 0, -1), values.shape))
            method = "bilinear" if grids.low == grids.guide.grid else self.method
            maps.append(chosen_map(method, grids, scores.dtype, None))
        return maps

    def _each(self, functions: Sequence[Callable[[Array], Array]], arrays: Array) -> Array:
        """Each image of the batch by its own function."""
        planes = np.moveaxis(arrays, self.layout.channel_axis, 1)
        results = np.stack([function(each) for function, each in zip(functions, planes, strict=True)])
        return np.ascontiguousarray(np.moveaxis(results, 1, self.layout.channel_axis), arrays.dtype)
