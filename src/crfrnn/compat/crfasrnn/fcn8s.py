"""The port's FCN-8s."""

from torch import Tensor

from crfrnn.models import fcn

NUM_LABELS = 21


class Fcn8s(fcn.Fcn8s):
    """FCN-8s for 21 classes as the official PyTorch port has it, with its input; its state loads strictly."""

    def __init__(self) -> None:
        super().__init__(NUM_LABELS)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 21, H, W) of (B, 3, H, W) images, BGR less the mean as `util.get_preprocessed_image` gives."""
        return super().forward((image + self.mean).flip(1))
