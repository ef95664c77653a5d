"""`crfrnn segment`: photos in, label images and overlays out."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crfrnn.cli.failures import described
from crfrnn.cli.outputs import GEOTIFF_LOST, RESULT_SUFFIXES, format_of
from crfrnn.cli.parameter_options import add_device, add_parameters_file, chosen_model
from crfrnn.cli.parser import add_command, add_quiet
from crfrnn.cli.printing import complain, say
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
from crfrnn.interrupts import raise_asked, telling
from crfrnn.pictures import reduced_overlay

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
    failures, placed = [], 0
    if todo:
        model = chosen_model(options.model, options.parameters, options.device, options.iterations)
        inputs = {real_path(photo) for photo in photos}
        done: list[Path] = []
        with telling(lambda: going_on(len(done), len(todo), "segmented", options.overwrite)):
            for photo in progress(todo, "segment"):
                try:
                    results.refuse_collisions(photo, photos, inputs)
                    write_segmentation(photo, model, options, results)
                    placed += suffix_of(photo) in TIFF_SUFFIXES and georeference(photo) != ()
                    done.append(photo)
                except Exception as error:
                    raise_asked(error)
                    failures.append(described(error, [photo]))
    if placed:
        complain("crfrnn segment", "warning", counted(placed, "photo"), GEOTIFF_LOST)
    for failure in failures:
        complain("failed", failure)
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

    def refuse_collisions(self, photo: Path, photos: list[Path], inputs: set[Path]) -> None:
        """Raise a ValueError if results of this photo would replace a photo, or those of another one."""
        namesakes = [str(each) for each in photos if each.stem == photo.stem]
        if len(namesakes) > 1:
            raise ValueError(f"{' and '.join(namesakes)} share a name; segment them into different folders")
        for path in self.paths(photo).values():
            if real_path(path) in inputs:
                raise ValueError(f"{photo}: {path} is one of the photos; name another folder")


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


def write_segmentation(photo: Path, model: Model, options: argparse.Namespace, results: Results) -> None:
    """Segment one photo and write what was asked for."""
    from crfrnn.segment import LONGEST_SIDE, segment

    image = load_photo(photo)
    side = LONGEST_SIDE if options.longest_side is None else options.longest_side
    found = segment(image, model, crf=not options.no_crf, longest_side=side)
    paths = results.paths(photo)
    if "labels" in paths:
        write_labels(paths["labels"], found.labels, full_palette(found.classes))
    if "overlay" in paths:
        write_picture(paths["overlay"], reduced_overlay(image, found.labels, found.classes))
    if "probabilities" in paths:
        write_probabilities(paths["probabilities"], found.probabilities)
