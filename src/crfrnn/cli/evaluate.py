"""`crfrnn evaluate`: how good a model is on labelled photos, with and without its CRF."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from crfrnn.cli.parameter_options import add_device, add_parameters_file, chosen_classes, chosen_model
from crfrnn.cli.parser import add_command, add_quiet
from crfrnn.cli.printing import say, say_table
from crfrnn.cli.usage import counted
from crfrnn.files.photos import write_picture
from crfrnn.files.replacement import replacing
from crfrnn.interrupts import telling

EVALUATE_HELP = """\
Measure a model on labelled photos: the network alone and with its CRF, side by side.

MODEL is a file that `crfrnn train` or `crfrnn convert` wrote, or "builtin" for the package's own model. DATA is a
folder with images/, labels/ and SPLIT.txt, or one laid out like PASCAL VOC or CamVid. Prints a table in per cent, and
writes evaluation.json, evaluation.txt and contact_sheet.png, the photos segmented best and worst, to DIR.
"""
EXAMPLES = """\
  crfrnn evaluate builtin data/ -o evaluation/
  crfrnn evaluate run/model.safetensors data/ --split test -o evaluation/ --parameters parameters.json
"""
BUILT_IN = "builtin"


def add_evaluate(commands: Any) -> None:
    """Add the command `evaluate`."""
    help = "measure a model on labelled photos, with and without its CRF"
    parser = add_command(commands, "evaluate", help, EVALUATE_HELP, EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help=f'a model file, or "{BUILT_IN}"')
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the data set")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="folder to write to")
    parser.add_argument("--split", metavar="SPLIT", default="val", help="photos to measure on (default: %(default)s)")
    parser.add_argument(
        "--classes",
        metavar="CLASSES",
        help="voc, msrc21, camvid, or a text file with one class name on each line (default: the model's own)",
    )
    add_parameters_file(parser)
    parser.add_argument(
        "--iterations", type=int, metavar="T", help="mean-field iterations of the CRF (default: its own)"
    )
    parser.add_argument(
        "--edge-radius",
        type=int,
        metavar="R",
        default=5,
        help="mean IoU near edges counts pixels within R pixels of label edges (default: %(default)s)",
    )
    add_device(parser)
    add_quiet(parser)
    parser.set_defaults(run=run_evaluate, parser=parser)


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate, print and write. Returns the exit status."""
    parser: argparse.ArgumentParser = options.parser
    if options.edge_radius < 1:
        parser.error(f"--edge-radius must be at least 1, not {options.edge_radius}")
    if options.iterations is not None and options.iterations < 0:
        parser.error(f"--iterations must be at least 0, not {options.iterations}")
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"{options.output} is a file; name a folder to write to")
    from crfrnn.data import SegmentationData
    from crfrnn.evaluation import contact_sheet, evaluate
    from crfrnn.files.classes import class_set

    path = None if options.model == BUILT_IN else Path(options.model)
    model = chosen_model(path, options.parameters, options.device)
    classes = model.classes if options.classes is None else chosen_classes(class_set, options.classes)
    if classes.num_classes != model.classes.num_classes:
        raise ValueError(
            f"--classes {options.classes} has {classes.num_classes} classes, but {options.model} tells "
            f"{model.classes.num_classes} apart"
        )
    data = SegmentationData(options.data, options.split, classes)
    with telling(lambda: "nothing is written before all photos are measured; the same command begins anew"):
        found = evaluate(model, data, classes, iterations=options.iterations, edge_radius=options.edge_radius)
    table = found.table()
    output: Path = options.output
    found.write_json(output / "evaluation.json")
    with replacing(output / "evaluation.txt") as handle:
        handle.write(f"{table}\n".encode())
    write_picture(output / "contact_sheet.png", contact_sheet(found))
    say_table(table)
    say(f"{counted(len(found.photos), 'photo')}; evaluation.json, evaluation.txt and contact_sheet.png", output)
    return 0
