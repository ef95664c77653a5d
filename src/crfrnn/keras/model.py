"""The network of the paper in Keras: FCN-8s on VGG-16 with a CRF-RNN behind it, named as the original names its layers.

References: Long et al. 2015; Zheng et al. 2015.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from crfrnn.files.published import SIZE
from crfrnn.keras.layer import CrfRnnLayer
from crfrnn.numbers import whole_number

VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of conv1_1, conv1_2; conv2_1, …: blocks of 3×3 convolutions, the maximum of 2×2 behind each block."""
FC_CHANNELS = 4096
FC6_KERNEL = 7
PADDING = 100
DROPOUT = 0.5
# Offsets of the crops in the original geometry: at pool4, at pool3 and at the photo.
POOL4_OFFSET, POOL3_OFFSET, PHOTO_OFFSET = 5, 9, 31
LAST_STRIDE = 8


@keras.saving.register_keras_serializable(package="crfrnn")
class CropLike(layers.Layer):  # type: ignore[misc]
    """`layer([whole, like])`: as much of `whole` from `offset` on as `like` is high and wide, channels last."""

    def __init__(self, offset: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.offset = offset

    def call(self, inputs: Sequence[Any]) -> Any:
        """(B, h, w, C) of (B, H, W, C) and (B, h, w, …)."""
        whole, like = inputs
        height, width = ops.shape(like)[1:3]
        return whole[:, self.offset : self.offset + height, self.offset : self.offset + width]

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[int | None, ...]:
        """(B, h, w, C)."""
        whole, like = input_shape
        return (whole[0], *like[1:3], whole[3])

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes an equal layer from."""
        return {**super().get_config(), "offset": self.offset}


def get_crfrnn_model_def() -> keras.Model:
    """CRF-RNN as it was published: FCN-8s and CRF-RNN for images of 500×500 and the 21 classes of PASCAL VOC.

    `load_weights("crfrnn_keras_model.h5")` gives it the published weights. It takes what `get_preprocessed_image`
    returns and gives logits.
    """
    return fcn8s(image_dims=(SIZE, SIZE))


def fcn8s(
    num_classes: int = 21, image_dims: tuple[int, int] | None = None, *, padded: bool = True, crf: bool = True
) -> keras.Model:
    """FCN-8s, channels last, with the original's layer names; the weights are the same for any size.

    Convolutions start random, scores at 0, and upsampling as bilinear interpolation.
    `load_weights("crfrnn_keras_model.h5", by_name=True)` gives it the published weights.

    Args:
        num_classes: Channels of the logits, at least 1.
        image_dims: (height, width) of the images; None takes any.
        padded: Use the original's padding by 100 pixels and its crops; otherwise those that cost least.
        crf: Put a CRF-RNN with 10 iterations behind the network, with the spatial kernel on the lattice as published.
    Returns: Model of images (B, H, W, 3), BGR less the mean (103.939, 116.779, 123.68); it gives logits (B, H, W, C).
    """
    if whole_number(num_classes, "num_classes") < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    image = keras.Input((*(image_dims or (None, None)), 3))
    features = layers.ZeroPadding2D(PADDING, data_format="channels_last")(image) if padded else image
    pools = []
    for block, widths in enumerate(VGG, start=1):
        for place, width in enumerate(widths, start=1):
            inside = padded and (block, place) == (1, 1)
            features = _convolution(width, 3, f"conv{block}_{place}", "valid" if inside else "same")(features)
        features = layers.MaxPooling2D(2, 2, "same", data_format="channels_last", name=f"pool{block}")(features)
        pools.append(features)
    features = _convolution(FC_CHANNELS, FC6_KERNEL, "fc6", "valid" if padded else "same")(features)
    features = layers.Dropout(DROPOUT)(features)
    features = _convolution(FC_CHANNELS, 1, "fc7", "valid")(features)
    features = layers.Dropout(DROPOUT)(features)

    scores = _score(num_classes, "score-fr")(features)
    scores = _with_skip(_upsampling(scores, num_classes, 2, "score2", bias=True), pools, 4, POOL4_OFFSET, padded)
    scores = _with_skip(_upsampling(scores, num_classes, 2, "score4"), pools, 3, POOL3_OFFSET, padded)
    full = _upsampling(scores, num_classes, LAST_STRIDE, "upsample")
    logits = _part(full, PHOTO_OFFSET if padded else LAST_STRIDE // 2, image)
    if crf:
        crfrnn = CrfRnnLayer(image_dims, num_classes, spatial="lattice", data_format="channels_last", name="crfrnn")
        logits = crfrnn([logits, image])
    return keras.Model(image, logits, name="crfrnn_net" if crf else "fcn8s")


def _with_skip(doubled: Any, pools: Sequence[Any], block: int, offset: int, padded: bool) -> Any:
    """Doubled scores and those of a pool; the original cuts the larger pool, the other geometry the doubled scores."""
    added = _score(doubled.shape[-1], f"score-pool{block}")(pools[block - 1])
    if padded:
        added = _part(added, offset, doubled)
    else:
        doubled = _part(doubled, 1, added)
    return layers.Add()([doubled, added])


def _part(whole: Any, offset: int, like: Any) -> Any:
    """As much of `whole` from `offset` on as `like` is high and wide."""
    sizes = [*zip(whole.shape[1:3], like.shape[1:3], strict=True)]
    if any(None in pair for pair in sizes):
        return CropLike(offset)([whole, like])
    # The original's own layers: weight files hold layers in an order that comes from what each is connected to.
    cropping = tuple((offset, size - offset - kept) for size, kept in sizes)
    return layers.Cropping2D(cropping, data_format="channels_last")(whole)


def _convolution(width: int, kernel: int, name: str, padding: str) -> Any:
    return layers.Conv2D(
        width,
        kernel,
        padding=padding,
        activation="relu",
        kernel_initializer="he_normal",
        data_format="channels_last",
        name=name,
    )


def _score(num_classes: int, name: str) -> Any:
    return layers.Conv2D(num_classes, 1, kernel_initializer="zeros", data_format="channels_last", name=name)


def _upsampling(scores: Any, num_classes: int, stride: int, name: str, bias: bool = False) -> Any:
    """Scores upsampled by a transposed convolution that starts as bilinear interpolation of each class by itself."""
    layer = layers.Conv2DTranspose(
        num_classes, 2 * stride, stride, use_bias=bias, data_format="channels_last", name=name
    )
    upsampled = layer(scores)
    tent = 1 - np.abs(np.arange(2 * stride) - (stride - 0.5)) / stride
    layer.kernel.assign(tent[:, None, None, None] * tent[:, None, None] * np.eye(num_classes))
    return upsampled
