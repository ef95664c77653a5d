"""What a mean field did: how much of the work it left out because nothing changed any more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from crfrnn.files.picture import Picture

ORANGE = (255, 153, 26)
TINT = 0.65
SHOWN = 6
"""The most iterations that a picture shows."""
COLUMNS = 3
CELL_SIDE = 320
CAPTION_SIZE = 15


@dataclass(frozen=True, eq=False, repr=False)
class Activity:
    """What a mean field did, iteration by iteration (docs/algorithm.md, sections 6 and 8).

    A notebook shows that of a photo as a picture.

    Attributes:
        iterations: How many ran. They end early if no point sent anything new in one, which is looked for where points
            are left out, and elsewhere about once in 17 iterations.
        classes: In how many classes messages were sent, for each of these iterations.
        evaluated: At which points the marginals to be sent were worked out anew in each of them,
            (iterations, *spatial); the others kept what they had. The result is worked out at all points in any case,
            from the messages of the last one.
    """

    iterations: int
    classes: tuple[int, ...]
    evaluated: NDArray[np.bool_]

    def __repr__(self) -> str:
        points = "×".join(map(str, self.evaluated.shape[1:]))
        share = f"{self.evaluated.mean():.1%}" if self.evaluated.size else "none"
        return f"Activity(iterations={self.iterations}, points={points}, evaluated={share})"

    def picture(self, photo: Any = None) -> Picture:
        """The pixels that were worked out in each iteration, in orange; of more than six, six from first to last.

        Args:
            photo: Drawn in grey below the orange, white if not given: an array such as (H, W, 3), a picture of Pillow,
                or a path.
        Raises: ValueError: if the points are not those of a photo, or no iteration ran.
        """
        from crfrnn.files.rgb import load_photo, rgb_photo

        if not self._is_of_photo():
            raise ValueError(
                f"evaluated has shape {self.evaluated.shape}; a picture shows (iterations, height, width) of at least "
                "one iteration: take plot(), or evaluated itself"
            )
        grid = self.evaluated.shape[1:]
        if isinstance(photo, str | Path):
            photo = load_photo(Path(photo))
        levels = np.full((*grid, 3), 255, np.uint8) if photo is None else rgb_photo(photo)
        if levels.shape[:2] != grid:
            raise ValueError(f"photo has shape {levels.shape}; expected that of the activity, {grid}")
        return self._drawn(levels)

    def plot(self, axes: Any = None) -> Any:
        """A line of the share of points that were worked out in each iteration. Needs matplotlib.

        Args:
            axes: Axes of matplotlib to draw on; None makes some.
        Returns: The axes.
        """
        from crfrnn.inference.plots import axes_of

        drawn = axes_of(axes)
        steps = np.arange(1, self.iterations + 1)
        drawn.plot(steps, 100 * self.evaluated.reshape(self.iterations, -1).mean(axis=1), "o-")
        drawn.set(xlabel="iteration", ylabel="points worked out, %", ylim=(0, None))
        drawn.xaxis.get_major_locator().set_params(integer=True)
        return drawn

    def _is_of_photo(self) -> bool:
        return self.iterations > 0 and self.evaluated.ndim == 3

    def _drawn(self, levels: NDArray[np.uint8]) -> Picture:
        """The picture over levels (H, W, 3)."""
        from PIL import Image

        from crfrnn.files.picture import Picture
        from crfrnn.files.sheet import captioned, sheet

        grey = np.repeat(levels.mean(axis=2, keepdims=True), 3, axis=2)
        tint = (1 - TINT) * grey + TINT * np.array(ORANGE)
        scale = CELL_SIDE / max(grey.shape)
        size = (max(1, round(scale * grey.shape[1])), max(1, round(scale * grey.shape[0])))
        cells = []
        for index in np.unique(np.linspace(0, self.iterations - 1, SHOWN).round().astype(int)).tolist():
            active = self.evaluated[index]
            cell = Image.fromarray(np.rint(np.where(active[..., np.newaxis], tint, grey)).astype(np.uint8))
            caption = f"iteration {index + 1}: {active.mean():.1%} of pixels"
            cells.append(captioned(cell.resize(size, Image.Resampling.BOX), caption, CAPTION_SIZE))
        return Picture(sheet([cells[first : first + COLUMNS] for first in range(0, len(cells), COLUMNS)]))

    def _repr_png_(self) -> bytes | None:
        return self.picture()._repr_png_() if self._is_of_photo() else None


def complete_activity(iterations: int, classes: int, points: int) -> Activity:
    """That of a solver which works everything out in every iteration, with points (N,)."""
    return Activity(iterations, (classes,) * iterations, np.ones((iterations, points), np.bool_))
