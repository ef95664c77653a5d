"""The plots of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .names import NAMES, thetas

ORANGE = (1.0, 0.6, 0.1)
SHOWN = (1, 2, 3, 5, 10)
"""The iterations whose evaluated pixels are drawn."""


def pyplot_module() -> Any:
    """Matplotlib's, drawing to files; imported here because tables need none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot_scaling(rows: list[dict], path: Path) -> None:
    """Seconds against each axis that was varied."""
    pyplot = pyplot_module()
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure, panels = pyplot.subplots(1, len(axes), figsize=(4 * len(axes), 3.2), layout="constrained", squeeze=False)
    for panel, axis in zip(panels[0], axes, strict=True):
        chosen = [row for row in rows if row["axis"] == axis]
        for side in chosen[0]["seconds"]:
            panel.plot(
                [row["value"] for row in chosen], [row["seconds"][side] for row in chosen], "o-", label=NAMES[side]
            )
        panel.set(xlabel=axis if axis != "vertices" else "lattice vertices", xlim=(0, None), ylim=(0, None))
        panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
    panels[0][0].set_ylabel("seconds")
    panels[0][0].legend()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def plot_tolerance(rows: list[dict], path: Path) -> None:
    """Largest change, labels changed and time against the tolerance, a line for each photo and θ."""
    pyplot = pyplot_module()
    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    measures = {
        "largest |Δq|": lambda row: row["largest"],
        "labels changed, % of pixels": lambda row: 100 * row["changed"],
        "milliseconds": lambda row: 1000 * row["seconds"],
    }
    for panel, (name, value) in zip(panels, measures.items(), strict=True):
        for photo, theta in dict.fromkeys((row["photo"], thetas(row)) for row in rows):
            chosen = [row for row in rows if (row["photo"], thetas(row)) == (photo, theta)]
            panel.plot(
                [row["tolerance"] for row in chosen], list(map(value, chosen)), "o-", ms=4, label=f"{photo}, θ {theta}"
            )
        panel.set_xscale("symlog", linthresh=1e-5)
        panel.set(xlabel="tolerance", ylabel=name, ylim=(0, None))
    panels[0].set_yscale("symlog", linthresh=1e-5)
    tolerances = sorted({row["tolerance"] for row in rows})
    panels[0].plot(tolerances, tolerances, ":", color="grey", label="the tolerance itself")
    panels[0].legend(fontsize=7)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def draw_activity(image: np.ndarray, evaluated: np.ndarray, path: Path) -> None:
    """The photo, and in orange on it the pixels (iterations, H, W) that were evaluated."""
    pyplot = pyplot_module()
    shown = [iteration for iteration in SHOWN if iteration <= len(evaluated)]
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) / 255
    tinted = 0.35 * grey + 0.65 * np.array(ORANGE)
    height = 2.9 * image.shape[0] / image.shape[1]
    figure, cells = pyplot.subplots(2, 3, figsize=(9, 2 * height + 0.6), layout="constrained")
    for cell in cells.flat:
        cell.axis("off")
    cells.flat[0].imshow(image)
    cells.flat[0].set_title("photo", fontsize=9)
    for cell, iteration in zip(cells.flat[1:], shown, strict=False):
        active = evaluated[iteration - 1]
        cell.imshow(np.where(active[..., None], tinted, grey))
        cell.set_title(f"iteration {iteration}: {active.mean():.1%} of pixels", fontsize=9)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


PLOTS: dict[str, tuple[str, Callable[[list[dict], Path], None]]] = {
    "scaling": ("benchmarks.png", plot_scaling),
    "tolerance-time": ("tolerance-time.png", plot_scaling),
    "tolerance-error": ("tolerance-error.png", plot_tolerance),
}
