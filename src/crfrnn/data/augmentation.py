"""Random variants of a photo and its labels: scaled, cropped, mirrored, in other colours."""

from __future__ import annotations

import math

try:
    import torch
    from kornia.augmentation import AugmentationSequential, ColorJitter, RandomCrop, RandomHorizontalFlip
    from torch import Tensor
    from torch.nn import functional
except ImportError as error:
    raise ImportError(f"augmentation needs PyTorch and kornia: pip install 'crfrnn[train]' ({error})") from error

from crfrnn.data.batches import PADDING, Example
from crfrnn.data.cells import means_of_coarse
from crfrnn.data.segmentation import Sample
from crfrnn.files.classes import VOID
from crfrnn.numbers import proper_fraction, whole_number


class Augmentation:
    """A random part of a photo at a random scale, always of the same size; what lies outside the photo is padding.

    Args:
        crop: Height and width of the result in pixels; None leaves the photo whole.
        scale: The smallest and the largest factor of the photo's size; drawn evenly on a logarithmic scale.
        flip: Mirror left and right in half of the cases.
        colour: Brightness, contrast and saturation change by factors of 1 - colour to 1 + colour; 0 up to 1.
    Raises: TypeError or ValueError: if a size or a factor is not a positive number.
    """

    def __init__(
        self,
        crop: tuple[int, int] | None,
        scale: tuple[float, float] = (1.0, 1.0),
        flip: bool = True,
        colour: float = 0.0,
    ) -> None:
        if crop is not None and (any(whole_number(side, "crop") < 1 for side in crop) or len(crop) != 2):
            raise ValueError(f"crop={crop} must be a height and a width of at least 1 pixel")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] < math.inf:
            raise ValueError(f"scale={scale} must be two factors above 0, the lesser first")
        self.crop, self.scale, self.colour = crop, scale, proper_fraction(colour, "colour")
        self._change_colours = ColorJitter(self.colour, self.colour, self.colour, p=1.0)
        self._cut = AugmentationSequential(
            *([] if crop is None else [RandomCrop(crop, pad_if_needed=True, cropping_mode="slice", p=1.0)]),
            RandomHorizontalFlip(p=0.5 if flip else 0.0),
            data_keys=["input", "mask"],
        )

    def __call__(self, sample: Sample, seed: int) -> Example:
        """A random variant of a sample. The same seed always gives the same variant.

        Returns: Image (3, height, width), labels and mask (height, width) of the size `crop` if there is one, and the
            teacher's probabilities of the same part, on cells.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._variant(sample)

    def _variant(self, sample: Sample) -> Example:
        low, high = map(math.log, self.scale)
        factor = math.exp(low + (high - low) * torch.rand(()).item())
        size = [max(1, round(factor * side)) for side in sample.labels.shape]
        photo = torch.from_numpy(sample.image.transpose(2, 0, 1).copy())[None]
        labels = torch.from_numpy(sample.labels)[None, None]
        image = functional.interpolate(photo, size, mode="bilinear", antialias=True).float() / 255
        if self.colour:
            image = self._change_colours(image)
        # kornia pads everything with 0, so 1 is added to the labels to tell padding from class 0.
        labels = functional.interpolate(labels, size, mode="nearest-exact").float() + 1
        marks = [labels, *(each.expand_as(labels) for each in self._places(sample, size))]
        image, marks = self._cut(image, torch.cat(marks, dim=1))
        mask = marks[0, 0] > 0
        labels = torch.where(mask, marks[0, 0] - 1, VOID)
        image = torch.where(mask, 255 * image[0], PADDING)
        return Example(image, labels.to(torch.uint8), mask, _taught(sample, size, marks[0, 1:]))

    def _places(self, sample: Sample, size: list[int]) -> list[Tensor]:
        """Rows and columns of the photo, counted from 1, which say after the cut where it was; for a teacher alone."""
        if sample.teacher is None:
            return []
        rows, columns = (torch.arange(1.0, side + 1) for side in size)
        return [rows[:, None], columns]


def _taught(sample: Sample, size: list[int], places: Tensor) -> Tensor | None:
    """What the teacher says of the part of a photo whose rows and columns are `places` (2, H, W), 0 in padding."""
    if sample.teacher is None:
        return None
    rows, columns = places[0].amax(dim=1) - 1, places[1].amax(dim=0) - 1
    return means_of_coarse(torch.from_numpy(sample.teacher), (size[0], size[1]), rows, columns)
