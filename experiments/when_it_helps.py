"""`python -m experiments.when_it_helps`: what a CRF adds to scores of networks from weak to strong.

For MSRC-21 and PASCAL VOC's people and animals, networks are trained for more and more epochs. The model in the package
and the DeepLabv3 whose scores lie beside VOC's photos are measured too. For each, parameters are tuned on one half of
the photos and measured on the other. Scores of some of the networks are made coarser too, by means over
squares of pixels. What is found goes to experiments/results/when_it_helps, and after each part
docs/when-it-helps.md and its plot are written anew. Finished parts are not repeated: run it again to continue.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import numpy as np
import torch
from torch.nn.functional import interpolate

from crfrnn.cli.usage import counted
from crfrnn.data import SegmentationData
from crfrnn.data.layouts import lines_of
from crfrnn.data.scored import ScoredPhotos
from crfrnn.files.classes import class_set
from crfrnn.files.replacement import replacing
from crfrnn.models import load_model
from crfrnn.segment import image_batch
from crfrnn.training import TrainingConfig
from crfrnn.training.train import train
from crfrnn.tuning import tune

TRIALS = 16
VOC, MSRC = class_set("voc"), class_set("msrc21")
EPOCHS = {"msrc21": (1, 2, 4, 8), "voc_animals": (1, 3)}
SEEDS = {"msrc21": (0,), "voc_animals": (0,)}
COARSER = {("msrc21", 2): (16, 32), ("msrc21", 8): (16, 32)}
"""Pixels along each axis that share scores, for networks of so many epochs."""
FINE, PACKAGE, DEEPLAB = 8, 16, 15.5
"""Pixels that share scores of the networks trained here, of the model in the package and of DeepLab's 33×33."""
TESTED = {"msrc21": "test", "voc_animals": "val"}
CLASSES = {"msrc21": MSRC, "voc_animals": VOC}
NETWORKS: dict[str, dict[str, Any]] = {
    "msrc21": {"classes": "msrc21", "crop": (213, 320)},
    "voc_animals": {"classes": "voc", "val_split": "choosing", "freeze_encoder": True, "decoder_rate": 1e-3},
}
CHOOSING = 60
SETS = {"msrc21": "MSRC-21", "voc_animals": "VOC, people and animals"}
COLOURS = {"msrc21": "tab:blue", "voc_animals": "tab:orange"}
FOUND = Path(__file__).parent / "results" / "when_it_helps"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
MEASURES = {"mean_iou": "mean IoU", "edge_mean_iou": "mean IoU within 5 px of edges"}


@dataclass(frozen=True)
class Scores:
    """Scores of a data set's photos: what they are of, their pixels along an axis, and the scores as they are read."""

    data: str
    title: str
    stride: float
    photos: Callable[[Path], ScoredPhotos]


def trained(root: Path, output: Path, data: str, epochs: int, seed: int) -> Path:
    """The model file of a network that learned from labels for some epochs; for VOC its encoder stays as it was."""
    settings = NETWORKS[data]
    folder = root / data if data == "msrc21" else linked(root / data, output / data)
    config = TrainingConfig(
        data=str(folder),
        output=str(output / f"{data}-{epochs}-seed{seed}"),
        seed=seed,
        network_epochs=epochs,
        crf_epochs=0,
        threads=1,
        **settings,
    )
    return train(config).model


