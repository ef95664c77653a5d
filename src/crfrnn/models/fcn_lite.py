"""FCN-Lite: a fully convolutional network on EfficientNet-Lite that trains on two cores in minutes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crfrnn.models.efficientnet import MEAN, STRIDES, ConvNorm, EfficientNetLiteEncoder, imagenet_encoder_state
from crfrnn.numbers import proper_fraction, whole_number

WIDTH = 128
"""Channels of the decoder."""


class FcnLite(nn.Module):
    """Class scores of a photo of any size: EfficientNet-Lite and, like FCN-8s, skips at strides 32, 16 and 8.

    Starting from the coarsest features, the decoder narrows the features of each stride, adds the bilinearly stretched
    result of the coarser stride, and filters the sum. To the coarsest it first adds what their mean over the photo says
    of the photo as a whole. The scores are computed at the finest stride and stretched to the photo.

    Args:
        num_classes: Channels of the logits, at least 1.
        dropout: Share of the decoder's channels left out in training, at least 0 and below 1.
        encoder: "lite0", or the larger "lite1" or "lite2", which know more and take longer.
        feature_dropout: Share of the encoder's channels that the decoder does not see in training, likewise.
        stride: Of the finest features that are used, and so of the scores: 8, 16 or 32. Coarser scores take less time,
            and leave more to a CRF.
    Attributes:
        options: The arguments it was made with, for `save_model`.
    References: Long et al. 2015; Tan & Le 2019; for the mean over the photo Liu et al. 2015, ParseNet.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        dropout: float = 0.1,
        feature_dropout: float = 0.0,
        encoder: str = "lite0",
        stride: int = 8,
    ) -> None:
        super().__init__()
        if whole_number(num_classes, "num_classes") < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1")
        if whole_number(stride, "stride") not in STRIDES:
            raise ValueError(f"stride={stride} must be one of {', '.join(map(str, STRIDES))}")
        self.num_classes = num_classes
        self.encoder = EfficientNetLiteEncoder(encoder)
        self.options: dict[str, Any] = {
            "num_classes": num_classes,
            "dropout": proper_fraction(dropout, "dropout"),
            "feature_dropout": proper_fraction(feature_dropout, "feature_dropout"),
            "encoder": self.encoder.variant,
            "stride": stride,
        }
        self._finest = STRIDES.index(stride)
        used = self.encoder.channels[self._finest :]
        self.skips = nn.ModuleList(ConvNorm(channels, WIDTH, active=False) for channels in used)
        self.filters = nn.ModuleList(ConvNorm(WIDTH, WIDTH, kernel=3) for _ in used)
        self.context = nn.Conv2d(self.encoder.channels[-1], WIDTH, 1)
        self.feature_dropout = nn.Dropout2d(feature_dropout)
        self.dropout = nn.Dropout2d(dropout)
        self.score = nn.Conv2d(WIDTH, num_classes, 1)

    def load_imagenet(self) -> None:
        """Start the encoder from its ImageNet weights; the decoder stays as it is."""
        self.encoder.load_state_dict(imagenet_encoder_state(self.encoder.variant))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W).

        Args:
            images: (B, 3, H, W) RGB, 0 to 255.
        """
        height, width = images.shape[-2:]
        # One pixel more than a multiple of the stride: then the corners of the features coincide at every stride.
        coarsest = STRIDES[-1]
        padded = functional.pad(images, (0, -(width - 1) % coarsest, 0, -(height - 1) % coarsest), value=MEAN)
        # Channels last halves the time of a training step on a CPU.
        found = self.encoder(padded.contiguous(memory_format=torch.channels_last))
        features = [self.feature_dropout(each) for each in found[self._finest :]]
        decoded = self.context(features[-1].mean(dim=(2, 3), keepdim=True))
        for taken, skip, filtered in reversed(list(zip(features, self.skips, self.filters, strict=True))):
            decoded = filtered(skip(taken) + _stretched(decoded, taken))
        scores = self.score(self.dropout(decoded))
        return _stretched(scores, padded)[..., :height, :width]


def _stretched(coarse: Tensor, fine: Tensor) -> Tensor:
    """Coarse features stretched to the size of finer ones, with their corners aligned."""
    return functional.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=True)
