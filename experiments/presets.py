"""`python -m experiments.presets`: every preset, and settings tried beside them, on two data sets.

The scores are those of a DeepLabv3 on MobileNetV2 for 40 photos of PASCAL VOC's people and animals, 33×33 stretched
over the photo, and those of the FCN that `experiments.ablation` trains for 64 photos of MSRC-21. Fills the table of
docs/choosing-parameters.md and draws its picture; about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crfrnn import CRFParameters, refine
from crfrnn.data import SegmentationData
from crfrnn.data.scored import ScoredPhotos
from crfrnn.evaluation import confusion_matrix
from crfrnn.evaluation.bootstrap import gain_interval
from crfrnn.evaluation.metrics import edge_band, iou_of_classes
from crfrnn.files.classes import VOID, class_set
from crfrnn.files.photos import read_photo
from crfrnn.files.replacement import replacing
from crfrnn.files.resize import resize_scores
from crfrnn.models import load_model
from crfrnn.parameters import PRESETS
from crfrnn.segment import image_batch

PAGE = Path(__file__).parent.parent / "docs" / "choosing-parameters.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
VOC, MSRC = class_set("voc"), class_set("msrc21")
VOC_PHOTOS, MSRC_PHOTOS = 40, 64
SYMMETRIC = CRFParameters(
    theta_alpha=50,
    theta_beta=10,
    theta_gamma=3,
    spatial_weight=3,
    bilateral_weight=5,
    normalization="symmetric",
    iterations=5,
)
TRIED = {
    "50/10/3, weights 3 and 5, symmetric, 5 iterations": SYMMETRIC,
    "the same, normalised after": replace(SYMMETRIC, normalization="after"),
    "40/5/3, weights 3 and 4, after": CRFParameters(40, 5, 3, 3, 4),
    "50/5/3, weights 3 and 5, after": CRFParameters(50, 5, 3, 3, 5),
    "80/5/2, weights 1 and 2, after": CRFParameters(80, 5, 2, 1, 2),
    "50/3.5/1.2, weights 4 and 4, after": CRFParameters(50, 3.5, 1.2, 4, 4),
}
CHECKED = ("photos", "crfrnn", "deeplab")
PICTURED, BOX = "astronaut", (60, 0, 300, 180)

Scored = tuple[NDArray[np.uint8], NDArray[np.floating], NDArray[np.integer]]


def voc_photos(data: Path, part: slice) -> Iterator[Scored]:
    """Photo, logits and labels of a network at low resolution; a part of all in a random order."""
    photos = ScoredPhotos(SegmentationData(data, "val", VOC), data / "logits33", square=True)
    for index in np.random.default_rng(0).permutation(len(photos))[part]:
        sample, logits = photos[int(index)]
        yield sample.image, logits, sample.labels


def msrc_photos(data: Path, model: Path, part: slice) -> Iterator[Scored]:
    """The same of a network that was trained on this data set."""
    segmenter = load_model(model).segmenter
    photos = SegmentationData(data, "test", MSRC)
    for index in np.random.default_rng(0).permutation(len(photos))[part]:
        sample = photos[int(index)]
        with torch.inference_mode():
            logits = segmenter.unary(image_batch([sample.image], segmenter))[0].numpy()
        yield sample.image, logits, sample.labels


def measured(photos: Iterator[Scored], crfs: dict[str, CRFParameters]) -> dict[str, torch.Tensor]:
    """Confusion matrices (photos, 2, C, C), all pixels and near edges: of the scores alone, under "", and each CRF."""
    found: dict[str, list[torch.Tensor]] = {"": [], **{name: [] for name in crfs}}
    for image, logits, ids in photos:
        labels = torch.from_numpy(ids.astype(np.int64))
        kinds = (labels, labels.where(edge_band(labels), VOID))
        for name, total in found.items():
            refined = refine(logits, image, crfs[name], return_labels=True) if name else logits.argmax(axis=0)
            predicted = torch.from_numpy(refined.astype(np.int64))
            total.append(torch.stack([confusion_matrix(predicted, truth, len(logits)) for truth in kinds]))
    return {name: torch.stack(total) for name, total in found.items()}


def distinct() -> dict[str, CRFParameters]:
    """Presets, those with the same numbers in one row, and what was tried beside them."""
    rows: dict[CRFParameters, str] = {}
    for name, parameters in PRESETS.items():
        rows[parameters] = f"{rows[parameters]}, `{name}`" if parameters in rows else f"`{name}`"
    return {name: parameters for parameters, name in rows.items()} | TRIED


def table(sets: dict[str, dict[str, torch.Tensor]]) -> str:
    """Mean IoU and that near edges, with what the CRF gains and its 95 % interval."""
    counts = {name: len(found[""]) for name, found in sets.items()}
    lines = [
        f"| | {' | '.join(f'{name}, {count} photos: mean IoU | near edges' for name, count in counts.items())} |",
        f"| --- |{' --- | --- |' * len(sets)}",
    ]
    for name in next(iter(sets.values())):
        cells = []
        for found in sets.values():
            for kind in (0, 1):
                before, after = found[""][:, kind], found[name][:, kind]
                value = 100 * mean_iou(after)
                low, high = gain_interval(before, after)
                gain = f" ({value - 100 * mean_iou(before):+.2f}; {100 * low:+.2f} to {100 * high:+.2f})"
                cells.append(f"{value:.2f}{gain if name else ''}")
        lines.append(f"| {name or 'scores alone'} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def mean_iou(confusions: torch.Tensor) -> float:
    return float(iou_of_classes(confusions.sum(dim=0)).nanmean())


def draw(folder: Path, path: Path) -> None:
    """A part of a photo with the labels of the scores alone and of each preset, their names above."""
    image = read_photo(folder / f"{PICTURED}.png")
    with np.load(folder / f"{PICTURED}_logits33.npz") as file:
        logits = resize_scores(file["logits"].astype(np.float32), image.shape[:2], square=True)
    presets = {name.replace("`", ""): crf for name, crf in distinct().items() if name not in TRIED}
    left, top, right, bottom = BOX
    panels = []
    for title, crf in {"photo": None, "scores alone": None, **presets}.items():
        labels = logits.argmax(axis=0) if crf is None else refine(logits, image, crf, return_labels=True)
        coloured = image if title == "photo" else (0.45 * image + 0.55 * VOC.palette[labels]).astype(np.uint8)
        part = Image.fromarray(coloured[top:bottom, left:right])
        panel = Image.new("RGB", (part.width, part.height + 16), "white")
        panel.paste(part, (0, 16))
        ImageDraw.Draw(panel).text((2, 2), title, fill="black")
        panels.append(panel)
    columns = 4
    width, height = panels[0].width + 6, panels[0].height + 6
    picture = Image.new("RGB", (columns * width, -(-len(panels) // columns) * height), "white")
    for index, panel in enumerate(panels):
        picture.paste(panel, (index % columns * width, index // columns * height))
    with replacing(path) as handle:
        picture.save(handle, format="jpeg", quality=88)


def main() -> None:
    data = Path(os.environ.get("CRFRNN_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(prog="python -m experiments.presets", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=data, help="with voc_animals/, msrc21/ and examples/ (%(default)s)"
    )
    parser.add_argument(
        "--network", type=Path, default=Path("out/ablation/seed0/network/model.safetensors"), help="(%(default)s)"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="whose table is filled (%(default)s)")
    options = parser.parse_args()
    draw(options.data / "examples", options.page.with_name("presets.jpg"))

    def tables(crfs: dict[str, CRFParameters], voc: slice, msrc: slice) -> str:
        return table(
            {
                "VOC": measured(voc_photos(options.data / "voc_animals", voc), crfs),
                "MSRC-21": measured(msrc_photos(options.data / "msrc21", options.network, msrc), crfs),
            }
        )

    lines = tables(distinct(), slice(VOC_PHOTOS), slice(MSRC_PHOTOS))
    others = tables({f"`{name}`": PRESETS[name] for name in CHECKED}, slice(VOC_PHOTOS, None), slice(MSRC_PHOTOS, None))
    lines += f"\n`photos` was chosen on these photos. On all the others, on which nothing was chosen:\n\n{others}"
    print(lines)
    before, rest = options.page.read_text(encoding="utf-8").split(BEGIN)
    with replacing(options.page) as handle:
        handle.write(f"{before}{BEGIN}{lines}{END}{rest.split(END)[1]}".encode())


if __name__ == "__main__":
    main()
