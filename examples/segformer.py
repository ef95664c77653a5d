"""A SegFormer of Hugging Face's transformers with a CRF-RNN behind it, trained end to end for a few steps.

    pip install 'crfrnn[models]' transformers
    python examples/segformer.py

The network is built from its config and knows nothing yet. It learns the cat photo that comes with crfrnn, labelled
by another network, so that the loss falls within seconds on a CPU.
"""

from importlib.resources import files

import numpy as np
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from crfrnn.files.resize import resize_scores
from crfrnn.models import Segmenter, attach

STEPS = 20
HEIGHT, WIDTH = 150, 225
CLASSES = 21
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet in levels 0-255, as SegFormer expects


def segformer() -> SegformerForSemanticSegmentation:
    """A small SegFormer with random weights."""
    config = SegformerConfig(
        num_labels=CLASSES, depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 128], decoder_hidden_size=64
    )
    return SegformerForSemanticSegmentation(config)


def photo_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    """The photo (1, 3, H, W), RGB 0 to 255, and its labels (1, H, W): another network's best guess."""
    folder = files("crfrnn").joinpath("data", "examples")
    with folder.joinpath("chelsea.png").open("rb") as file:
        whole = Image.open(file).convert("RGB")
    with folder.joinpath("chelsea_logits33.npz").open("rb") as file:
        logits = np.load(file)["logits"]
    # The logits cover a square as long as the photo's longer side, with the photo at its top.
    covered = resize_scores(logits, (WIDTH, WIDTH))[:, :HEIGHT]
    photo = np.asarray(whole.resize((WIDTH, HEIGHT)), np.float32)
    return torch.from_numpy(photo).permute(2, 0, 1)[None], torch.from_numpy(covered.argmax(axis=0))[None]


def train(segmenter: Segmenter, photo: torch.Tensor, labels: torch.Tensor, steps: int) -> list[float]:
    """Train network and CRF together; returns the loss of each step."""
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(segmenter(photo), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main(steps: int = STEPS) -> None:
    torch.manual_seed(0)
    segmenter = attach(segformer(), CLASSES, mean=MEAN, std=STD)
    photo, labels = photo_and_labels()
    losses = train(segmenter, photo, labels, steps)
    segmenter.eval()
    with torch.no_grad():
        right = (segmenter(photo).argmax(dim=1) == labels).float().mean()
    print(f"loss {losses[0]:.2f} before, {losses[-1]:.2f} after {steps} steps; {right:.0%} of pixels right")


if __name__ == "__main__":
    main()
