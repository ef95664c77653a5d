"""docs/ablation.md: tables of the means over the seeds, and a picture of the compatibility that was learned."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from crfrnn.files.replacement import replacing
from crfrnn.models import load_model
from experiments.variants import CLASSES, CRF_EPOCHS, END_TO_END, TEST_ITERATIONS, VARIANTS, Experiment

MEASURES = {
    "mean_iou": "mean IoU",
    "edge_mean_iou": "mean IoU within 5 px of edges",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean class accuracy",
}
PAIRS = 6
LEARNED, STAGE_TWO = "## θ, learned\n", "## What holds stage 2 back\n"
"""Headings of the sections that other experiments write, in their order."""


def write_report(experiment: Experiment, seeds: list[int], names: list[str], docs: Path) -> None:
    """Write ablation.md on the variants of these names, and compatibility.png beside it."""

    def measured(name: str, side: str) -> list[dict[str, Any]]:
        return [json.loads((experiment.folder(seed, name) / "test.json").read_text())[side] for seed in seeds]

    alone, post = measured("network", "network"), measured("network", "crf")
    variants = {name: measured(name, "network" if name == "longer" else "crf") for name in names}
    parts = [
        ("network alone", alone),
        ("network alone, + CRF as post-processing", post),
        *((VARIANTS[name].title, variants[name]) for name in ("longer", "frozen", END_TO_END) if name in names),
    ]
    rest = [(VARIANTS[name].title, variants[name]) for name in names if name not in ("longer", "frozen")]
    chosen = [json.loads((experiment.folder(seed, "network") / "parameters.json").read_text()) for seed in seeds]
    matrices = []
    for seed in seeds:
        crf = load_model(experiment.folder(seed, END_TO_END) / "model.safetensors").segmenter.crf
        matrices.append(crf.compatibility_matrix.detach().numpy())  # type: ignore[union-attr]
    compatibility = np.mean(matrices, axis=0)
    draw_compatibility(docs / "compatibility.png", compatibility, CLASSES.names)

    ways = [
        "## Ways to train the CRF-RNN end to end",
        "",
        *table(rest),
        "",
        "End to end is full weight matrices, a learned compatibility and 5 iterations; each other row changes one of "
        "them.",
        "",
    ]
    lines = [
        "# Ablation",
        "",
        f"MSRC-21, {alone_photos(experiment, seeds[0])} test photos, per cent, mean ± standard deviation over "
        f"{len(seeds)} seeds. Written by `python -m experiments.ablation`: the network (`FcnLite`) trains for "
        f"{experiment.network_epochs} epochs on the 276 training photos, the epoch and the parameters of the CRF are "
        "chosen on the 59 of the validation split, and every CRF-RNN starts from that network, with θ 80/20/3 and "
        f"weights of 1, and trains for {CRF_EPOCHS} epochs, with 5 iterations if nothing else is said; all have "
        f"{TEST_ITERATIONS} at test.",
        "",
        "## What each part adds",
        "",
        *table(parts),
        "",
        "“Trained as long” continues the network without a CRF for as many epochs and at the same rate as end to end.",
        "",
        *(ways if len(rest) > 1 else []),
        "On PASCAL VOC's people and animals the [card of the model in the package]"
        "(../src/crfrnn/models/builtin/MODEL_CARD.md) has the network alone and end to end.",
        "",
        "## The learned compatibility",
        "",
        "![The learned compatibility matrix](compatibility.png)",
        "",
        "The mean of the seeds' matrices M, of which the diagonal starts at -1 and the rest at 0. Blue entries favour "
        "the class of the row where that of the column is likely around the pixel, red ones penalise it.",
        "",
        *pairs(compatibility, CLASSES.names),
        "",
        "## Parameters chosen on the validation split",
        "",
        *chosen_table(seeds, chosen),
    ]
    page, text = docs / "ablation.md", "\n".join(lines) + "\n"
    earlier = page.read_text(encoding="utf-8") if page.exists() else ""
    if LEARNED in earlier:
        text += "\n" + LEARNED + earlier.partition(LEARNED)[2]
    with replacing(page) as handle:
        handle.write(text.encode())


def with_section(text: str, heading: str, section: str) -> str:
    """A page with this section in the place of the one of its heading, or at its end."""
    before, _, rest = text.partition(f"\n{heading}")
    _, mark, after = rest.partition("\n## ")
    return before + "\n" + section + mark + after


def alone_photos(experiment: Experiment, seed: int) -> int:
    count: int = json.loads((experiment.folder(seed, "network") / "test.json").read_text())["num_photos"]
    return count


def table(rows: list[tuple[str, list[dict[str, Any]]]]) -> list[str]:
    """A row each: the measures as mean ± deviation over the seeds, and the gain over the first row.

    A row of fewer runs has those of the first seeds, and its gain is over these.
    """
    first = [run["mean_iou"] for run in rows[0][1]]
    lines = [
        f"| | {' | '.join(MEASURES.values())} | gain in mean IoU |",
        f"| --- |{' --- |' * (len(MEASURES) + 1)}",
    ]
    for title, runs in rows:
        cells = [mean_and_deviation([100 * run[measure] for run in runs]) for measure in MEASURES]
        gain = 100 * statistics.mean(run["mean_iou"] - alone for run, alone in zip(runs, first, strict=False))
        lines.append(f"| {title} | {' | '.join(cells)} | {gain:+.2f} |")
    return lines


def mean_and_deviation(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def pairs(compatibility: NDArray[np.floating[Any]], names: tuple[str, ...]) -> list[str]:
    """The pairs of different classes that favour and that penalise each other most."""
    symmetric = (compatibility + compatibility.T) / 2
    rows, columns = np.triu_indices(len(names), 1)
    order = np.argsort(symmetric[rows, columns])
    found = [[f"{names[rows[i]]} and {names[columns[i]]} ({symmetric[rows[i], columns[i]]:+.2f})" for i in part]
             for part in (order[:PAIRS], order[::-1][:PAIRS])]  # fmt: skip
    return [f"Favoured most: {', '.join(found[0])}. Penalised most: {', '.join(found[1])}."]


def draw_compatibility(path: Path, compatibility: NDArray[np.floating[Any]], names: tuple[str, ...]) -> None:
    """A heat map of the entries off the diagonal."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = compatibility.copy()
    np.fill_diagonal(shown, np.nan)
    limit = np.nanmax(np.abs(shown)) or 1.0
    figure, axes = pyplot.subplots(figsize=(8, 7), layout="constrained")
    image = axes.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("class around the pixel")
    axes.set_ylabel("class at the pixel")
    figure.colorbar(image, label="M, off the diagonal")
    with replacing(path) as handle:
        figure.savefig(handle, format="png", dpi=100)
    pyplot.close(figure)


def chosen_table(seeds: list[int], chosen: list[dict[str, Any]]) -> list[str]:
    names = list(chosen[0]["chosen"])
    lines = [
        f"| seed | {' | '.join(names)} | mean IoU on the validation split |",
        f"| --- |{' --- |' * (len(names) + 1)}",
    ]
    for seed, one in zip(seeds, chosen, strict=True):
        cells = [f"{one['chosen'][name]:g}" for name in names]
        lines.append(f"| {seed} | {' | '.join(cells)} | {100 * one['mean_iou_val']:.2f} |")
    return lines
