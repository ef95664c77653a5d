"""Which classes send messages, known to the device alone (docs/algorithm.md, eq. 13)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Senders(NamedTuple):
    """The classes of each image that are in play.

    Attributes:
        likely: (B, channels) bool.
        most: (B, channels), the largest marginal of each class at any point, which `update` fills in.
    """

    likely: Tensor
    most: Tensor

    def above(self, threshold: float) -> "Senders":
        """Those of them that reach the threshold somewhere; of each image at least the likeliest one."""
        least = self.most.amax(dim=1, keepdim=True).clamp(max=threshold)
        return Senders(self.likely & (self.most >= least), torch.zeros_like(self.most))


def all_classes(images: int, classes: int, channels: int, like: Tensor) -> Senders:
    """Every class, in the precision and on the device of a tensor."""
    likely = (torch.arange(channels, device=like.device) < classes).repeat(images, 1)
    return Senders(likely, like.new_zeros(images, channels))
