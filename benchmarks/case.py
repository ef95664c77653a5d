"""What a case of the benchmark is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .measure import Workbench, model_settings
from .photos import MEDIAN, SMOOTH, TEXTURED

THETAS = ((160.0, 3.0, 3.0), (80.0, 13.0, 3.0))


@dataclass(frozen=True)
class Case:
    """The others are compared with `sides[0]`, which must first agree with the side in `agrees_with`."""

    name: str
    title: str
    measure: Callable[[Case, Workbench], list[dict]]
    sides: tuple[str, ...] = ("crfrnn", "pydensecrf")
    agrees_with: str = "pydensecrf"
    iterations: int = 10
    cores: int = 1
    classes: int = 21
    photos: tuple[str, ...] = (SMOOTH, MEDIAN, TEXTURED)
    thetas: tuple[tuple[float, float, float], ...] = THETAS
    size: tuple[int, int] | None = None
    options: dict = field(default_factory=dict)
    repeats: int = 7
    note: str = ""

    def rows(self, bench: Workbench) -> list[tuple[str, tuple[float, float, float], dict]]:
        """Photo, deviations and settings of each row; a quick run has one row."""
        pairs = [(photo, theta) for photo in self.photos for theta in self.thetas]
        rows = [(photo, theta, model_settings(theta, self.iterations)) for photo, theta in pairs]
        return rows[:1] if bench.quick else rows

    def rounds(self, bench: Workbench) -> int:
        return 3 if bench.quick else self.repeats
