"""The port's whole network."""

from torch import Tensor

from crfrnn.compat.crfasrnn.crfrnn import CrfRnn
from crfrnn.compat.crfasrnn.fcn8s import NUM_LABELS, Fcn8s


class CrfRnnNet(Fcn8s):
    """FCN-8s with a CRF-RNN of 10 iterations: `load_state_dict(torch.load("crfasrnn_weights.pth"))` as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.crfrnn = CrfRnn(num_labels=NUM_LABELS, num_iterations=10)

    def forward(self, image: Tensor) -> Tensor:
        """Refined logits (B, 21, H, W) of (B, 3, H, W) images, BGR less the mean, which the CRF sees too."""
        refined: Tensor = self.crfrnn(image, super().forward(image))
        return refined
