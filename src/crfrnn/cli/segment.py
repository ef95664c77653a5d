"""`crfrnn segment`: photos in, label images and overlays out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crfrnn.cli.failures import described
from crfrnn.cli.outputs import GEOTIFF_LOST, RESULT_SUFFIXES, format_of
from crfrnn.cli.parameter_options import add_device, add_parameters_file, chosen_model
from crfrnn.cli.parser import add_command, add_quiet
from crfrnn.cli.printing import complain, say
from crfrnn.cli.stages import Read, Stages
from crfrnn.cli.usage import UsageError, counted, going_on, real_path
from crfrnn.files.legend import full_palette
from crfrnn.files.photos import (
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    TIFF_SUFFIXES,
    suffix_of,
    write_labels,
    write_picture,
    write_probabilities,
)
from crfrnn.files.progress import progress
from crfrnn.files.rgb import load_photo
from crfrnn.files.tiff import georeference
from crfrnn.interrupts import telling
from crfrnn.memory import half_of_memory
from crfrnn.pictures import reduced_overlay
from crfrnn.threads import default_threads

if TYPE_CHECKING:
    from crfrnn.models import Model

SEGMENT_HELP = """\
Segment photos with the network in the package, or that of --model, and its CRF.

For each PHOTO, the folder OUT receives NAME.png, the class ids as an indexed PNG in the colours of the classes, and
NAME_overlay.jpg, the photo tinted by class with a legend, reduced to 1600 pixels. An EXIF orientation is applied to
both. A folder stands for the photos in it. Photos whose results exist are skipped. A photo that fails does not stop the
others.

Of a single photo, OUT may be one file instead: labels.png, or overlay.jpg, overlay.png and NAME_overlay.png.
"""
EXAMPLES = """\
  crfrnn segment photo.jpg                        # to the folder segmented/
  crfrnn segment photo.jpg -o overlay.png
  crfrnn segment photos/ -o results/ --model run/model.safetensors --device cuda
