"""`crfrnn convert`: converts published weights to model files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crfrnn.cli.parameter_options import chosen_classes
from crfrnn.cli.parser import add_command, add_quiet
from crfrnn.cli.printing import say
from crfrnn.files.places import real_place

if TYPE_CHECKING:
    from crfrnn.files.classes import ClassSet
    from crfrnn.models import Segmenter

CONVERT_HELP = """\
Convert published weights to a model file for `crfrnn train`, `evaluate` and `segment`.

SOURCE is crfrnn_keras_model.h5 or crfasrnn_weights.pth, the weights of FCN-8s with CRF-RNN that were published with
the paper, or "imagenet": FcnLite with the ImageNet weights of its encoder and an untrained decoder, to train from.
"""
EXAMPLES = """\
  crfrnn convert crfasrnn_weights.pth -o model.safetensors
  crfrnn convert imagenet --classes msrc21 -o start.safetensors
"""
IMAGENET = "imagenet"
OFFICIAL_CLASSES = 21


def add_convert(commands: Any) -> None:
    """Add the command `convert`."""
    parser = add_command(commands, "convert", "convert published weights to a model file", CONVERT_HELP, EXAMPLES)
    parser.add_argument("source", metavar="SOURCE", help=f'the file with the weights, or "{IMAGENET}"')
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="model file to write")
    parser.add_argument(
        "--classes",
        metavar="CLASSES",
        default="voc",
        help="voc, msrc21, camvid, a number of classes, or a text file with one class name on each line "
        "(default: %(default)s, the classes of the official weights)",
    )
    add_quiet(parser)
    parser.set_defaults(run=run_convert, parser=parser)


def run_convert(options: argparse.Namespace) -> int:
    """Convert, and say what was written. Returns the exit status."""
    from crfrnn.files.classes import class_set

    parser: argparse.ArgumentParser = options.parser
    output: Path = options.output
    if output.is_dir():
        parser.error(f"{output} is a folder; name a file in it, such as {output / 'model.safetensors'}")
    if real_place(output) == real_place(Path(options.source)):
        parser.error(f"{output} is the source; name another file to write")
    classes = chosen_classes(class_set, options.classes)
    if options.source == IMAGENET:
        segmenter, origin = imagenet_segmenter(classes), "EfficientNet-Lite0 trained on ImageNet; decoder untrained"
    else:
        segmenter, origin = official_segmenter(Path(options.source), classes), Path(options.source).name

    from crfrnn.models import save_model

    save_model(output, segmenter, classes, notes={"weights": origin})
    say(f"{type(segmenter.network).__name__}, {classes.num_classes} classes, from {origin}", output)
    return 0


def imagenet_segmenter(classes: ClassSet) -> Segmenter:
    """FcnLite with the ImageNet weights of its encoder, without a CRF; the same weights at every call."""
    import torch

    from crfrnn.models import FcnLite, Segmenter

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = FcnLite(classes.num_classes)
    network.load_imagenet()
    return Segmenter(network, None)


def official_segmenter(path: Path, classes: ClassSet) -> Segmenter:
    """FCN-8s with CRF-RNN as published: full weight matrices, both kernels on the lattice, 10 iterations."""
    if classes.num_classes != OFFICIAL_CLASSES:
        raise ValueError(
            f"the official weights are for the {OFFICIAL_CLASSES} classes of PASCAL VOC, not {classes.num_classes}; "
            "leave out --classes"
        )
    from crfrnn.models import Fcn8s, Segmenter, load_official
    from crfrnn.torch import CrfRnn

    crf = CrfRnn(OFFICIAL_CLASSES, 10, theta_alpha=160.0, theta_beta=3.0, theta_gamma=3.0, spatial="lattice")
    segmenter = Segmenter(Fcn8s(OFFICIAL_CLASSES), crf)
    load_official(segmenter, path)
    return segmenter
