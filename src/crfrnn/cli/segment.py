"""`crfrnn segment`: photos in, label images and overlays out."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crfrnn.cli.engines import add_ray, chosen_engine
from crfrnn.cli.failures import described
from crfrnn.cli.outputs import GEOTIFF_LOST, RESULT_SUFFIXES, format_of
from crfrnn.cli.parameter_options import add_device, add_parameters_file, chosen_model
from crfrnn.cli.parser import add_command, add_quiet
from crfrnn.cli.printing import complain, say
from crfrnn.cli.stages import Read, Stages
from crfrnn.cli.usage import UsageError, counted, given_place, going_on
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
from crfrnn.files.places import Place, delivered, fetched, is_folder, is_there, names_in, names_there, real_place
from crfrnn.files.rgb import load_photo
from crfrnn.files.tiff import georeference
from crfrnn.interrupts import telling
from crfrnn.jobs import Job, Share
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

Photos, OUT and the model may lie anywhere that fsspec reaches, such as s3://bucket/photos, with the package for it
installed. Many photos can be segmented by a Ray cluster (--ray).
"""
EXAMPLES = """\
  crfrnn segment photo.jpg                        # to the folder segmented/
  crfrnn segment photo.jpg -o overlay.png
  crfrnn segment photos/ -o results/ --model run/model.safetensors --device cuda
  crfrnn segment s3://bucket/photos -o s3://bucket/segmented --ray
"""
DEFAULT_FOLDER = Path("segmented")
LABELS_END = ".png"
OVERLAY_END = "_overlay.jpg"
PROBABILITIES_END = "_probabilities.npz"
BATCH = 16
"""Photos of one size that a device takes together."""


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
    parser.add_argument("photos", type=given_place, nargs="+", metavar="PHOTO", help="a photo, or a folder of photos")
    parser.add_argument(
        "-o",
        "--output",
        type=given_place,
        metavar="OUT",
        default=DEFAULT_FOLDER,
        help="folder, or file of a single photo, to write to (default: %(default)s/ in the current folder)",
    )
    parser.add_argument(
        "--model", type=given_place, metavar="FILE", help="a trained model (default: that of the package)"
    )
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
    add_ray(parser)
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
        photos = photos_given(options.photos)
        results, engine = Results.of(options, len(photos)), chosen_engine(options)
    except UsageError as error:
        parser.error(str(error))
    todo = results.todo(photos, options.overwrite)
    job = SegmentPhotos(options, results, tuple({photo.folder: None for photo in todo}))
    failures: dict[int, str] = {}
    done, placed = 0, 0

    def take(number: int, outcome: bool | Exception) -> None:
        nonlocal done, placed
        if isinstance(outcome, Exception):
            failures[number] = described(outcome, [todo[number].place])
            return
        done, placed = done + 1, placed + outcome

    if todo:  # no model is needed otherwise
        with telling(lambda: going_on(done, len(todo), "segmented", options.overwrite)):
            engine.run(job, todo, take, "segment")
    for remark in engine.remarks:
        complain("crfrnn segment", "warning", remark)
    if placed:
        complain("crfrnn segment", "warning", counted(placed, "photo"), GEOTIFF_LOST)
    for number in sorted(failures):
        complain("failed", failures[number])
    where = results.output if len(photos) > 1 else ", ".join(map(str, results.places(photos[0]).values()))
    hint = "; --overwrite redoes what is there" if len(todo) < len(photos) else ""
    say(f"{done} segmented, {len(photos) - len(todo)} already there, {len(failures)} failed{hint}", where)
    return 1 if failures else 0


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo in a folder.

    Attributes:
        problem: Why it cannot be segmented; "" if it can.
    """

    folder: Place
    name: str
    problem: str = ""

    @property
    def place(self) -> Place:
        """Its file."""
        return self.folder / self.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePath(self.name).stem


@dataclass(frozen=True)
class Results:
    """What is written of each photo.

    Attributes:
        output: A folder, or the only file.
        ends: What is written, and what file names in the folder end in; {"labels": ""} for the only file.
    """

    output: Place
    ends: dict[str, str]

    @classmethod
    def of(cls, options: argparse.Namespace, photos: int) -> Results:
        """The results of so many photos that the options ask for. Raises UsageError if the output does not suit."""
        output: Place = options.output
        if is_folder(output) or not output.suffix:
            if is_there(output) and not is_folder(output):
                raise UsageError(f"{output} is a file; name a folder to write to")
            more = {"probabilities": PROBABILITIES_END} if options.probabilities else {}
            return cls(output, {"labels": LABELS_END, "overlay": OVERLAY_END} | more)
        if output.suffix.lower() not in PICTURE_SUFFIXES:
            if is_there(output):
                raise UsageError(f"{output} is a file; name a folder to write to")
            if suffix_of(output) in RESULT_SUFFIXES:
                raise UsageError(f"{output} is named like a file; results are .png, .jpg or a folder")
            return cls(output, {"labels": LABELS_END, "overlay": OVERLAY_END})
        if photos > 1:
            raise UsageError(f"{output} is one file for {photos} photos; name a folder to write to")
        if options.probabilities:
            raise UsageError("--probabilities go into a folder beside the labels; name a folder to write to")
        return cls(output, {format_of(output, None): ""})

    @property
    def folder(self) -> Place:
        """The folder of the results."""
        return self.output if all(self.ends.values()) else self.output.parent

    def places(self, photo: Photo) -> dict[str, Place]:
        """The files of a photo."""
        return {what: self.output / (photo.stem + end) if end else self.output for what, end in self.ends.items()}

    def todo(self, photos: list[Photo], overwrite: bool) -> list[Photo]:
        """The photos without all of their results; a single file is written anew. The folder is listed once.

        Those whose results would replace a photo, or those of another one, have a problem.
        """
        there = names_there(self.folder)
        counts = Counter(photo.stem for photo in photos)
        namesakes: dict[str, list[str]] = {}
        for photo in photos:
            if counts[photo.stem] > 1:
                namesakes.setdefault(photo.stem, []).append(str(photo.place))
        inputs: set[Place] = set()
        todo = []
        for photo in photos:
            names = [photo.stem + end if end else self.output.name for end in self.ends.values()]
            if not overwrite and all(self.ends.values()) and there.issuperset(names):
                continue
            if alike := namesakes.get(photo.stem):
                problem = f"{' and '.join(alike)} share a name; segment them into different folders"
                photo = replace(photo, problem=problem)
            elif not there.isdisjoint(names):
                inputs = inputs or {real_place(each.place) for each in photos}
                replaced = [place for place in self.places(photo).values() if real_place(place) in inputs]
                if replaced:
                    problem = f"{photo.place}: {replaced[0]} is one of the photos; name another folder"
                    photo = replace(photo, problem=problem)
            todo.append(photo)
        return todo


def photos_given(given: list[Place]) -> list[Photo]:
    """The photos given and those in the folders given, each once."""
    photos: list[Photo] = []
    for place in given:
        if not is_folder(place):
            photos.append(Photo(place.parent, place.name))
            continue
        names = sorted(name for name in names_in(place) if PurePath(name).suffix.lower() in IMAGE_SUFFIXES)
        if not names:
            raise UsageError(f"{place} holds no photos ({', '.join(IMAGE_SUFFIXES)})")
        photos += [Photo(place, name) for name in names]
    return list(dict.fromkeys(photos))


class SegmentPhotos(Job[Photo, bool]):
    """Segments photos and writes what was asked for. The result is whether the place of a GeoTIFF is lost."""

    def __init__(self, options: argparse.Namespace, results: Results, folders: tuple[Place, ...]) -> None:
        self.results, self.shared, self.inputs = results, results.folder, folders
        self.model, self.parameters, self.iterations = options.model, options.parameters, options.iterations
        self.device, self.crf, self.longest_side = options.device, not options.no_crf, options.longest_side

    def worker(self, share: Share) -> Stages[Photo, bool]:
        """Reads ahead in one thread; on a device in many, for batches of photos of one size."""
        from crfrnn.segment import LONGEST_SIDE

        model = chosen_model(self.model, self.parameters, self.device, self.iterations)
        side = LONGEST_SIDE if self.longest_side is None else self.longest_side
        work = Segmenting(model, self.results, self.crf, side)
        batch, threads = 1, 1
        if self.accelerated:
            batch, threads = BATCH, default_threads()
            if model.segmenter.crf is not None:
                model.segmenter.crf.count_vertices = True  # as results are waited for anyway
        return Stages(work.read, work.compute, work.write, batch, threads, share.part // 2)


class Seen(NamedTuple):
    """A photo that has been read.

    Attributes:
        image: At its own size (H, W, 3).
        small: As the network sees it (h, w, 3).
        place_lost: Whether it is a GeoTIFF.
    """

    image: NDArray[np.uint8]
    small: NDArray[np.uint8]
    place_lost: bool


class Found(NamedTuple):
    """A photo with its labels (H, W), or with the probabilities (C, h, w) that these are found from."""

    photo: Seen
    labels: NDArray[np.uint8] | None
    probabilities: NDArray[np.float32] | None


@dataclass(frozen=True)
class Segmenting:
    """The stages of a photo.

    Attributes:
        crf: Whether the model's CRF refines what its network found.
        longest_side: Of the photo that the network sees, in pixels.
    """

    model: Model
    results: Results
    crf: bool
    longest_side: int

    def read(self, photo: Photo) -> Read:
        """The photo, and as the network sees it."""
        from crfrnn.segment import as_seen

        if photo.problem:
            raise ValueError(photo.problem)
        with fetched(photo.place) as (path,):
            image = load_photo(path)
            place_lost = suffix_of(path) in TIFF_SUFFIXES and georeference(path) != ()
        small = as_seen(image, self.longest_side)
        scores = 4 * self.model.classes.num_classes * small[..., 0].size
        return Read(Seen(image, small, place_lost), small.shape, image.nbytes + small.nbytes + scores)

    def compute(self, photos: Sequence[Seen]) -> list[Found]:
        """Labels where nothing else is needed: they are a fraction of what leaves a device otherwise."""
        from crfrnn.segment import probabilities

        found = probabilities([photo.small for photo in photos], self.model, self.crf)
        if "probabilities" in self.results.ends or any(photo.image.shape != photo.small.shape for photo in photos):
            return [Found(photo, None, each) for photo, each in zip(photos, found.cpu().numpy(), strict=True)]
        labels = found.argmax(dim=1).byte().cpu().numpy()
        return [Found(photo, each, None) for photo, each in zip(photos, labels, strict=True)]

    def write(self, photo: Photo, found: Found) -> bool:
        """What was asked for. Whether the place of a GeoTIFF is lost."""
        from crfrnn.segment import enlarged_labels

        (image, _, place_lost), labels, scores = found
        if labels is None:
            assert scores is not None  # one of the two is there
            labels = enlarged_labels(scores, image.shape[:2])
        classes = self.model.classes
        for what, place in self.results.places(photo).items():
            with delivered(place) as target:
                if what == "labels":
                    write_labels(target, labels, full_palette(classes))
                elif what == "overlay":
                    write_picture(target, reduced_overlay(image, labels, classes))
                elif scores is not None:
                    write_probabilities(target, scores)
        return place_lost