"""
DEFAULT_FOLDER = Path("segmented")
LABELS_END = ".png"
OVERLAY_END = "_overlay.jpg"
PROBABILITIES_END = "_probabilities.npz"
BATCH = 16
"""Photos of one size that a device takes together."""

Image: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.uint8]
Scores: TypeAlias = NDArray[np.float32]


def add_segment(commands: Any) -> None:
    """Add the command `segment`."""
    parser = add_command(
        commands,
        "segment",
        "segment photos with a network and its CRF",
        SEGMENT_HELP,
        EXAMPLES,
        "PHOTO ... [OPTION ...]",
    )
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="a photo, or a folder of photos")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        default=DEFAULT_FOLDER,
        help="folder, or file of a single photo, to write to (default: %(default)s/ in the current folder)",
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="a trained model (default: that of the package)")
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="also write NAME_probabilities.npz: (C, H, W) float32, at the size that the network saw",
    )
    crf = parser.add_mutually_exclusive_group()
    crf.add_argument("--no-crf", action="store_true", help="the network alone")
    add_parameters_file(crf)
    parser.add_argument(
        "--longest-side",
        type=int,
        metavar="N",
        help="photos whose longer side has more pixels are reduced for the network, and the labels enlarged "
        "(default: 500)",
    )
    parser.add_argument("--overwrite", action="store_true", help="redo what is already there")
    parser.add_argument("--iterations", type=int, metavar="T", help="iterations of the CRF (default: its own)")
    add_device(parser)
    add_quiet(parser)
    parser.set_defaults(run=run_segment, parser=parser)


def run_segment(options: argparse.Namespace) -> int:
    """Segment the photos, each on its own. Returns the exit status."""
    parser: argparse.ArgumentParser = options.parser
    try:
        for option, least in (("longest_side", 1), ("iterations", 0)):
            number = getattr(options, option)
            if number is not None and number < least:
                raise UsageError(f"--{option.replace('_', '-')} must be at least {least}, not {number}")
        if options.no_crf and options.iterations is not None:
            raise UsageError("--iterations are those of the CRF, which --no-crf leaves out")
        photos = photo_files(options.photos)
        results = Results.of(options, photos)
    except UsageError as error:
        parser.error(str(error))
    todo = [photo for photo in photos if options.overwrite or not results.exist(photo)]
    failures: dict[Path, str] = {}
    placed = 0
    if todo:
        model = chosen_model(options.model, options.parameters, options.device, options.iterations)
        segmenting = Segmenting(model, options, results, photos)
        shown = progress(todo, "segment")  # it imports: no thread is to be at work then
        with (
            telling(lambda: going_on(len(segmenting.done), len(todo), "segmented", options.overwrite)),
            closing(segmenting.stages().run(todo)) as ended,
        ):
            for _, (photo, failure) in zip(shown, ended, strict=True):
                if failure is not None:
                    failures[photo] = described(failure, [photo])
                else:
                    placed += suffix_of(photo) in TIFF_SUFFIXES and georeference(photo) != ()
    if placed:
        complain("crfrnn segment", "warning", counted(placed, "photo"), GEOTIFF_LOST)
    for photo in todo:
        if photo in failures:
            complain("failed", failures[photo])
    where = results.output if len(photos) > 1 else ", ".join(map(str, results.paths(photos[0]).values()))
    hint = "; --overwrite redoes what is there" if len(todo) < len(photos) else ""
    say(
        f"{len(todo) - len(failures)} segmented, {len(photos) - len(todo)} already there, {len(failures)} failed{hint}",
        where,
    )
    return 1 if failures else 0


@dataclass(frozen=True)
class Results:
    """What is written of each photo.

    Attributes:
        output: A folder, or the only file.
        ends: What is written, and what file names in the folder end in; {"labels": ""} for the only file.
    """

    output: Path
    ends: dict[str, str]

    @classmethod
    def of(cls, options: argparse.Namespace, photos: list[Path]) -> Results:
        """The results that the options ask for. Raises UsageError if the output does not suit them."""
        output: Path = options.output
        if output.is_dir() or not output.suffix:
            if output.exists() and not output.is_dir():
                raise UsageError(f"{output} is a file; name a folder to write to")
            more = {"probabilities": PROBABILITIES_END} if options.probabilities else {}
            return cls(output, {"labels": LABELS_END, "overlay": OVERLAY_END} | more)
        if output.suffix.lower() not in PICTURE_SUFFIXES:
            if output.exists():
                raise UsageError(f"{output} is a file; name a folder to write to")
            if suffix_of(output) in RESULT_SUFFIXES:
                raise UsageError(f"{output} is named like a file; results are .png, .jpg or a folder")
            return cls(output, {"labels": LABELS_END, "overlay": OVERLAY_END})
        if len(photos) > 1:
            raise UsageError(f"{output} is one file for {len(photos)} photos; name a folder to write to")
        if options.probabilities:
            raise UsageError("--probabilities go into a folder beside the labels; name a folder to write to")
        return cls(output, {format_of(output, None): ""})

    def paths(self, photo: Path) -> dict[str, Path]:
        """The files of a photo."""
        return {what: self.output / (photo.stem + end) if end else self.output for what, end in self.ends.items()}

    def exist(self, photo: Path) -> bool:
        """Whether a photo in a folder is done; a single file is written anew."""
        return all(self.ends.values()) and all(path.exists() for path in self.paths(photo).values())


def photo_files(given: list[Path]) -> list[Path]:
    """The photos given and those in the folders given, each once."""
    photos: list[Path] = []
    for path in given:
        if not path.is_dir():
            photos.append(path)
            continue
        found = [
            each
            for each in sorted(path.iterdir())
            if each.suffix.lower() in IMAGE_SUFFIXES and not each.name.startswith(".") and not each.is_dir()
        ]
        if not found:
            raise UsageError(f"{path} holds no photos ({', '.join(IMAGE_SUFFIXES)})")
        photos += found
    return list(dict.fromkeys(photos))


@dataclass(frozen=True)
class Segmenting:
    """The stages that photos go through.

    Attributes:
        photos: All of them, of which none is to be replaced.
        done: Those whose results are written.
    """

    model: Model
    options: argparse.Namespace
    results: Results
    photos: list[Path]
    done: list[Path] = field(default_factory=list)

    def stages(self) -> Stages[Path]:
        batch = 1
        if self.options.device is not None:
            batch = BATCH
            if self.model.segmenter.crf is not None:
                self.model.segmenter.crf.count_vertices = True  # as results are waited for anyway
        return Stages(self.read, self.compute, self.write, batch, default_threads(), half_of_memory() // 2)

    def read(self, photo: Path) -> Read:
        """The photo, and as the network sees it."""
        from crfrnn.segment import LONGEST_SIDE, as_seen

        self.refuse_collisions(photo)
        image = load_photo(photo)
        side = self.options.longest_side
        seen = as_seen(image, LONGEST_SIDE if side is None else side)
        scores = 4 * self.model.classes.num_classes * seen[..., 0].size
        return Read((image, seen), seen.shape, image.nbytes + seen.nbytes + scores)

    def compute(self, contents: Sequence[tuple[Image, Image]]) -> list[tuple[Image, Labels | None, Scores | None]]:
        """Each photo with its labels, or with the probabilities that these are found from."""
        from crfrnn.segment import probabilities

        found = probabilities([seen for _, seen in contents], self.model, not self.options.no_crf)
        whole = all(image.shape == seen.shape for image, seen in contents)
        if whole and not self.options.probabilities:
            labels = found.argmax(dim=1).byte().cpu().numpy()
            return [(image, each, None) for (image, _), each in zip(contents, labels, strict=True)]
        scores = found.cpu().numpy()
        return [(image, None, each) for (image, _), each in zip(contents, scores, strict=True)]

    def write(self, photo: Path, found: tuple[Image, Labels | None, Scores | None]) -> None:
        """What was asked for."""
        from crfrnn.segment import enlarged_labels

        image, labels, scores = found
        if labels is None:
            assert scores is not None  # one of the two is there
            labels = enlarged_labels(scores, image.shape[:2])
        classes, paths = self.model.classes, self.results.paths(photo)
        if "labels" in paths:
            write_labels(paths["labels"], labels, full_palette(classes))
        if "overlay" in paths:
            write_picture(paths["overlay"], reduced_overlay(image, labels, classes))
        if "probabilities" in paths and scores is not None:
            write_probabilities(paths["probabilities"], scores)
        self.done.append(photo)

    def refuse_collisions(self, photo: Path) -> None:
        """Raise a ValueError if results of this photo would replace a photo, or those of another one."""
        namesakes = self._by_stem[photo.stem]
        if len(namesakes) > 1:
            raise ValueError(f"{' and '.join(namesakes)} share a name; segment them into different folders")
        for path in self.results.paths(photo).values():
            if real_path(path) in self._inputs:
                raise ValueError(f"{photo}: {path} is one of the photos; name another folder")

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for photo in self.photos:
            found.setdefault(photo.stem, []).append(str(photo))
        return found

    @cached_property
    def _inputs(self) -> set[Path]:
        return {real_path(photo) for photo in self.photos}