def linked(data: Path, folder: Path) -> Path:
    """VOC's photos in a folder of links whose split "choosing" is the end of its training photos."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("images", "labels"):
        if not (folder / part).is_symlink():
            (folder / part).symlink_to((data / part).resolve())
    names = lines_of(data / "train.txt")
    (folder / "train.txt").write_text("\n".join(names[:-CHOOSING]) + "\n")
    (folder / "choosing.txt").write_text("\n".join(names[-CHOOSING:]) + "\n")
    return folder


def of_network(model: Path | None, data: SegmentationData, folder: Path, stride: int = 1) -> ScoredPhotos:
    """The logits of a model's network for the photos, written to a folder; None is the model in the package.

    Args:
        stride: Pixels along each axis whose logits become their mean.
    """
    segmenter = load_model(model).segmenter
    with torch.inference_mode():
        for index, pair in enumerate(data.pairs):
            logits = segmenter.unary(image_batch([data[index].image], segmenter))
            if stride > 1:
                logits = interpolate(logits, [-(-size // stride) for size in logits.shape[2:]], mode="area")
            np.save(folder / f"{pair.name}.npy", logits[0].numpy().astype(np.float16))
    return ScoredPhotos(data, folder)


def all_scores(root: Path, output: Path) -> Iterator[Scores]:
    """Those that are there first."""

    def tested(data: str) -> SegmentationData:
        return SegmentationData(root / data, TESTED[data], CLASSES[data])

    def of_trained(data: str, epochs: int, seed: int, stride: int | None = None) -> Scores:
        def photos(folder: Path) -> ScoredPhotos:
            return of_network(trained(root, output, data, epochs, seed), tested(data), folder, stride or 1)

        coarser = f", means of {stride}×{stride}" if stride else ""
        return Scores(data, f"FcnLite, {counted(epochs, 'epoch')}, seed {seed}{coarser}", stride or FINE, photos)

    voc = "voc_animals"
    yield Scores(
        voc, "the model in the package, its network", PACKAGE, lambda folder: of_network(None, tested(voc), folder)
    )
    yield Scores(
        voc,
        "DeepLabv3 on MobileNetV2, 33×33",
        DEEPLAB,
        lambda _: ScoredPhotos(tested(voc), root / voc / "logits33", square=True),
    )
    for data, epochs in EPOCHS.items():
        for count in epochs:
            for seed in SEEDS[data]:
                yield of_trained(data, count, seed)
                for stride in COARSER.get((data, count), ()):
                    yield of_trained(data, count, seed, stride)


def measured(scores: Scores, folder: Path) -> dict[str, Any]:
    """Title, data set, stride and what `tune` found, as it was found before or anew."""
    path = FOUND / (re.sub(r"[^a-z0-9]+", "-", f"{scores.data} {scores.title}".lower()) + ".json")
    if not path.exists():
        with TemporaryDirectory(dir=folder) as written:
            found = tune(scores.photos(Path(written)), trials=TRIALS)
        FOUND.mkdir(parents=True, exist_ok=True)
        result = {"data": scores.data, "title": scores.title, **found.notes(), "parameters": asdict(found.parameters)}
        with replacing(path) as handle:
            handle.write((json.dumps(result, indent=1) + "\n").encode())
    return {**json.loads(path.read_text()), "stride": scores.stride}


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """The gain, with its interval, against the measure without a CRF: over all pixels, and near edges.

    The coarser the scores, the larger their mark.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        for data, name in SETS.items():
            rows = [result[measure] for result in results if result["data"] == data]
            before = 100 * np.array([row["scores"] for row in rows])
            gain = 100 * np.array([row["tuned"] for row in rows]) - before
            low, high = 100 * np.array([row["interval"] for row in rows]).reshape(-1, 2).T
            reach = np.maximum([gain - low, high - gain], 0)
            sizes = [3 * result["stride"] for result in results if result["data"] == data]
            axes.errorbar(before, gain, reach, fmt="none", ecolor=COLOURS[data], capsize=2, linewidth=1)
            axes.scatter(before, gain, sizes, color=COLOURS[data], label=name, alpha=0.8)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_xlabel(f"{title}, scores alone, per cent")
    panels[0].set_ylabel("gain by the CRF, points")
    panels[0].legend()
    with replacing(path) as handle:
        figure.savefig(handle, format="png", dpi=110)
    pyplot.close(figure)


def rows_of(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| data | scores of | pixels | mean IoU | gain (95 % interval) | near edges | gain (95 % interval) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in sorted(results, key=lambda each: (each["data"], each["mean_iou"]["scores"])):
        cells = []
        for measure in MEASURES:
            row = result[measure]
            low, high = row["interval"]
            cells += [
                f"{100 * row['scores']:.1f}",
                f"{100 * (row['tuned'] - row['scores']):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
            ]
        lines.append(f"| {SETS[result['data']]} | {result['title']} | {result['stride']:g} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    default_data = Path(os.environ.get("CRFRNN_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(prog="python -m experiments.when_it_helps", description=__doc__)
    parser.add_argument("--data", type=Path, default=default_data, help="with msrc21 and voc_animals (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/when_it_helps"), help="for runs (%(default)s)")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="for the page and its plot (%(default)s)")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for scores in all_scores(arguments.data, arguments.output):
        results.append(measured(scores, arguments.output))
        write_page(results, arguments.docs)


def write_page(results: list[dict[str, Any]], docs: Path) -> None:
    draw(results, docs / "when-it-helps.png")
    page = docs / "when-it-helps.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    text = before + BEGIN + "\n".join(rows_of(results)) + "\n" + END + after
    with replacing(page) as handle:
        handle.write(text.encode())


if __name__ == "__main__":
    main()
