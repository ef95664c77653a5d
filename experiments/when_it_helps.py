"""`python -m experiments.when_it_helps`: what a CRF adds to the scores of networks from poor to good.

Networks of one kind trained for more and more epochs, the model in the package and a DeepLabv3 on MobileNetV2, on
PASCAL VOC's people and animals and on MSRC-21. For each, `crfrnn tune` chooses a CRF on one half of the photos and
measures it on the other. Fills the table of docs/when-it-helps.md and draws its picture. Finished parts are not
repeated: run it again to continue.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from crfrnn.data import SegmentationData
from crfrnn.data.scored import ScoredPhotos
from crfrnn.files.classes import ClassSet, class_set
from crfrnn.files.progress import progress
from crfrnn.files.replacement import replacing
from crfrnn.models import Segmenter, load_model
from crfrnn.segment import image_batch
from crfrnn.training import TrainingConfig
from crfrnn.training.train import train
from crfrnn.tuning import tune

PAGE = Path(__file__).parent.parent / "docs" / "when-it-helps.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


@dataclass(frozen=True)
class DataSet:
    """Where photos lie, on which split scores are measured, and how networks are trained on the other."""

    title: str
    folder: str
    class_names: str
    split: str
    choosing: str
    crop: tuple[int, int]
    epochs: tuple[int, ...]

    @property
    def classes(self) -> ClassSet:
        return class_set(self.class_names)

    def photos(self, folder: Path) -> SegmentationData:
        """Those that scores are measured on."""
        return SegmentationData(folder / self.folder, self.split, self.classes)


VOC = DataSet("PASCAL VOC", "voc_animals", "voc", "val", "train", (256, 320), (1, 3))
MSRC = DataSet("MSRC-21", "msrc21", "msrc21", "test", "val", (213, 320), (1, 2, 4, 8))


@dataclass(frozen=True)
class Source:
    """Scores for the photos of a data set: of a network trained for some epochs, or of one that is there."""

    name: str
    title: str
    data: DataSet
    epochs: int = 0
    seed: int = 0


PACKAGE = Source("package", "the network in the package", VOC)
DEEPLAB = Source("deeplab", "DeepLabv3, 33×33 scores stretched", VOC)


def main() -> None:
    data = Path(os.environ.get("CRFRNN_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(prog="python -m experiments.when_it_helps", description=__doc__)
    parser.add_argument("--data", type=Path, default=data, help="with voc_animals/ and msrc21/ (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/when-it-helps"), help="(default: %(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE, help="whose table is filled (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the networks that are trained")
    parser.add_argument("--trials", type=int, default=30, help="of crfrnn tune (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    found = [(source, measured(source, options)) for source in sources(options.seeds)]
    write_page(options.page, found)


def sources(seeds: Sequence[int]) -> list[Source]:
    """From MSRC-21 to VOC, where training takes longer and has one seed."""
    trained = [
        Source(f"{data.folder}-{epochs}-epochs-seed{seed}", f"FCN, {epochs} epochs, seed {seed}", data, epochs, seed)
        for data in (MSRC, VOC)
        for seed in (seeds if data is MSRC else seeds[:1])
        for epochs in data.epochs
    ]
    return [*trained, PACKAGE, DEEPLAB]


def scored(source: Source, options: argparse.Namespace, scores: Path) -> ScoredPhotos:
    """The photos with their scores, for which there is an empty folder."""
    photos = source.data.photos(options.data)
    if source is DEEPLAB:
        return ScoredPhotos(photos, options.data / source.data.folder / "logits33", square=True)
    return predicted(load_model().segmenter if source is PACKAGE else trained(source, options), photos, scores)


def trained(source: Source, options: argparse.Namespace) -> Segmenter:
    """`FcnLite` from ImageNet, without a CRF."""
    result = train(
        TrainingConfig(
            data=str(options.data / source.data.folder),
            output=str(options.output / source.name),
            classes=source.data.class_names,
            val_split=source.data.choosing,
            seed=source.seed,
            crop=source.data.crop,
            network_epochs=source.epochs,
            crf_epochs=0,
            threads=options.threads,
        )
    )
    return load_model(result.model).segmenter


def predicted(segmenter: Segmenter, data: SegmentationData, scores: Path) -> ScoredPhotos:
    """The scores of the network alone, in files of 16 bits."""
    for pair, sample in zip(data.pairs, progress(data, "scores"), strict=True):
        with torch.inference_mode():
            logits = segmenter.unary(image_batch(sample.image, segmenter))[0]
        np.save(scores / f"{pair.name}.npy", logits.half().numpy())
    return ScoredPhotos(data, scores)


def measured(source: Source, options: argparse.Namespace) -> dict[str, Any]:
    """What `tune` notes of these scores."""
    path = options.output / f"{source.name}.json"
    if not path.exists():
        with TemporaryDirectory() as scores:
            photos = scored(source, options, Path(scores))
            found = tune(photos, trials=options.trials, threads=options.threads)
        print(f"{source.data.title}, {source.title}: {found.verdict()}", flush=True)
        with replacing(path) as handle:
            handle.write((json.dumps(found.notes(), indent=1) + "\n").encode())
    notes: dict[str, Any] = json.loads(path.read_text())
    return notes


def write_page(page: Path, found: list[tuple[Source, dict[str, Any]]]) -> None:
    lines = [
        "| scores | mean IoU | + CRF | gain | near edges | + CRF | gain |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for source, notes in found:
        cells = [f"{source.data.title}: {source.title}"]
        for kind in ("mean_iou", "edge_mean_iou"):
            scores, tuned, (low, high) = (notes[kind][name] for name in ("scores", "tuned", "interval"))
            gain = f"{100 * (tuned - scores):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
            cells += [f"{100 * scores:.2f}", f"{100 * tuned:.2f}", gain]
        lines.append(f"| {' | '.join(cells)} |")
    counts = {source.data.title: notes["held_out"] for source, notes in found}
    told = ", ".join(f"{count} photos of {title}" for title, count in counts.items())
    lines += ["", f"Per cent, on the {told} that nothing was chosen on; in brackets the 95 % interval of the gain."]
    draw(page.with_name("when-it-helps.png"), found)
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    with replacing(page) as handle:
        handle.write((before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1]).encode())


def draw(path: Path, found: list[tuple[Source, dict[str, Any]]]) -> None:
    """The gain against the quality of the scores, over all pixels and near edges."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    kinds = {"mean_iou": "all pixels", "edge_mean_iou": "within 5 px of label edges"}
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        for data, marker in ((MSRC, "o"), (VOC, "s")):
            notes = [notes[kind] for source, notes in found if source.data is data]
            scores = np.array([100 * each["scores"] for each in notes])
            gains = np.array([100 * (each["tuned"] - each["scores"]) for each in notes])
            bounds = 100 * np.array([each["interval"] for each in notes]).T
            # The bootstrap's interval need not hold the gain itself.
            below, above = (gains - bounds[0]).clip(min=0), (bounds[1] - gains).clip(min=0)
            axis.errorbar(scores, gains, [below, above], fmt=marker, capsize=2, label=data.title)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(title=title, xlabel="mean IoU of the scores alone, %", ylabel="points that the CRF adds")
    axes[0].legend()
    with replacing(path) as handle:
        figure.savefig(handle, format="png", dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
