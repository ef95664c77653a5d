"""`crfrnn evaluate`: how good a model is on labelled photos, with and without its CRF."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crfrnn.cli.engines import add_ray, chosen_engine
from crfrnn.cli.failures import described
from crfrnn.cli.parameter_options import add_device, add_parameters_file, chosen_classes, chosen_model
from crfrnn.cli.parser import add_command, add_quiet
from crfrnn.cli.printing import complain, say, say_table
from crfrnn.cli.usage import UsageError, counted, given_place
from crfrnn.files.photos import write_picture
from crfrnn.files.places import Place, delivered, is_folder, is_there
from crfrnn.files.replacement import replacing
from crfrnn.interrupts import telling

if TYPE_CHECKING:
    from crfrnn.models import Segmenter

EVALUATE_HELP = """\
Measure a model on labelled photos: the network alone and with its CRF, side by side.

MODEL is a file that `crfrnn train` or `crfrnn convert` wrote, or "builtin" for the package's own model. DATA is a
folder with images/, labels/ and SPLIT.txt, or one laid out like PASCAL VOC or CamVid. Prints a table in per cent, and
writes evaluation.json, evaluation.txt and contact_sheet.png, the photos segmented best and worst, to DIR. A photo that
fails does not stop the others; it is not among those that are measured.

All of them may lie anywhere that fsspec reaches, such as s3://bucket/data, with the package for it installed. Many
photos can be measured by a Ray cluster (--ray).
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
    parser.add_argument("model", type=given_place, metavar="MODEL", help=f'a model file, or "{BUILT_IN}"')
    parser.add_argument("data", type=given_place, metavar="DATA", help="folder of the data set")
    parser.add_argument("-o", "--output", type=given_place, metavar="DIR", required=True, help="folder to write to")
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
    add_ray(parser)
    add_quiet(parser)
    parser.set_defaults(run=run_evaluate, parser=parser)


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate, print and write. Returns the exit status."""
    parser: argparse.ArgumentParser = options.parser
    if options.edge_radius < 1:
        parser.error(f"--edge-radius must be at least 1, not {options.edge_radius}")
    if options.iterations is not None and options.iterations < 0:
        parser.error(f"--iterations must be at least 0, not {options.iterations}")
    if is_there(options.output) and not is_folder(options.output):
        parser.error(f"{options.output} is a file; name a folder to write to")
    from crfrnn.data import SegmentationData
    from crfrnn.evaluation import contact_sheet
    from crfrnn.evaluation.evaluate import MeasurePhotos, measured
    from crfrnn.files.classes import class_set

    try:
        engine = chosen_engine(options)
    except UsageError as error:
        parser.error(str(error))
    file = None if str(options.model) == BUILT_IN else options.model
    # A cluster may have the device of its workers where this machine has none.
    load = Loaded(file, options.parameters, options.device, here=options.ray is None)
    model = load.model
    classes = model.classes if options.classes is None else chosen_classes(class_set, options.classes)
    if classes.num_classes != model.classes.num_classes:
        raise ValueError(
            f"--classes {options.classes} has {classes.num_classes} classes, but {options.model} tells "
            f"{model.classes.num_classes} apart"
        )
    data = SegmentationData(options.data, options.split, classes)
    failures: dict[int, Exception] = {}
    job = MeasurePhotos(load, data.reader(), classes, options.iterations, options.edge_radius, options.device)
    job.inputs = (options.data,)
    with telling(lambda: "nothing is written before all photos are measured; the same command begins anew"):
        found = measured(job, data.pairs, engine, failures)
    table = found.table()
    output: Place = options.output
    with delivered(output / "evaluation.json") as path:
        found.write_json(path)
    with delivered(output / "evaluation.txt") as path, replacing(path) as handle:
        handle.write(f"{table}\n".encode())
    with delivered(output / "contact_sheet.png") as path:
        write_picture(path, contact_sheet(found))
    for remark in engine.remarks:
        complain("crfrnn evaluate", "warning", remark)
    for number in sorted(failures):
        complain("failed", described(failures[number], [data.pairs[number].photo]))
    say_table(table)
    left_out = f" of {len(data)}" if failures else ""
    photos = f"{counted(len(found.photos), 'photo')}{left_out}"
    say(f"{photos}; evaluation.json, evaluation.txt and contact_sheet.png", output)
    return 1 if failures else 0


class Loaded:
    """A model that each process loads once; see `chosen_model` for the arguments.

    Args:
        here: Whether this process computes with it too.
    """

    def __init__(self, file: Place | None, parameters: Path | None, device: str | None, *, here: bool = True) -> None:
        self.given = file, parameters, device
        self.model = chosen_model(file, parameters, device if here else None)

    def __call__(self) -> Segmenter:
        return self.model.segmenter

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return Loaded, self.given
