"""Arguments in, exit status out: 0 done, 1 something failed, 2 the command was not understood."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import crfrnn
from crfrnn.cli.convert import add_convert
from crfrnn.cli.evaluate import add_evaluate
from crfrnn.cli.info import info_lines
from crfrnn.cli.parameter_options import add_parameter_options, chosen_parameters
from crfrnn.cli.refine import FORMAT_SUFFIXES, Refinement, UsageError, refine_file, refine_folder
from crfrnn.cli.segment import add_segment
from crfrnn.cli.train import add_train
from crfrnn.demo import run_demo

REFINE_HELP = """\
Refine class scores with the photo they belong to.

SCORES is an .npy or .npz file of class scores (C, H, W), or a label image of class ids. Scores smaller than the photo
are stretched over the whole of it, bilinearly. IMAGE is the photo, its pixels as stored: an EXIF orientation is not
applied. Two folders instead of two files: scores and photos
with the same name belong together, results go to the folder OUT, and what is already there is not done again.
"""


class Parser(argparse.ArgumentParser):
    """argparse, with one line for an error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; `arguments` are those of the process when not given. Returns the exit status."""
    parser = command_parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except (ValueError, TypeError, OSError, MemoryError, ImportError) as error:
        print(f"crfrnn {options.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"crfrnn {options.command}: interrupted", file=sys.stderr)
        return 130
    return status


def command_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="crfrnn", description="Dense conditional random fields on images.")
    parser.add_argument("--version", action="version", version=f"crfrnn {crfrnn.__version__}")
    commands: Any = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    refine = commands.add_parser(
        "refine",
        help="refine class scores with the photo they belong to",
        description=REFINE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    refine.add_argument("scores", type=Path, metavar="SCORES", help="scores, a label image, or a folder of them")
    refine.add_argument("image", type=Path, metavar="IMAGE", help="the photo, or a folder of photos")
    refine.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="file or folder to write")
    refine.add_argument(
        "--format",
        choices=tuple(FORMAT_SUFFIXES),
        help="labels: indexed .png with the colours of PASCAL VOC; overlay: the photo tinted by class, .jpg or .png; "
        "npy, npz: probabilities (C, H, W) as float32. By the name of OUT when not given, labels for folders",
    )
    refine.add_argument(
        "--input",
        choices=("logits", "probabilities", "labels"),
        help="what SCORES are; logits when not given, labels for an image",
    )
    refine.add_argument("--array", metavar="NAME", help="the array of an .npz file to use; the first when not given")
    refine.add_argument(
        "--num-classes", type=int, metavar="C", help="classes of label input; the largest id + 1 when not given"
    )
    refine.add_argument("--threads", type=int, metavar="T", help="threads; OMP_NUM_THREADS or all cores when not given")
    refine.add_argument("--overwrite", action="store_true", help="in a folder, redo what is already there")
    add_parameter_options(refine)
    refine.set_defaults(run=run_refine, parser=refine)

    add_segment(commands)
    add_train(commands)
    add_evaluate(commands)
    add_convert(commands)

    info = commands.add_parser("info", help="print versions, compiler, SIMD path and threads")
    info.set_defaults(run=run_info)

    demo = commands.add_parser("demo", help="segment three photos that come with the package and draw one picture")
    demo.add_argument("-o", "--output", type=Path, metavar="OUT", default=Path("out/demo.png"), help="%(default)s")
    demo.set_defaults(run=lambda options: run_demo(options.output))
    return parser


def run_refine(options: argparse.Namespace) -> int:
    parser: Parser = options.parser
    scores, photo, output = options.scores, options.image, options.output
    try:
        if scores.is_dir() != photo.is_dir():
            raise UsageError("SCORES and IMAGE must both be files or both be folders")
        refinement = Refinement(
            chosen_parameters(options), options.input, options.array, options.num_classes, options.threads
        )
        if scores.is_dir():
            return refine_folder(refinement, scores, photo, output, options.format, options.overwrite)
        return refine_file(refinement, scores, photo, output, options.format)
    except UsageError as error:
        parser.error(str(error))


def run_info(options: argparse.Namespace) -> int:
    for line in info_lines():
        print(line)
    return 0
