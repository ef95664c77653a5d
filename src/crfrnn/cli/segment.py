"""`crfrnn segment`: photos in, label images and overlays out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from crfrnn.cli.parameter_options import add_parameters_file, chosen_model
from crfrnn.cli.usage import UsageError
from crfrnn.files.legend import full_palette, labelled_overlay
from crfrnn.files.photos import IMAGE_SUFFIXES, write_labels, write_picture, write_probabilities
from crfrnn.files.progress import progress

if TYPE_CHECKING:
    from crfrnn.models import Model

SEGMENT_HELP = """\
Segment photos with the network in the package, or that of --model, and its CRF.

For each PHOTO, DIR receives NAME.png, the class ids as an indexed PNG in the colours of the classes, and
NAME_overlay.jpg, the photo tinted by class with a legend. An EXIF orientation is applied to both. A folder stands for
the photos in it. Photos whose results exist are skipped. A photo that fails does not stop the others.
"""
LABELS_END = ".png"
OVERLAY_END = "_overlay.jpg"
PROBABILITIES_END = "_probabilities.npz"


def add_segment(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `segment`."""
    parser = commands.add_parser(
        "segment",
        help="segment photos with a network and its CRF",
        description=SEGMENT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="a photo, or a folder of photos")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="folder to write to")
    parser.add_argument("--model", type=Path, metavar="FILE", help="a trained model; that of the package if not given")
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
        help="photos whose longer side has more pixels are reduced for the network, and the labels enlarged; "
        "500 when not given",
    )
    parser.add_argument("--overwrite", action="store_true", help="redo what is already there")
    parser.set_defaults(run=run_segment, parser=parser)


def run_segment(options: argparse.Namespace) -> int:
    """Segment the photos, each on its own. Returns the exit status."""
    parser: argparse.ArgumentParser = options.parser
    output: Path = options.output
    if output.exists() and not output.is_dir():
        parser.error(f"{output} is a file; name a folder to write to")
    if options.longest_side is not None and options.longest_side < 1:
        parser.error(f"--longest-side must be at least 1, not {options.longest_side}")
    try:
        photos = photo_files(options.photos)
    except UsageError as error:
        parser.error(str(error))
    ends = [LABELS_END, OVERLAY_END] + ([PROBABILITIES_END] if options.probabilities else [])
    todo = [
        photo
        for photo in photos
        if options.overwrite or not all((output / (photo.stem + end)).exists() for end in ends)
    ]
    failures = []
    if todo:
        model = chosen_model(options.model, options.parameters)
        inputs = {photo.resolve() for photo in photos}
        for photo in progress(todo, "segment"):
            try:
                refuse_collisions(photo, photos, inputs, output, ends)
                write_segmentation(photo, model, options)
            except (ValueError, TypeError, OSError, MemoryError) as error:
                failures.append(" ".join(str(error).split()))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    done = len(todo) - len(failures)
    print(f"{output}: {done} segmented, {len(photos) - len(todo)} already there, {len(failures)} failed")
    return 1 if failures else 0


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


def refuse_collisions(photo: Path, photos: list[Path], inputs: set[Path], output: Path, ends: list[str]) -> None:
    """Raise a ValueError if results of this photo would replace a photo, or those of another one."""
    namesakes = [str(each) for each in photos if each.stem == photo.stem]
    if len(namesakes) > 1:
        raise ValueError(f"{' and '.join(namesakes)} share a name; segment them into different folders")
    for end in ends:
        if (output / (photo.stem + end)).resolve() in inputs:
            raise ValueError(f"{photo}: {output / (photo.stem + end)} is one of the photos; name another folder")


def write_segmentation(photo: Path, model: Model, options: argparse.Namespace) -> None:
    """Segment one photo and write what was asked for."""
    from crfrnn.segment import LONGEST_SIDE, load_photo, segment

    image = load_photo(photo)
    side = LONGEST_SIDE if options.longest_side is None else options.longest_side
    try:
        found = segment(image, model, crf=not options.no_crf, longest_side=side)
    except (ValueError, MemoryError) as error:
        raise type(error)(f"{photo}: {error}") from error
    stem = options.output / photo.stem
    write_labels(Path(f"{stem}{LABELS_END}"), found.labels, full_palette(found.classes))
    write_picture(Path(f"{stem}{OVERLAY_END}"), labelled_overlay(image, found.labels, found.classes))
    if options.probabilities:
        write_probabilities(Path(f"{stem}{PROBABILITIES_END}"), found.probabilities)
