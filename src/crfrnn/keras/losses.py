"""Losses that need no labels, on Keras' backends: those of `crfrnn.torch.losses`, with the same names and numbers.

The functions give the loss. The layers add it to the model's own and hand on the probabilities:
`DenseCrfLoss(weight=0.1)([probabilities, image])`. Gradients go to the probabilities.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import keras
from keras import ops

from crfrnn.crf import CRF, EPSILON, decoded, encoded
from crfrnn.inference.losses import DENSE_CRF, GATED_CRF, LEAST_CONNECTION, Parameters, loss_crf
from crfrnn.keras import bridge
from crfrnn.keras.layer import CHANNEL_AXES, combined
from crfrnn.keras.layout import Layout
from crfrnn.kernels.build import given_mapping, missing
from crfrnn.numbers import finite_number, one_of
from crfrnn.parameters import CRFParameters

__all__ = [
    "DENSE_CRF",
    "GATED_CRF",
    "DenseCrfLoss",
    "GatedCrfLoss",
    "NormalizedCutLoss",
    "PairwiseLoss",
    "dense_crf_loss",
    "gated_crf_loss",
    "normalized_cut_loss",
]


def dense_crf_loss(
    probabilities: Any,
    image: Any,
    mask: Any = None,
    parameters: Parameters = DENSE_CRF,
    *,
    given: Mapping[str, Any] | None = None,
    data_format: str | None = None,
    training: bool = True,
) -> Any:
    """The relaxed Potts energy Σ_c q_cᵀ N (1 - q_c), over the number of pixels (docs/algorithm.md, eq. 25).

    Args:
        probabilities: (B, *spatial, C), 0 to 1, or with the channels on axis 1; 1 to 3 spatial axes. One channel is
            the probability of the foreground, and stands for two classes.
        image: The same with its own channels, in the units of theta_beta (0 to 255 for the default).
        mask: (B, *spatial) weight of each pixel; those of weight 0 do not count.
        parameters: Kernels, as `crfrnn.torch.losses.dense_crf_loss` takes them.
        given: For kernels over `Given(name)`, by name: features in the layout of the image.
        data_format: "channels_last" or "channels_first"; None is `keras.config.image_data_format()`.
        training: Whether gradients will be asked for; matters only for speed, where TensorFlow runs eagerly.
    Returns: A number, in float64 for float64 probabilities, else in float32.
    Raises: ValueError: if shapes do not fit. For values that are not finite or no probabilities, the error depends on
        the backend.
    References: Tang et al. 2018, On regularized losses for weakly-supervised CNN segmentation.
    """
    pairs = _Pairs(probabilities, image, mask, parameters, given, data_format, training)
    return ops.sum(pairs.q * pairs.filtered(1 - pairs.q)) / pairs.pixels(pairs.mask)


def gated_crf_loss(
    probabilities: Any,
    image: Any,
    mask: Any = None,
    source: Any = None,
    destination: Any = None,
    parameters: Parameters = GATED_CRF,
    *,
    given: Mapping[str, Any] | None = None,
    data_format: str | None = None,
    training: bool = True,
) -> Any:
    """The relaxed Potts energy of the pairs of two different pixels that gates let through (docs/algorithm.md, eq. 26).

    Args:
        probabilities: As in `dense_crf_loss`, and so are image, mask, given, data_format and training.
        source: (B, *spatial) weight of each pixel as one that others should agree with.
        destination: (B, *spatial) weight of each pixel as one that should agree with others.
        parameters: As in `crfrnn.torch.losses.gated_crf_loss`.
    Returns: As `dense_crf_loss`; the mean over destinations or, without a destination, sources.
    References: Obukhov et al. 2019.
    """
    pairs = _Pairs(probabilities, image, mask, parameters, given, data_format, training)
    gates = pairs.gates(source=source, destination=destination)
    received = pairs.filtered(pairs.gated(1 - pairs.q, source), own_pairs=False, gates=gates)
    received = ops.where(received < 0, ops.zeros_like(received), received)  # a relu has no gradient at 0
    pixels = pairs.pixels(pairs.mask, source if destination is None else destination)
    return ops.sum(pairs.gated(pairs.q * received, destination)) / pixels


def normalized_cut_loss(
    probabilities: Any,
    image: Any,
    mask: Any = None,
    parameters: Parameters = DENSE_CRF,
    *,
    given: Mapping[str, Any] | None = None,
    data_format: str | None = None,
    training: bool = True,
) -> Any:
    """The normalised cut Σ_c q_cᵀ N (1 - q_c) / q_cᵀ N 1, a mean over images (docs/algorithm.md, eq. 27).

    Args:
        probabilities: As in `dense_crf_loss`, and so are all other arguments.
    Returns: As `dense_crf_loss`.
    References: Tang et al. 2018, Normalized cut loss for weakly-supervised CNN segmentation.
    """
    pairs = _Pairs(probabilities, image, mask, parameters, given, data_format, training)
    one = ops.ones_like(ops.sum(pairs.q, axis=pairs.axis, keepdims=True))
    received = pairs.filtered(ops.concatenate([1 - pairs.q, one], axis=pairs.axis))
    received, connections = ops.split(received, [pairs.q.shape[pairs.axis]], axis=pairs.axis)
    cut, connected = (pairs.over_space(pairs.q * each) for each in (received, connections))
    cuts = ops.sum(cut / (connected + LEAST_CONNECTION), axis=1)
    return ops.sum(cuts) / ops.sum(ops.ones_like(cuts))  # ops.mean of float64 is float32 on some backends


class _Pairs:
    """The probabilities q of all classes, and the filter of a loss's kernels, in the precision of computing."""

    def __init__(
        self,
        probabilities: Any,
        image: Any,
        mask: Any,
        parameters: Parameters,
        given: Mapping[str, Any] | None,
        data_format: str | None,
        training: bool,
    ) -> None:
        data_format = keras.config.image_data_format() if data_format is None else data_format
        one_of(data_format, list(CHANNEL_AXES), "data_format")
        self.axis, self.training = CHANNEL_AXES[data_format], training
        self.crf = loss_crf(parameters)
        for name, tensor in (("probabilities", probabilities), ("image", image)):
            if tensor is None:
                raise TypeError(f"{name} is None; expected a tensor (B, *spatial, channels)")
        q = ops.convert_to_tensor(probabilities)
        self.dtype = "float64" if keras.backend.standardize_dtype(q.dtype) == "float64" else "float32"
        image = ops.convert_to_tensor(image)
        mask = None if mask is None else ops.convert_to_tensor(mask)
        channels = q.shape[self.axis] if len(q.shape) > 1 else 0
        self.layout = Layout(channels, None, self.axis, "probabilities")
        self.layout.check(q.shape, image.shape, None if mask is None else mask.shape)
        q = ops.cast(q, self.dtype)
        self.q = ops.concatenate([1 - q, q], axis=self.axis) if channels == 1 else q
        self.image = ops.cast(image, self.dtype)
        self.mask = None if mask is None else ops.cast(mask, self.dtype)
        self.given = {}
        for name in self.crf.given_names:
            if name not in given_mapping(given):
                raise ValueError(missing(name, given_mapping(given)))
            self.given[name] = ops.cast(given_mapping(given)[name], self.dtype)
            self.layout.check(q.shape, self.given[name].shape, None, f"given[{name!r}]")

    def filtered(self, values: Any, own_pairs: bool = True, gates: Mapping[str, Any] | None = None) -> Any:
        """Σ_k w_k N_k v, if there are no gates (B, *spatial) that are no weights."""
        scene = bridge.Scene(values, self.image, self.given, self.mask)
        layout = self.layout._replace(num_classes=values.shape[self.axis])
        return bridge.pair_filter(self.crf, scene, layout, own_pairs, gates or {}, self.training)

    def gates(self, **gates: Any) -> dict[str, Any]:
        """Those that are given, which have the size of the probabilities."""
        given = {name: ops.convert_to_tensor(gate) for name, gate in gates.items() if gate is not None}
        for name, gate in given.items():
            self.layout.check_plane(self.q.shape, gate.shape, name)
        return {name: ops.cast(gate, self.dtype) for name, gate in given.items()}

    def gated(self, values: Any, gate: Any) -> Any:
        """Values times a gate (B, *spatial)."""
        return values if gate is None else values * ops.expand_dims(ops.cast(gate, self.dtype), self.axis)

    def pixels(self, *weights: Any) -> Any:
        """How many pixels of all images count, by the product of weights (B, *spatial)."""
        counted = ops.ones_like(ops.sum(self.q, axis=self.axis))
        for weight in weights:
            counted = counted if weight is None else counted * ops.cast(weight, self.dtype)
        return ops.sum(counted) + EPSILON

    def over_space(self, values: Any) -> Any:
        """(B, C) sums over the pixels of each image."""
        return ops.sum(ops.moveaxis(values, self.axis, 1), axis=tuple(range(2, len(values.shape))))


