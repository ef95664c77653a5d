"""`python -m experiments.weak_supervision`: from clicks to segmentation, with the losses of `crfrnn.torch.losses`.

For each seed a network learns from the clicks alone, from clicks and the dense CRF loss, from clicks and the gated one,
and from the labels of all pixels. The networks of the clicks then train on with a CRF-RNN behind them. All are measured
on the validation photos, which nothing else looks at; 60 of the training photos choose the best epoch. The results go
into the table of docs/weak-supervision.md. Finished runs are not repeated: run it again to continue, or with
`--report` to fill the table with what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from crfrnn.data import SegmentationData
from crfrnn.evaluation import evaluate
from crfrnn.files.classes import class_set
from crfrnn.files.photos import replacing
from crfrnn.files.progress import progress
from crfrnn.models import load_model
from crfrnn.training import TrainingConfig
from crfrnn.training.train import train

CLASSES = class_set("voc")
MAIN_CLASSES = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
CHOOSING = 60
REDUCTION = 3
CROP, SCALE = (112, 144), (0.75, 1.25)
PAGE = Path(__file__).parent.parent / "docs" / "weak-supervision.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


@dataclass(frozen=True)
class Variant:
    """What a network learns from.

    Attributes:
        after: The variant whose network this one trains on with, with a CRF-RNN behind it.
    """

    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    after: str | None = None


CLICKS = {"supervision": "clicks", "click_radius": 1}
DENSE = {**CLICKS, "crf_loss": "dense", "crf_loss_weight": 1.0, "crf_loss_theta_alpha": 50.0}
GATED = {**CLICKS, "crf_loss": "gated", "crf_loss_weight": 1.0, "crf_loss_theta_alpha": 6.0}
VARIANTS = {
    "clicks": Variant("clicks", CLICKS),
    "full": Variant("labels of all pixels"),
    "dense": Variant("clicks + dense CRF loss", DENSE),
    "gated": Variant("clicks + gated CRF loss", GATED),
    "dense-crf": Variant("clicks + dense CRF loss, then + CRF-RNN", DENSE, "dense"),
    "gated-crf": Variant("clicks + gated CRF loss, then + CRF-RNN", GATED, "gated"),
}
"""In the order in which they are run: what another one starts with comes before it."""


@dataclass(frozen=True)
class Experiment:
    """Where data lie and results go, and how long networks train."""

    data: Path
    output: Path
    epochs: int
    crf_epochs: int

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


def run(experiment: Experiment, seed: int, name: str) -> str:
    """Train a variant and measure it on the validation photos."""
    torch.set_num_threads(1)
    variant = VARIANTS[name]
    settings: dict[str, Any] = {"network_epochs": experiment.epochs, "crf_epochs": 0, **variant.settings}
    if variant.after is not None:
        model = experiment.folder(seed, variant.after) / "model.safetensors"
        settings |= {"init": str(model), "network_epochs": 0, "crf_epochs": experiment.crf_epochs}
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
            theta_alpha=40.0,
            **settings,
        )
    )
    segmenter = load_model(result.model).segmenter
    found = evaluate(segmenter, SegmentationData(experiment.data, "val", CLASSES), CLASSES)
    scores = found.network if found.crf is None else found.crf
    main = statistics.mean(scores.iou[CLASSES.names.index(each)] for each in MAIN_CLASSES)
    content = {"mean_iou": scores.mean_iou, "edge_mean_iou": scores.edge_mean_iou, "main_mean_iou": main}
    with replacing(experiment.result(seed, name)) as handle:
        handle.write((json.dumps(content, indent=1) + "\n").encode())
    return f"seed {seed}, {name}: {100 * scores.mean_iou:.2f}"

