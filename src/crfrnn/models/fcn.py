"""FCN-32s, FCN-16s and FCN-8s: VGG-16 as a fully convolutional network, with the layers of the published CRF-RNN.

Two geometries share all weights. The original pads the photo by 100 pixels and convolves fc6 without padding, so that
scores reach beyond every border. It then crops skips and scores at fixed offsets. The other geometry pads every
convolution as usual and takes a third of the work on a photo of 320×213. Both accept any size.
References: Long et al. 2015; Zheng et al. 2015.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from crfrnn.numbers import whole_number

BGR_MEAN = (103.939, 116.779, 123.68)
"""The mean of ImageNet, in levels 0-255."""
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of conv1_1, conv1_2; conv2_1, …: blocks of 3×3 convolutions, each followed by 2×2 max pooling."""
FC_CHANNELS = 4096
FC6_KERNEL = 7
PADDING = 100
DROPOUT = 0.5


class Skip(NamedTuple):
    """A transposed convolution doubles the size of the scores, and the scores of a pooling layer are added."""

    upsampling: str
    biased: bool
    pool: int
    offset: int
    """Offset of the doubled scores within those of the pooling layer, in the original geometry."""


class Last(NamedTuple):
    """The transposed convolution to the size of the photo."""

    upsampling: str
    stride: int
    offset: int
    """Offset of the photo within the output, in the original geometry."""


class _Fcn(nn.Module):
    """What the three networks have in common; `skips` and `last` tell them apart."""

    skips: ClassVar[tuple[Skip, ...]]
    last: ClassVar[Last]
    mean: Tensor

    def __init__(self, num_classes: int = 21, *, padded: bool = True) -> None:
        super().__init__()
        if whole_number(num_classes, "num_classes") < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1")
        self.num_classes = num_classes
        self.padded = bool(padded)
        self.options: dict[str, Any] = {"num_classes": num_classes, "padded": self.padded}
        self.register_buffer("mean", torch.tensor(BGR_MEAN).reshape(3, 1, 1), persistent=False)
        channels = 3
        for block, widths in enumerate(VGG, start=1):
            for place, width in enumerate(widths, start=1):
                padding = PADDING if padded and (block, place) == (1, 1) else 1
                self.add_module(f"conv{block}_{place}", _convolution(channels, width, 3, padding))
                channels = width
        self.fc6 = _convolution(channels, FC_CHANNELS, FC6_KERNEL, 0 if padded else FC6_KERNEL // 2)
        self.fc7 = _convolution(FC_CHANNELS, FC_CHANNELS, 1, 0)
        self.dropout = nn.Dropout(DROPOUT)
        self.score_fr = _score(FC_CHANNELS, num_classes)
        for skip in self.skips:
            self.add_module(f"score_pool{skip.pool}", _score(VGG[skip.pool - 1][-1], num_classes))
            self.add_module(skip.upsampling, _upsampling(num_classes, 2, skip.biased))
        self.add_module(self.last.upsampling, _upsampling(num_classes, self.last.stride, biased=False))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W).

        Args:
            images: (B, 3, H, W) RGB, 0 to 255.
        """
        features = images.flip(1) - self.mean
        pools = {}
        for block, widths in enumerate(VGG, start=1):
            for place in range(1, len(widths) + 1):
                features = functional.relu_(self._layer(f"conv{block}_{place}")(features))
            features = pools[block] = functional.max_pool2d(features, 2, ceil_mode=True)
        features = self.dropout(functional.relu_(self.fc6(features)))
        features = self.dropout(functional.relu_(self.fc7(features)))
        scores = self.score_fr(features)
        for skip in self.skips:
            doubled = self._layer(skip.upsampling)(scores)
            added = self._layer(f"score_pool{skip.pool}")(pools[skip.pool])
            if self.padded:
                added = _part(added, skip.offset, doubled)
            else:
                doubled = _part(doubled, 1, added)
            scores = doubled + added
        full = self._layer(self.last.upsampling)(scores)
        return _part(full, self.last.offset if self.padded else self.last.stride // 2, images)

    def _layer(self, name: str) -> nn.Module:
        return self.get_submodule(name)


class Fcn8s(_Fcn):
    """FCN-8s, the network of CRF-RNN: scores at stride 32, and skips from strides 16 and 8.

    Its state has the names of the official PyTorch port. Score layers start at 0, and upsampling starts as bilinear.

    Args:
        num_classes: Channels of the logits, at least 1.
        padded: Pad by 100 pixels and crop as the original does; otherwise pad and crop at the least cost.
    Attributes:
        options: The arguments it was made with, for `save_model`.
    """

    skips = (Skip("upscore2", True, 4, 5), Skip("upscore_pool4", False, 3, 9))
    last = Last("upscore8", 8, 31)


class Fcn16s(_Fcn):
    """FCN-16s: scores at stride 32, and a skip from stride 16. Arguments as for `Fcn8s`."""

    skips = (Skip("upscore2", False, 4, 5),)
    last = Last("upscore16", 16, 27)


class Fcn32s(_Fcn):
    """FCN-32s: scores at stride 32 only. Arguments as for `Fcn8s`."""

    skips = ()
    last = Last("upscore", 32, 19)


def _convolution(inputs: int, outputs: int, kernel: int, padding: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=padding)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _score(inputs: int, num_classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, num_classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _upsampling(num_classes: int, stride: int, biased: bool) -> nn.ConvTranspose2d:
    """A transposed convolution that starts as bilinear interpolation of each class separately."""
    layer = nn.ConvTranspose2d(num_classes, num_classes, 2 * stride, stride, bias=biased)
    tent = 1 - (torch.arange(2 * stride) - (stride - 0.5)).abs() / stride
    with torch.no_grad():
        layer.weight.copy_(torch.eye(num_classes)[:, :, None, None] * tent[:, None] * tent)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def _part(whole: Tensor, offset: int, like: Tensor) -> Tensor:
    """The part of `whole` that starts at `offset` and has the height and width of `like`."""
    height, width = like.shape[-2:]
    return whole[..., offset : offset + height, offset : offset + width]
