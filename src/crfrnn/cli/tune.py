"""`crfrnn tune`: finds the CRF parameters that suit a network's scores, and measures whether the CRF helps at all."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from crfrnn.cli.parameter_options import (
    ARRAY_HELP,
    add_device,
    add_parameter_options,
    chosen_classes,
    chosen_parameters,
)
from crfrnn.cli.parser import add_command, add_quiet
from crfrnn.cli.printing import BAD, DOUBTFUL, GOOD, complain, say, say_table
from crfrnn.cli.usage import UsageError, counted
from crfrnn.files.opening import file_text
from crfrnn.files.parameter_files import SUFFIX, save_parameters, short_form
from crfrnn.files.places import real_place
from crfrnn.interrupts import telling

TUNE_HELP = """\
Search the parameters of a CRF on labelled photos that have a network's scores.

DATA is a folder with images/, labels/ and SPLIT.txt, or one laid out like PASCAL VOC or CamVid. θ and the weights of
both kernels are searched, each from a fifth to five times its value at the start, for the highest mean IoU on one part
of the photos: the mean of that over all pixels and of that near edges. No CRF at all is a candidate, too.
`--method gradient` follows the gradient of a soft mean IoU instead, for 200 steps of one photo each: it has no bounds,
and learns numbers for each class, axis and channel one by one. The gain is then measured on the other part of the
photos. OUT holds the parameters, for `--parameters` of the other commands, and all measurements. Ctrl-C ends either
with the best parameters found so far. OUT.trials keeps what the search tried until it is done: run the same command
again to go on, after Ctrl-C or after the process was killed.
"""
EXAMPLES = """\
  crfrnn tune data/ --scores scores/ -o parameters.json
  crfrnn tune data/ --input probabilities --preset deeplab --trials 100 -o parameters.json
"""


VERDICTS = {"helps": GOOD, "harms": BAD}
"""How findings look; others are in doubt."""


def add_tune(commands: Any) -> None:
    """Add the command `tune`."""
    help = "search the CRF's parameters on photos with scores and labels"
    parser = add_command(commands, "tune", help, TUNE_HELP, EXAMPLES, "DATA -o OUT [OPTION ...]")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the data set")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="parameters file to write")
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="FOLDER",
        help="folder, may be inside DATA, with scores (C, H, W) of each photo in NAME.npy, .npz, .pt, .pth or "
        ".safetensors (default: DATA/scores)",
    )
    parser.add_argument(
        "--input",
        choices=("logits", "probabilities"),
        help="what the scores are (default: logits; probabilities for arrays of that name or called softmax)",
    )
    parser.add_argument("--array", metavar="NAME", help=ARRAY_HELP)
    parser.add_argument(
        "--square-scores",
        action="store_true",
        help="the scores cover a square with the photo at its top left, its longer side filling it",
    )
    parser.add_argument(
        "--classes",
        metavar="CLASSES",
        default="voc",
        help="voc, msrc21, camvid, a number of classes, or a text file with one class name on each line "
        "(default: %(default)s)",
    )
    parser.add_argument("--split", metavar="SPLIT", default="val", help="photos to use (default: %(default)s)")
    parser.add_argument(
        "--holdout", type=float, metavar="SHARE", default=0.5, help="share of them to measure on (default: %(default)s)"
    )
    parser.add_argument(
        "--method",
        choices=("search", "gradient"),
        default="search",
        help="how to find the parameters, by a search or by their gradients (default: %(default)s)",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="sets of parameters to try (default: 40)")
    parser.add_argument(
        "--seed", type=int, metavar="N", default=0, help="seed of split and search (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="T", help="photos at a time (default: OMP_NUM_THREADS, or all cores)"
    )
    add_device(parser)
    add_quiet(parser)
    add_parameter_options(parser)
    parser.set_defaults(run=run_tune, parser=parser)


def run_tune(options: argparse.Namespace) -> int:
    """Tune, print and write. Returns the exit status."""
    parser: argparse.ArgumentParser = options.parser
    output: Path = options.output
    if output.suffix.lower() != SUFFIX:
        parser.error(f"{output} is to hold parameters as JSON; end its name in {SUFFIX}")
    if output.is_dir():
        parser.error(f"{output} is a folder; name a file in it, such as {output / 'parameters.json'}")
    for name, least in (("trials", 1), ("seed", 0), ("threads", 1)):
        number = getattr(options, name)
        if number is not None and number < least:
            parser.error(f"--{name} must be at least {least}, not {number}")
    if options.method != "search" and options.trials is not None:
        parser.error(f"--trials is for --method search, not for --method {options.method}")
    if not 0 < options.holdout < 1:
        parser.error(f"--holdout must be above 0 and below 1, not {options.holdout}")
    try:
        start = short_form(chosen_parameters(options), "the search")
    except UsageError as error:
        parser.error(str(error))
    from crfrnn.data import SegmentationData
    from crfrnn.data.scored import ScoredPhotos
    from crfrnn.files.classes import class_set
    from crfrnn.tuning import TRIALS, tune

    data = SegmentationData(options.data, options.split, chosen_classes(class_set, options.classes))
    folder = options.data / (options.scores or "scores")
    if options.scores is not None and options.scores.is_dir():
        folder = options.scores
    photos = ScoredPhotos(data, folder, input=options.input, array=options.array, square=options.square_scores)
    if photos.seem_square():
        complain(
            "crfrnn tune",
            "warning",
            "the scores are square and the photos are not; if they cover photos padded to a square, give "
            "--square-scores",
        )
    trials = TRIALS if options.trials is None else options.trials
    settings = {"holdout": options.holdout, "seed": options.seed, "threads": options.threads, "device": options.device}
    keep = output.with_name(f"{output.name}.trials")
    with telling(lambda: kept_words(keep, trials)):
        found = tune(photos, start, method=options.method, trials=trials, keep=keep, **settings)
    notes = {
        **found.notes(),
        "data": real_place(options.data).name,
        "split": options.split,
        "scores": real_place(folder).name,
        "input": options.input,
        "square_scores": options.square_scores,
        "holdout": options.holdout,
        "seed": options.seed,
        "method": options.method,
    }
    save_parameters(output, found.parameters, notes)
    for table in found.tables():
        say_table(table)
        say("")
    searched = {"search": counted(found.trials, "trial"), "gradient": f"the best of {counted(found.trials, 'place')}"}
    tried = f"{searched[options.method]} on {counted(found.tuned_on, 'photo')}"
    tried += f", {found.given_up} of them given up early" if found.given_up else ""
    tried += f", {found.continued} of them by an earlier run" if found.continued else ""
    say(tried)
    say(found.verdict(), style=VERDICTS.get(found.finding, DOUBTFUL))
    say(str(output))
    if found.cut_short:
        raise KeyboardInterrupt(f"{output} has the best so far; {kept_words(keep, trials)}")
    return 0


def kept_words(keep: Path, trials: int) -> str:
    """How a search that was interrupted goes on: with what it keeps in its file."""
    try:
        kept = len(file_text(keep).splitlines()) - 1
    except OSError:
        kept = 0
    if kept < 1:
        return "no trial is kept; the same command begins anew"
    return f"{keep} has {kept} of {counted(trials, 'trial')}; the same command goes on with them"
