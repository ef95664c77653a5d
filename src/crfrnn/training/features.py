"""Features of an encoder that does not learn, worked out once for each photo."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import torch
from torch import Tensor

from crfrnn.memory import half_of_memory

Features = tuple[Tensor, ...]


class KeptFeatures:
    """What an encoder says of images, kept for the next time that it sees them.

    Kept are at most as many bytes as are half of the memory when training begins, about 1.2 MB for a photo of 500 x 375
    in 32 bits; what is beyond is worked out anew, and so is everything on a GPU, which is fast at it.

    Args:
        encode: From images (B, 3, H, W) to features (B, channels, h, w). No gradient passes.
    """

    def __init__(self, encode: Callable[[Tensor], Features]) -> None:
        self.encode = encode
        self.kept: dict[tuple[bytes, torch.Size], Features] = {}
        self.room = half_of_memory()

    def __call__(self, images: Tensor) -> Features:
        # Each photo alone, so that its features do not depend on those it is in a batch with.
        with torch.inference_mode(False), torch.no_grad():
            if images.device.type != "cpu":
                return self.encode(images)
            found = [self._of(images[place : place + 1]) for place in range(len(images))]
            return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    def _of(self, image: Tensor) -> Features:
        key = (blake2b(image.contiguous().numpy().tobytes()).digest(), image.shape)
        if key in self.kept:
            return self.kept[key]
        features = self.encode(image)
        size = sum(feature.nbytes for feature in features)
        if size <= self.room:
            self.room -= size
            self.kept[key] = features
        return features
