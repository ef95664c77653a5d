"""`python -m experiments.weak_supervision`: from clicks to segmentation, with the losses of `crfrnn.torch.losses`.

For each seed a network learns from the clicks. From there it learns on at a smaller rate: from the clicks alone, from
clicks and the dense CRF loss, from clicks and the gated one. Another network learns from the labels of all pixels, just
as long. Each of the four then trains on with a CRF-RNN behind it. All are measured on the validation photos, which
nothing else looks at; 60 of the training photos choose the best epoch. The results go into the table of
docs/weak-supervision.md. Finished runs are not repeated: run it again to continue, or with `--report` to fill the table
with what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from crfrnn.data import SegmentationData
from crfrnn.evaluation import evaluate
from crfrnn.files.classes import class_set
from crfrnn.files.progress import progress
from crfrnn.files.replacement import replacing
from crfrnn.models import load_model
from crfrnn.training import TrainingConfig
from crfrnn.training.train import train

CLASSES = class_set("voc")
MAIN_CLASSES = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
CHOOSING = 60
REDUCTION = 2
CROP, SCALE = (168, 216), (0.75, 1.25)
MEASURES = {"mean_iou": "mean IoU", "main_mean_iou": "mean IoU of the main classes"}
PAGE = Path(__file__).parent.parent / "docs" / "weak-supervision.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


@dataclass(frozen=True)
class Variant:
    """What a network learns from.

    Attributes:
        title: Its row of the table; None is in no row.
        after: The variant whose network this one trains on.
    """

    title: str | None
    settings: dict[str, Any]
    after: str | None = None


CLICKS = {"supervision": "clicks", "click_radius": 1}
DENSE = {"crf_loss": "dense", "crf_loss_weight": 0.3, "crf_loss_theta_alpha": 50.0}
GATED = {"crf_loss": "gated", "crf_loss_weight": 0.3}
START = {"network_epochs": 3, "crf_epochs": 0}
LONGER = {"network_epochs": 2, "crf_epochs": 0, "network_rate": 1e-4, "decoder_rate": 5e-4}
CRF_RNN = {"network_epochs": 0, "crf_epochs": 1, "theta_alpha": 40.0}  # the default, 80, at half the size
VARIANTS = {
    "clicks-start": Variant(None, CLICKS | START),
    "clicks": Variant("clicks", CLICKS | LONGER, "clicks-start"),
    "dense": Variant("clicks + dense CRF loss", CLICKS | LONGER | DENSE, "clicks-start"),
    "gated": Variant("clicks + gated CRF loss", CLICKS | LONGER | GATED, "clicks-start"),
    "clicks-crf": Variant("clicks, then + CRF-RNN", CLICKS | CRF_RNN, "clicks"),
    "dense-crf": Variant("clicks + dense CRF loss, then + CRF-RNN", CLICKS | CRF_RNN | DENSE, "dense"),
    "gated-crf": Variant("clicks + gated CRF loss, then + CRF-RNN", CLICKS | CRF_RNN | GATED, "gated"),
    "full-start": Variant(None, START),
    "full": Variant("labels of all pixels", LONGER, "full-start"),
    "full-crf": Variant("labels of all pixels, then + CRF-RNN", CRF_RNN, "full"),
}
CHAINS = tuple([name for name in VARIANTS if name.startswith("full") == full] for full in (False, True))
"""The variants of clicks, and those of labels: each after the one that it trains on."""


@dataclass(frozen=True)
class Experiment:
    """Where data lie and results go."""

    data: Path
    output: Path

    def result(self, seed: int, name: str) -> Path:
        return self.output / f"seed{seed}" / f"{name}.json"

    def folder(self, seed: int, name: str) -> Path:
        return self.output / f"seed{seed}" / name


def reduce(data: Path, folder: Path) -> Path:
    """The data set with photos, labels and clicks at `1 / REDUCTION` of their size.

    The last `CHOOSING` training photos are in a split of their own.
    """
    if (folder / "val.txt").exists():
        return folder
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    splits = {split: (data / f"{split}.txt").read_text().split() for split in ("train", "val")}
    clicks = json.loads((data / "clicks.json").read_text())
    reduced = {}
    for name in progress([*splits["train"], *splits["val"]], "reduce"):
        photo, labels = Image.open(data / "images" / f"{name}.jpg"), Image.open(data / "labels" / f"{name}.png")
        width, height = photo.width // REDUCTION, photo.height // REDUCTION
        part = (0, 0, REDUCTION * width, REDUCTION * height)
        photo.convert("RGB").reduce(REDUCTION, part).save(folder / "images" / f"{name}.png")
        middle = slice(REDUCTION // 2, None, REDUCTION)
        ids = np.asarray(labels)[middle, middle][:height, :width]
        Image.fromarray(ids).save(folder / "labels" / f"{name}.png")
        reduced[name] = [
            [min(x // REDUCTION, width - 1), min(y // REDUCTION, height - 1), label]
            for x, y, label in clicks.get(name, [])
        ]
    (folder / "clicks.json").write_text(json.dumps(reduced))
    splits["train"], splits["choosing"] = splits["train"][:-CHOOSING], splits["train"][-CHOOSING:]
    for split in ("train", "choosing", "val"):
        (folder / f"{split}.txt").write_text("\n".join(splits[split]) + "\n")
    return folder


def run(experiment: Experiment, seed: int, name: str) -> None:
    """Train a variant and measure it on the validation photos, unless that is done."""
    path = experiment.result(seed, name)
    if path.exists():
        return
    torch.set_num_threads(1)
    variant = VARIANTS[name]
    start = {} if variant.after is None else {"init": str(experiment.folder(seed, variant.after) / "model.safetensors")}
    result = train(
        TrainingConfig(
            data=str(experiment.data),
            output=str(experiment.folder(seed, name)),
            classes="voc",
            val_split="choosing",
            seed=seed,
            crop=CROP,
            scale=SCALE,
            threads=1,
            **variant.settings,
            **start,
        )
    )
    found = evaluate(load_model(result.model).segmenter, SegmentationData(experiment.data, "val", CLASSES), CLASSES)
    scores = found.network if found.crf is None else found.crf
    content = {
        "mean_iou": scores.mean_iou,
        "main_mean_iou": statistics.mean(scores.iou[CLASSES.names.index(each)] for each in MAIN_CLASSES),
    }
    with replacing(path) as handle:
        handle.write((json.dumps(content, indent=1) + "\n").encode())


def run_chain(experiment: Experiment, seed: int, names: list[str]) -> str:
    """Variants that start with one another, in their order."""
    for name in names:
        run(experiment, seed, name)
    return f"seed {seed}: {', '.join(names)}"


def table(experiment: Experiment, seeds: list[int]) -> str:
    """The results that are there: means over seeds, as shares of what labels give and of the way there from clicks."""
    results = {
        name: [json.loads(path.read_text()) for seed in seeds if (path := experiment.result(seed, name)).exists()]
        for name in VARIANTS
    }

    def mean(name: str, measure: str) -> float:
        return 100 * statistics.mean(result[measure] for result in results[name])

    columns = " | ".join(f"{title} | of that of all labels | of the way there" for title in MEASURES.values())
    lines = [f"| learned from | seeds | {columns} |", f"| --- |{' --- |' * (1 + 3 * len(MEASURES))}"]
    for name, variant in VARIANTS.items():
        if variant.title is None or not results[name]:
            continue
        cells = [variant.title, str(len(results[name]))]
        for measure in MEASURES:
            values = [100 * result[measure] for result in results[name]]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
            if not (results["clicks"] and results["full"]):
                cells += ["", ""]
                continue
            low, high = mean("clicks", measure), mean("full", measure)
            cells += [
                f"{100 * share:.0f} %"
                for share in (mean(name, measure) / high, (mean(name, measure) - low) / (high - low))
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_table(page: Path, lines: str) -> None:
    """Put a table between the page's two comments."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    with replacing(page) as handle:
        handle.write(f"{before}{BEGIN}{lines}{END}{after}".encode())


def main() -> None:
    default_data = Path(os.environ.get("CRFRNN_DATA", "../shared/data")) / "voc_animals"
    parser = argparse.ArgumentParser(prog="python -m experiments.weak_supervision", description=__doc__)
    parser.add_argument("--data", type=Path, default=default_data, help="photos, clicks (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/weak_supervision"), help="for runs (%(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE, help="whose table is filled (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes of one thread each")
    parser.add_argument("--report", action="store_true", help="train nothing, fill the table with what is there")
    arguments = parser.parse_args()
    reduced = arguments.output / "data"
    experiment = Experiment(reduced, arguments.output)
    if not arguments.report:
        reduce(arguments.data, reduced)
        os.environ["OMP_NUM_THREADS"] = "1"
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
            tasks = [pool.submit(run_chain, experiment, seed, names) for seed in arguments.seeds for names in CHAINS]
            for done in as_completed(tasks):
                print(done.result(), flush=True)
    lines = table(experiment, arguments.seeds)
    print(lines)
    write_table(arguments.page, lines)


if __name__ == "__main__":
    main()
