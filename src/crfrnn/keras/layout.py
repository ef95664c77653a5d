"""Which shapes a layer takes, checked when it is traced and, for sizes that are not known then, when it runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from crfrnn.upsampling import hint_for

Sizes: TypeAlias = Sequence[Any]
"""A shape. An entry that is not an int, such as None or a symbol, is a size that is not known yet."""


class Layout(NamedTuple):
    """The axes of logits and image.

    Attributes:
        num_classes: Channels of the logits.
        image_dims: The spatial shape; None takes any.
        channel_axis: -1 for channels last, 1 for channels first.
        scores: What the logits are called.
    """

    num_classes: int
    image_dims: tuple[int, ...] | None
    channel_axis: int
    scores: str = "logits"

    def check(self, logits: Sizes, image: Sizes, mask: Sizes | None, name: str = "image") -> None:
        """Raise a ValueError unless the three shapes go together; the image is called by this name."""
        expected = self._shape("batch", "*spatial", str(self.num_classes))
        if not 3 <= len(logits) <= 5:
            raise ValueError(f"{self.scores} have shape {tuple(logits)}; expected {expected} with 1 to 3 spatial axes")
        channels = logits[self.channel_axis]
        if isinstance(channels, int) and channels != self.num_classes:
            swapped = len(image) == len(logits) and image[self.channel_axis] == self.num_classes
            raise ValueError(
                f"{self.scores} have shape {tuple(logits)}, with {channels} classes on axis {self.channel_axis}; this "
                f"CrfRnnLayer was made for {self.num_classes} classes: expected {expected}"
                f"{'; the logits come first, then the image' if swapped else ''}"
            )
        if any(isinstance(size, int) and size == 0 for size in logits):
            raise ValueError(f"{self.scores} have shape {tuple(logits)}, which holds nothing; expected {expected}")
        batch, spatial = logits[0], self.spatial(logits)
        if self.image_dims is not None and not _same(spatial, self.image_dims):
            raise ValueError(
                f"{self.scores} have the size {spatial}, but this CrfRnnLayer was made for "
                f"image_dims={self.image_dims}; image_dims=None takes any size"
            )
        if len(image) != len(logits) or not _same((image[0], *self.spatial(image)), (batch, *spatial)):
            wanted = self._shape(*map(str, (batch, *spatial)), "channels")
            raise ValueError(
                f"{name} has shape {tuple(image)}; expected {wanted} to go with {self.scores} of shape {tuple(logits)}"
                f"{hint_for(spatial, self.spatial(image), self.scores) if name == 'image' else ''}"
            )
        if isinstance(image[self.channel_axis], int) and image[self.channel_axis] == 0:
            raise ValueError(f"{name} has shape {tuple(image)}; expected at least one channel")
        if mask is not None:
            self.check_plane(logits, mask)

    def check_plane(self, logits: Sizes, plane: Sizes, name: str = "mask") -> None:
        """Raise a ValueError unless what is called by this name has the shape of the logits without their channels."""
        expected = (logits[0], *self.spatial(logits))
        if not _same(plane, expected):
            raise ValueError(
                f"{name} has shape {tuple(plane)}; expected {expected}, without a channel axis, to go with "
                f"{self.scores} of shape {tuple(logits)}"
            )

    def upsampled(self, logits: Sizes, image: Sizes) -> tuple[Any, ...]:
        """The shape of logits brought to the size of the image; a ValueError unless both go together."""
        self._replace(image_dims=None).check(logits, logits, None)
        if len(image) != len(logits) or not _same(image[:1], logits[:1]):
            wanted = self._shape(str(logits[0]), "*spatial", "channels")
            raise ValueError(
                f"image has shape {tuple(image)}; expected {wanted} with {len(logits) - 2} spatial axes to go with "
                f"logits of shape {tuple(logits)}"
            )
        shape = list(image)
        shape[0], shape[self.channel_axis] = logits[0], logits[self.channel_axis]
        return tuple(shape)

    def spatial(self, sizes: Sizes) -> tuple[Any, ...]:
        """The sizes of the spatial axes."""
        return tuple(sizes[2:]) if self.channel_axis == 1 else tuple(sizes[1:-1])

    def _shape(self, batch: str, *rest: str) -> str:
        *spatial, channels = rest
        return f"({', '.join([batch, channels, *spatial] if self.channel_axis == 1 else [batch, *spatial, channels])})"


def _same(sizes: Sizes, others: Sizes) -> bool:
    pairs = zip(sizes, others, strict=False)
    known = [(size, other) for size, other in pairs if isinstance(size, int) and isinstance(other, int)]
    return len(sizes) == len(others) and all(size == other for size, other in known)
