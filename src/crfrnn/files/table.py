"""Tables of a few rows, as values: the command line draws them, and their text is the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells as text. The first column says what a row is about; the others are numbers, below their names.

    Attributes:
        header: The names of the columns.
        rows: As many cells in each as there are columns.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """Lines of equal length without one at the end: the first column flush left, the others flush right."""
        lines = [self.header, *self.rows]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, self.widths, strict=True))
            )
            for line in lines
        )

    @property
    def widths(self) -> list[int]:
        """What each column takes."""
        return [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]

    @property
    def least_widths(self) -> list[int]:
        """What each column takes at least, if its name may take several lines and its cells may not."""
        columns = zip(self.header, *self.rows, strict=True)
        return [max(len(part) for part in (*name.split(), *cells)) for name, *cells in columns]

    def mapped(self, change: Callable[[str], str]) -> Table:
        """The same table with every cell changed."""
        return Table([change(cell) for cell in self.header], [[change(cell) for cell in row] for row in self.rows])
