"""Arguments in, exit status out: 0 done, 1 something failed, 2 the command was not understood."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import crfrnn
from crfrnn.cli.accuracy import add_accuracy
from crfrnn.cli.convert import add_convert
from crfrnn.cli.evaluate import add_evaluate
from crfrnn.cli.folder import refine_folder
from crfrnn.cli.info import info_lines
from crfrnn.cli.outputs import FORMAT_SUFFIXES
from crfrnn.cli.parameter_options import add_parameter_options, chosen_parameters, is_contrast
from crfrnn.cli.refine import Refinement, Tiling, refine_file
from crfrnn.cli.segment import add_segment
from crfrnn.cli.train import add_train
from crfrnn.cli.tune import add_tune
from crfrnn.cli.usage import UsageError, byte_count, distances
from crfrnn.demo import run_demo
from crfrnn.files.parameter_files import crf_of
from crfrnn.upsampling import Method

REFINE_HELP = """\
Refine class scores with the photo or the volume they belong to.

SCORES is one of these: an .npy or .npz file of class scores (C, H, W) or (C, D, H, W), where a single class is the
foreground; a label image of class ids; or a NIfTI file of labels, of foreground scores, or of scores (X, Y, Z, C).
Scores smaller than a photo are stretched over the whole of it (--upsampling). IMAGE is one of these: a photo, with its
pixels as stored (an EXIF orientation is not applied); a NIfTI volume; a TIFF of many pages, many channels or more than
8 bits; or an .npy file (H, W, K). SCORES and IMAGE may also be two folders: scores and images with the same name belong
together, results go to the folder OUT, and existing results are not computed again.

In a NIfTI file voxels have a size, and θ_α and θ_γ are in MILLIMETRES, not in pixels.
"""


class Parser(argparse.ArgumentParser):
    """argparse, with errors on one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; `arguments` are those of the process if not given. Returns the exit status."""
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
    refine.add_argument("scores", type=Path, metavar="SCORES", help="scores, labels, or a folder of them")
    refine.add_argument("image", type=Path, metavar="IMAGE", help="the photo or volume, or a folder of them")
    refine.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="file or folder to write")
    refine.add_argument(
        "--format",
        choices=tuple(FORMAT_SUFFIXES),
        help="labels: indexed .png with the colours of PASCAL VOC, .nii.gz with the geometry of the image, .tif or "
        ".npy; overlay: the photo tinted by class, .jpg or .png; npy, npz: probabilities (C, H, W) as float32; nii: "
        "probabilities (X, Y, Z, C). If not given, OUT's name decides; labels for folders",
    )
    refine.add_argument(
        "--input",
        choices=("logits", "probabilities", "labels"),
        help="what SCORES are; logits when not given, labels for an image and for volumes of whole numbers",
    )
    refine.add_argument(
        "--square-scores",
        action="store_true",
        help="smaller scores cover a square with the photo at its top left, as from a network that sees padded photos",
    )
    refine.add_argument(
        "--upsampling",
        choices=get_args(Method),
        help="how scores smaller than the photo are brought to its size: joint-bilateral follows the photo's edges; "
        "bilinear when not given",
    )
    refine.add_argument("--array", metavar="NAME", help="the array of an .npz file to use; the first when not given")
    refine.add_argument(
        "--num-classes", type=int, metavar="C", help="classes of label input; the largest id + 1 when not given"
    )
    refine.add_argument("--threads", type=int, metavar="T", help="threads; OMP_NUM_THREADS or all cores when not given")
    refine.add_argument(
        "--device", metavar="NAME", help="compute on this device of PyTorch, such as cuda; on the CPU when not given"
    )
    refine.add_argument("--overwrite", action="store_true", help="in a folder, redo what is already there")
    refine.add_argument(
        "--spacing",
        type=distances,
        metavar="VALUE",
        help="distance between neighbouring pixels, a number or x,y[,z], instead of what the file says: theta-alpha "
        "and theta-gamma are in its unit; 1 has them in pixels",
    )
    tiling = refine.add_argument_group(
        "images larger than memory", "With any of these, images are refined tile by tile, from and to .npy or TIFF."
    )
    tiling.add_argument("--tile", type=int, metavar="PIXELS", help="most pixels of a tile along each axis")
    tiling.add_argument("--memory", type=byte_count, metavar="AMOUNT", help="roughly how much to use, such as 4GB")
    tiling.add_argument(
        "--overlap", type=int, metavar="PIXELS", help="margin around each tile; 3 theta-alpha when not given"
    )
    add_parameter_options(refine, contrast=True)
    refine.set_defaults(run=run_refine, parser=refine)

    add_segment(commands)
    add_train(commands)
    add_tune(commands)
    add_evaluate(commands)
    add_accuracy(commands)
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
        tiled = (options.tile, options.overlap, options.memory)
        refinement = Refinement(
            crf_of(chosen_parameters(options)),
            options.input,
            options.array,
            options.num_classes,
            options.threads,
            options.square_scores,
            options.device,
            is_contrast(options.theta_beta),
            options.spacing,
            None if tiled == (None, None, None) else Tiling(*tiled),
            options.upsampling,
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