class PairwiseLoss(keras.layers.Layer):  # type: ignore[misc]
    """One of the losses as a layer, `layer([probabilities, image])`, which hands on the probabilities.

    Features of kernels over `Given(name)` are further inputs, in the order of the kernels.

    Args:
        weight: What the loss is multiplied by before it is added to the model's.
        parameters: Kernels, as `dense_crf_loss` takes them; None is the published kernel.
        data_format: "channels_last" or "channels_first"; None is `keras.config.image_data_format()`.
        **kwargs: Fields of `CRFParameters` that replace those of the parameters (`theta_alpha=50`), and name, trainable
            and dtype.
    Attributes:
        crf: The kernels.
        weight: May be set; functions that Keras has compiled keep the one they were compiled with.
    """

    published = DENSE_CRF
    function: Callable[..., Any]

    def __init__(
        self,
        weight: float = 1.0,
        parameters: Parameters | dict[str, Any] | None = None,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        settings = {each.name: kwargs.pop(each.name) for each in fields(CRFParameters) if each.name in kwargs}
        super().__init__(autocast=False, **kwargs)  # the image must not be rounded to 16 bits
        self.weight = finite_number(weight, "weight")
        given = decoded(parameters) if isinstance(parameters, dict) else parameters
        self.crf: CRF = loss_crf(self.published if given is None else given, settings)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        one_of(self.data_format, list(CHANNEL_AXES), "data_format")
        self.supports_jit = keras.backend.backend() != "tensorflow"

    def call(self, inputs: Any, mask: Any = None, training: bool | None = None) -> Any:
        """The probabilities as they are; the loss is added.

        Args:
            inputs: [probabilities, image]; see `dense_crf_loss`.
            mask: (B, *spatial) weight of each pixel, or a list of masks that all count.
            training: As for `CrfRnnLayer`.
        """
        return self._added(inputs, mask, training)

    def _added(self, inputs: Any, mask: Any, training: bool | None, **gates: Any) -> Any:
        names = ["probabilities", "image", *self.crf.given_names]
        if not isinstance(inputs, list | tuple) or len(inputs) != len(names):
            raise ValueError(f"{type(self).__name__} is called as layer([{', '.join(names)}])")
        probabilities, image, *others = inputs
        given = dict(zip(self.crf.given_names, others, strict=True))
        more = {"given": given, "data_format": self.data_format, "training": bool(training)}
        loss = type(self).function(probabilities, image, combined(mask), parameters=self.crf, **gates, **more)
        self.add_loss(self.weight * loss)
        return probabilities

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """The masks of the inputs in one."""
        return combined(previous_mask)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the probabilities."""
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes an equal layer from."""
        config = {"weight": self.weight, "parameters": encoded(self.crf), "data_format": self.data_format}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="crfrnn")
class DenseCrfLoss(PairwiseLoss):
    """`dense_crf_loss` as a layer; its arguments are those of `PairwiseLoss`."""

    function = staticmethod(dense_crf_loss)


@keras.saving.register_keras_serializable(package="crfrnn")
class GatedCrfLoss(PairwiseLoss):
    """`gated_crf_loss` as a layer; its arguments are those of `PairwiseLoss`."""

    published = GATED_CRF
    function = staticmethod(gated_crf_loss)

    def call(  # type: ignore[override]
        self, inputs: Any, mask: Any = None, source: Any = None, destination: Any = None, training: bool | None = None
    ) -> Any:
        """The probabilities as they are; the loss is added.

        Args:
            inputs: As for the other losses, and so are mask and training.
            source: (B, *spatial), as in `gated_crf_loss`, and so is the destination.
        """
        return self._added(inputs, mask, training, source=source, destination=destination)


@keras.saving.register_keras_serializable(package="crfrnn")
class NormalizedCutLoss(PairwiseLoss):
    """`normalized_cut_loss` as a layer; its arguments are those of `PairwiseLoss`."""

    function = staticmethod(normalized_cut_loss)
