"""CRF-RNN as a layer of Keras, with the name, arguments and weights it was published with."""

from collections.abc import Sequence
from itertools import product
from typing import Any, TypeAlias, get_args

import keras
import numpy as np
from keras import ops

from crfrnn.arrays import spatial_shape
from crfrnn.attributes import CrfAttributes, alone, trained_thetas
from crfrnn.crf import CRF, MeanField, decoded, encoded
from crfrnn.keras import bridge
from crfrnn.keras.layout import Layout
from crfrnn.keras.upsampling import at_image_size
from crfrnn.numbers import flag, one_of, whole_number
from crfrnn.parameters import CRFParameters, Filter, SpatialKernel
from crfrnn.unary import num_classes_of
from crfrnn.upsampling import LEAST_STRIDE, Method, are_smaller

Deviation: TypeAlias = float | Sequence[float]
CHANNEL_AXES = {"channels_last": -1, "channels_first": 1}


@keras.saving.register_keras_serializable(package="crfrnn")
class CrfRnnLayer(CrfAttributes, keras.layers.Layer):  # type: ignore[misc]
    """Refine the logits of a segmentation network by the colours of the image: `layer([logits, image])`.

    `num_iterations` times a = U - M (W_s s + W_b b), where s and b are the marginals softmax(a) under the spatial and
    the bilateral Gaussian filter, each divided by the filtered ones. W_s and W_b start as I, M as -I. The result is
    logits. Every image of a batch is refined; sizes may change from call to call, and there may be 1 to 3 spatial axes.

    Args:
        image_dims: (height, width) of the images; None takes any.
        num_classes: Channels of the logits, at least 1. One channel is the log-odds of the foreground, in the result
            too: the weights are then those of two classes, (2, 2), background first.
        theta_alpha: Deviation of the bilateral kernel in pixels, or one for each axis as (x, y[, z]). In volumes
            whose spacing differs from axis to axis, give the deviation in millimetres over the spacing of each axis.
        theta_beta: Deviation of the bilateral kernel in the image's own levels, or one for each channel.
        theta_gamma: Deviation of the spatial kernel in pixels, or one for each axis as (x, y[, z]).
        num_iterations: An attribute too; setting it takes effect when the model is next traced.
        spatial: Spatial kernel as exact Gaussian on the "grid", or approximated by a "lattice" as the original does.
        filter: Bilateral kernel approximated on a "lattice", or "exact" over all pairs of pixels, which takes seconds
            an iteration for a photo and grows with the square of its pixels.
        tolerance: How far a marginal may be off in an iteration because of work left out: 0 works everything out, and
            so does the forward pass of a call whose gradients are wanted (docs/algorithm.md, section 8). An attribute
            too.
        image_range: (low, high) of the levels of images, such as (0, 1): θ_β is then in 255ths of high - low, as for
            photos of 8 bits. None: θ_β is in the image's own levels. An attribute too.
        learn_theta: Train θ_α, θ_β and θ_γ as well, by their logarithms, so that they stay above 0: one for each axis
            or channel where they are given so. The backward pass then takes about twice as long, and needs a third
            to twice as much memory on top, more for textured images.
        crf: Any other kernels and regions, and how they are solved; it takes the place of the θ, `num_iterations`,
            `spatial`, `filter`, `tolerance` and `image_range`. Its weights and compatibility are ignored: at the start
            every W is I and M is -I, as always. Features of kernels over `Given(name)` are further inputs of a call, in
            the order of the kernels, and so are segments of regions after them: ids (B, *spatial), whole numbers of any
            type, or memberships (B, *spatial, S), which get no gradient.
        upsampling: How logits smaller than the image are brought to its size, "joint-bilateral" (along its edges, as
            `crfrnn.upsample` does) or "bilinear"; an attribute too. None is "bilinear" too,
            with an `InputWarning`.
        data_format: "channels_last" or "channels_first"; None is `keras.config.image_data_format()`.
        **kwargs: name, trainable and dtype. The mean field is computed in float64 if dtype is, else in float32,
            and the result has the dtype's compute type.
    Attributes:
        spatial_ker_weights: W_s, (C, C), trainable.
        bilateral_ker_weights: W_b, (C, C), trainable.
        compatibility_matrix: M, (C, C), trainable.
        log_theta_alpha, log_theta_beta, log_theta_gamma: With learn_theta, the logarithms, trainable. The attributes
            without log_ are the present values.
    References: Zheng et al. 2015, algorithm 1.
    """

    def __init__(
        self,
        image_dims: Sequence[int] | None,
        num_classes: int,
        theta_alpha: Deviation = 160.0,
        theta_beta: Deviation = 3.0,
        theta_gamma: Deviation = 3.0,
        num_iterations: int = 10,
        *,
        spatial: SpatialKernel = "grid",
        filter: Filter = "lattice",
        tolerance: float = MeanField.tolerance,
        image_range: Sequence[float] | None = None,
        learn_theta: bool = False,
        crf: CRF | dict[str, Any] | None = None,
        upsampling: Method | None = None,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        # The image must not be rounded to 16 bits by a mixed precision policy.
        super().__init__(autocast=False, **kwargs)
        if whole_number(num_classes, "num_classes") < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1")
        whole_number(num_iterations, "num_iterations")
        data_format = keras.config.image_data_format() if data_format is None else data_format
        one_of(data_format, list(CHANNEL_AXES), "data_format")
        if upsampling is not None:
            one_of(upsampling, get_args(Method), "upsampling")
        short = CRFParameters(
            theta_alpha=theta_alpha,
            theta_beta=theta_beta,
            theta_gamma=theta_gamma,
            iterations=num_iterations,
            spatial=spatial,
            filter=filter,
            tolerance=tolerance,
            image_range=image_range,
        )
        self.image_dims = None if image_dims is None else spatial_shape(image_dims, limit=3)
        self.num_classes = num_classes
        self.learn_theta = flag(learn_theta, "learn_theta")
        self.crf = alone(decoded(crf) if isinstance(crf, dict) else crf, short, CRFParameters())
        if self.learn_theta:
            trained_thetas(self.crf)
        self.upsampling = upsampling
        self.data_format = data_format
        self.supports_jit = keras.backend.backend() != "tensorflow"

    def build(self, input_shape: Any) -> None:
        """Make the weights, in the order in which weight files hold them."""
        classes = num_classes_of(self.num_classes)
        for name, gain in (*((f"{name}_ker_weights", 1) for name in self._crf.names), ("compatibility_matrix", -1)):
            weight = self.add_weight(
                name=name,
                shape=(classes, classes),
                initializer=keras.initializers.Identity(gain),
                autocast=False,
            )
            setattr(self, name, weight)
        for name, theta in self._crf.thetas.items() if self.learn_theta else ():
            log = np.log(np.asarray(theta, np.float64))
            start = keras.initializers.Constant(log)
            weight = self.add_weight(name=f"log_{name}", shape=log.shape, initializer=start, autocast=False)
            setattr(self, f"log_{name}", weight)

    def call(self, inputs: Any, mask: Any = None, training: bool | None = None) -> Any:
        """Refined logits.

        Args:
            inputs: [logits, image]. Logits (B, *spatial, C), higher is likelier; image (B, *spatial, K) in the units
                of theta_beta, or in the `image_range`. With data_format "channels_first" the channels are on axis 1.
            mask: (B, *spatial) weight of each pixel; those of weight 0 neither send nor receive messages. A list
                holds masks that all count; None in it is no mask.
            training: Whether gradients will be asked for. Without it they are right too, but take longer where
                TensorFlow runs eagerly.
        Warns: crfrnn.InputWarning: once, if levels are far from θ_β, logits look like probabilities or energies, or
            both seem swapped.
        Returns: Logits in the shape of those given, or with `upsampling` in the size of the image.
        Raises: ValueError: if shapes do not fit. For scores that are not finite, the error depends on the backend.
        """
        logits, image, *others = self._inputs(inputs)
        weight = combined(mask)
        layout = self._layout()
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        image = ops.cast(image, dtype)
        logits = at_image_size(ops.cast(logits, dtype), image, self.upsampling, layout, bool(training))
        layout.check(logits.shape, image.shape, None if weight is None else weight.shape)
        self._check_given(layout, logits.shape, [each.shape for each in others])
        scores = logits
        if self.num_classes == 1:
            scores = ops.concatenate([ops.zeros_like(scores), scores], axis=layout.channel_axis)
        given = {
            name: ops.cast(each, "int32" if len(each.shape) < len(logits.shape) else dtype)
            for name, each in zip(self._crf.given_names, others, strict=True)
        }
        thetas = {name: ops.exp(log) for name, log in self._log_thetas().items()}
        refined = bridge.refine(
            self._crf,
            bridge.Scene(scores, image, given, None if weight is None else ops.cast(weight, dtype)),
            [ops.cast(getattr(self, f"{name}_ker_weights"), dtype) for name in self._crf.names],
            ops.cast(self.compatibility_matrix, dtype),
            {name: ops.cast(ops.reshape(theta, (-1,)), dtype) for name, theta in thetas.items()},
            layout._replace(num_classes=num_classes_of(self.num_classes)),
            bool(training),
            self._doubts,
        )
        if self.num_classes == 1:
            background, foreground = ops.split(refined, 2, axis=layout.channel_axis)
            refined = foreground - background
        return ops.cast(refined, self.compute_dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """The masks of both inputs in one."""
        return combined(previous_mask)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the logits."""
        logits, image, *others = self._inputs(input_shape)
        layout = self._layout()
        if self.upsampling is not None or are_smaller(layout.spatial(logits), layout.spatial(image), LEAST_STRIDE):
            logits = layout.upsampled(logits, image)
        layout.check(logits, image, None)
        self._check_given(layout, logits, others)
        return tuple(logits)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes an equal layer from."""
        names = ("image_dims", "num_classes", "learn_theta", "upsampling", "data_format")
        config = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **config, **self._crf_config()}

    def _log_thetas(self) -> dict[str, Any]:
        """The variables of θ that are trained, by its name; none before they are made."""
        if not (self.learn_theta and self.built):
            return {}
        return {name: getattr(self, f"log_{name}") for name in self._crf.thetas}

    def _learned_thetas(self) -> dict[str, Any]:
        logs = {name: ops.convert_to_numpy(log) for name, log in self._log_thetas().items()}
        return {name: np.exp(log).tolist() for name, log in logs.items()}

    def _set_learned_thetas(self) -> None:
        for name, log in self._log_thetas().items():
            log.assign(np.log(self._crf.thetas[name]))

    def _crf_config(self) -> dict[str, Any]:
        """The arguments of the published layer if they are enough, else the CRF."""
        if self.crf.names == CRFParameters().crf.names and isinstance(self.crf.solver, MeanField):
            names = ("theta_alpha", "theta_beta", "theta_gamma", "spatial", "filter", "tolerance", "image_range")
            config = {name: getattr(self, name) for name in names}
            if (config["spatial"], config["filter"]) in product(("grid", "lattice"), ("lattice", "exact")):
                short = CRFParameters(iterations=self.num_iterations, **config)
                if short.crf == self.crf:
                    return {**config, "num_iterations": self.num_iterations}
        return {"crf": encoded(self.crf)}

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        """TensorFlow asks for these when it saves a model; a SavedModel would work in this process only."""
        if save_type == "savedmodel":
            raise ValueError(
                "a SavedModel cannot hold a CrfRnnLayer, which runs in Python: save the model as .keras, or export the "
                "network before the layer and refine its logits with crfrnn.refine"
            )
        return super()._trackable_children(save_type, **kwargs)

    def _inputs(self, inputs: Any) -> Sequence[Any]:
        names = ["logits", "image", *self._crf.given_names]
        if not isinstance(inputs, list | tuple) or len(inputs) != len(names):
            given = f"a list of {len(inputs)}" if isinstance(inputs, list | tuple) else f"one {type(inputs).__name__}"
            count = "two" if len(names) == 2 else str(len(names))
            raise ValueError(
                f"CrfRnnLayer is called with {count} inputs, layer([{', '.join(names)}]), not with {given}"
            )
        return inputs

    def _check_given(self, layout: Layout, logits: Any, given: Sequence[Any]) -> None:
        """Raise a ValueError unless shapes of features, or of the segments of regions, go with that of the logits."""
        for name, shape in zip(self._crf.given_names, given, strict=True):
            if name in self._crf.region_names and len(shape) < len(logits):
                layout.check_plane(logits, shape, name)
            else:
                layout.check(logits, shape, None, name)

    def _layout(self) -> Layout:
        return Layout(self.num_classes, self.image_dims, CHANNEL_AXES[self.data_format])


def combined(mask: Any) -> Any:
    """All masks combined into one; Keras passes one for each input."""
    masks = [each for each in (mask if isinstance(mask, list | tuple) else [mask]) if each is not None]
    if len(masks) < 2:
        return masks[0] if masks else None
    return ops.prod(ops.stack([ops.cast(each, "float32") for each in masks]), axis=0)
