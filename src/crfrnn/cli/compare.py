"""`crfrnn compare`: one picture of a photo with its labels before and after."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.cli.inputs import Pair, Reading
from crfrnn.cli.parameter_options import ARRAY_HELP, CLASSES_HELP, SQUARE_HELP, chosen_classes
from crfrnn.cli.parser import add_command, add_quiet
from crfrnn.cli.printing import say
from crfrnn.cli.usage import UsageError
from crfrnn.files.legend import OPACITY
from crfrnn.files.naming import PALETTES, naming_of
from crfrnn.files.photos import PICTURE_SUFFIXES, suffix_of
from crfrnn.files.places import real_place
from crfrnn.pictures import INSETS, TITLES, comparison
from crfrnn.unary import LARGEST_ID

COMPARE_HELP = """\
Draw a photo with its labels before and after, and close-ups of where borders moved most.

BEFORE and AFTER are label images, masks or scores, in the files that `crfrnn refine` reads; of scores the likeliest
class counts. The legend names the classes that occur.
"""
EXAMPLES = """\
  crfrnn compare photo.jpg scores.npy labels.png -o compared.png --classes voc
  crfrnn compare photo.jpg before.png after.png -o compared.jpg --truth truth.png --titles "θ_β 3,θ_β 10"
"""


def add_compare(commands: Any) -> None:
    """Add the command `compare`."""
    help = "draw a photo with its labels before and after"
    usage = "PHOTO BEFORE AFTER -o OUT [OPTION ...]"
    parser = add_command(commands, "compare", help, COMPARE_HELP, EXAMPLES, usage)
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="the photo")
    parser.add_argument("before", type=Path, metavar="BEFORE", help="its labels, a mask, or scores")
    parser.add_argument("after", type=Path, metavar="AFTER", help="the same, such as what `crfrnn refine` wrote")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="the picture, .png or .jpg")
    parser.add_argument("--truth", type=Path, metavar="FILE", help="the true labels, in a column of their own")
    parser.add_argument("--classes", metavar="CLASSES", help=f"names in the legend: {CLASSES_HELP}")
    parser.add_argument(
        "--palette",
        choices=PALETTES,
        help="voc: the colours of PASCAL VOC, as in label images; clear: bright ones for the classes that occur "
        "(default: %(default)s)",
        default="voc",
    )
    parser.add_argument(
        "--insets", type=int, metavar="N", default=INSETS, help="the most close-ups (default: %(default)s)"
    )
    parser.add_argument(
        "--titles", metavar="A,B", default=",".join(TITLES), help="what to call both (default: %(default)s)"
    )
    parser.add_argument(
        "--input",
        choices=("logits", "probabilities", "labels"),
        help="what arrays are (default: logits; probabilities for arrays of that name)",
    )
    parser.add_argument("--array", metavar="NAME", help=ARRAY_HELP)
    parser.add_argument(
        "--square-scores",
        action="store_true",
        help=SQUARE_HELP,
    )
    add_quiet(parser)
    parser.set_defaults(run=run_compare, parser=parser)


def run_compare(options: argparse.Namespace) -> int:
    """Read, draw and write. Returns the exit status."""
    parser: argparse.ArgumentParser = options.parser
    try:
        titles = _check(options)
    except UsageError as error:
        parser.error(str(error))
    classes = None if options.classes is None else chosen_classes(naming_of, options.classes)
    reading = Reading(options.input, options.array, square=options.square_scores, classes=classes)
    files = [options.before, options.after, *([] if options.truth is None else [options.truth])]
    pairs = [reading.pair(path, [options.photo]) for path in files]
    pairs = _as_class_ids(pairs, classes is not None)
    maps = [_shown(pair, path) for pair, path in zip(pairs, files, strict=True)]
    truth = maps[2] if len(maps) > 2 else None
    picture, changed = comparison(
        pairs[0].image, maps[:2], truth, classes, options.palette, OPACITY, options.insets, titles
    )
    picture.save(options.output)
    height, width = pairs[0].grid
    say(f"{width}×{height}{pairs[0].remark}, {changed:.1%} of pixels changed", options.output)
    return 0


def _check(options: argparse.Namespace) -> list[str]:
    """Raise a UsageError for options that do not fit together. Returns the titles."""
    titles: list[str] = options.titles.split(",")
    if len(titles) != 2:
        raise UsageError(f"--titles are two, separated by a comma, not {options.titles!r}")
    if options.insets < 0:
        raise UsageError(f"--insets must be at least 0, not {options.insets}")
    output: Path = options.output
    if output.is_dir() or suffix_of(output) not in PICTURE_SUFFIXES:
        raise UsageError(f"{output} is no picture: end its name in {', '.join(PICTURE_SUFFIXES)}")
    inputs = [path for path in (options.photo, options.before, options.after, options.truth) if path is not None]
    if real_place(output) in map(real_place, inputs):
        raise UsageError(f"{output} is one of the inputs; name another file to write")
    return titles


def _as_class_ids(pairs: list[Pair], named: bool) -> list[Pair]:
    """The pairs, of which masks are class ids if their levels may be some, and classes have names or other ids."""
    if not named and not any(_has_class_ids(pair) for pair in pairs):
        return pairs
    return [
        replace(pair, scores=pair.mask.levels[np.asarray(pair.scores)], mask=None, remark="")
        if pair.kind == "labels" and pair.mask is not None and pair.mask.foreground <= LARGEST_ID
        else pair
        for pair in pairs
    ]


def _has_class_ids(pair: Pair) -> bool:
    """Whether it has more classes than a background and a foreground."""
    if pair.kind == "labels":
        return pair.mask is None and bool(np.max(pair.scores) > 1)
    return len(pair.scores) > 2


def _shown(pair: Pair, path: Path) -> NDArray[Any]:
    """What a pair holds as labels: truth values of a mask, class ids of others, negative or 255 where void."""
    if len(pair.grid) != 2:
        raise ValueError(f"{path} belongs to a volume {pair.grid}; a picture has two axes: give a slice")
    if pair.kind == "labels":
        labels = np.asarray(pair.scores)
        return labels == 1 if pair.mask is not None else labels
    if pair.least_classes == 2:
        foreground: NDArray[np.bool_] = pair.scores[0] > (0.5 if pair.kind == "probabilities" else 0)
        return foreground
    ids: NDArray[np.int64] = pair.scores.argmax(axis=0)
    return ids
