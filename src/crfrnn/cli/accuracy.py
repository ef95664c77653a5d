"""`crfrnn accuracy`: how far the approximate filters differ from the exact one, on one photo."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crfrnn.cli.inputs import Reading
from crfrnn.cli.parameter_options import ARRAY_HELP, SQUARE_HELP, add_device, add_parameter_options, chosen_parameters
from crfrnn.cli.parser import add_command, add_quiet
from crfrnn.cli.printing import say, say_table
from crfrnn.cli.usage import UsageError, counted, distances
from crfrnn.files.parameter_files import content_of, crf_of
from crfrnn.files.replacement import replacing
from crfrnn.files.table import Table

ACCURACY_HELP = """\
Compare every way to filter with the exact filter over all pairs of pixels, on one photo or volume.

For each setting it prints the relative error of the bilateral message, the mean and largest change of the probabilities
and the share of labels changed after all iterations, and the time of the whole call. IMAGE and SCORES are the same as
for `crfrnn refine`. The exact filter takes seconds to minutes an iteration for a photo of 500×366, and 16 times as long
at twice its width and height: --longest-side makes the photo smaller.
"""
EXAMPLES = """\
  crfrnn accuracy photo.jpg scores.npy --longest-side 200
  crfrnn accuracy photo.jpg mask.png --preset irn -o accuracy.json
"""


def add_accuracy(commands: Any) -> None:
    """Add the command `accuracy`."""
    help = "what approximate filters change on a photo, against the exact one"
    parser = add_command(commands, "accuracy", help, ACCURACY_HELP, EXAMPLES, "IMAGE SCORES [OPTION ...]")
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the photo or volume")
    parser.add_argument("scores", type=Path, metavar="SCORES", help="its scores, or labels")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write the numbers as JSON")
    parser.add_argument(
        "--longest-side",
        type=int,
        metavar="PIXELS",
        help="reduce a larger photo to this size, and θ_α and θ_γ in proportion (default: its own size)",
    )
    parser.add_argument(
        "--input",
        choices=("logits", "probabilities", "labels"),
        help="what SCORES are (default: logits; labels for an image and for volumes of whole numbers; "
        "probabilities for arrays of that name or called softmax)",
    )
    parser.add_argument("--array", metavar="NAME", help=ARRAY_HELP)
    parser.add_argument(
        "--square-scores",
        action="store_true",
        help=SQUARE_HELP,
    )
    parser.add_argument(
        "--num-classes", type=int, metavar="C", help="classes of label input (default: the largest id + 1)"
    )
    parser.add_argument(
        "--spacing",
        type=distances,
        metavar="VALUE",
        help="distance between neighbouring pixels, a number or x,y[,z], instead of what the file says",
    )
    parser.add_argument("--threads", type=int, metavar="T", help="threads (default: OMP_NUM_THREADS, or all cores)")
    add_device(parser)
    add_quiet(parser)
    add_parameter_options(parser)
    parser.set_defaults(run=run_accuracy, parser=parser)


def run_accuracy(options: argparse.Namespace) -> int:
    """Compare, print and write. Returns the exit status."""
    parser: argparse.ArgumentParser = options.parser
    for option in ("longest_side", "num_classes", "threads"):
        number = getattr(options, option)
        if number is not None and number < 1:
            parser.error(f"--{option.replace('_', '-')} must be at least 1, not {number}")
    if options.output is not None and options.output.is_dir():
        parser.error(f"{options.output} is a folder; name a file in it, such as {options.output / 'accuracy.json'}")
    from crfrnn.accuracy import filter_accuracy, shrunk

    try:
        parameters = chosen_parameters(options)
    except UsageError as error:
        parser.error(str(error))
    reading = Reading(options.input, options.array, options.num_classes, options.square_scores)
    pair = reading.pair(options.scores, [options.image])
    scores, image, spacing = pair.scores, pair.image, options.spacing
    if spacing is None and pair.geometry is not None:
        spacing = pair.geometry.spacing
    if options.longest_side is not None:
        scores, image, parameters = shrunk(scores, image, parameters, options.longest_side, pair.kind)
    found = filter_accuracy(
        scores,
        image,
        parameters,
        input=pair.kind,
        num_classes=options.num_classes,
        spacing=spacing,
        threads=options.threads,
        device=options.device,
    )
    grid = scores.shape if pair.kind == "labels" else scores.shape[1:]
    size = "×".join(map(str, reversed(grid)))
    iterations = crf_of(parameters).solver.iterations
    say(f"{size}{pair.remark}, {counted(iterations, 'iteration')}, against the exact filter", options.image)
    say_table(
        Table(
            ("", "message error", "mean change", "max change", "labels changed", "seconds"),
            [
                [
                    each.setting,
                    *(f"{number:.2g}" for number in (each.message_error, each.mean_change, each.max_change)),
                    f"{each.labels_changed:.3%}",
                    f"{each.seconds:.3g}",
                ]
                for each in found
            ],
        )
    )
    if options.output is not None:
        content = {
            "image": str(options.image),
            "size": list(reversed(grid)),
            "parameters": content_of(parameters),
            "settings": [asdict(each) for each in found],
        }
        with replacing(options.output) as handle:
            handle.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return 0
