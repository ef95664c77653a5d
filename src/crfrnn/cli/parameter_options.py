"""Every field of `CRFParameters` as an option of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from crfrnn.cli.refine import UsageError
from crfrnn.files import read_array
from crfrnn.parameters import PRESETS, CRFParameters, preset

DEFAULT_PRESET = "crfrnn"

HELP = {
    "theta_alpha": "deviation of the bilateral kernel in pixels: a number or x,y",
    "theta_beta": "deviation of the bilateral kernel in colour levels 0-255: a number or r,g,b",
    "theta_gamma": "deviation of the spatial kernel in pixels: a number or x,y",
    "spatial_weight": "weight of the spatial kernel: a number, one per class, or an .npy file with a C×C matrix",
    "bilateral_weight": "weight of the bilateral kernel, like --spatial-weight",
    "compatibility": "penalty for classes side by side: a number or one per class for a class beside itself, or an "
    ".npy file with a C×C matrix; the preset's Potts model rewards agreement",
    "normalization": "how the filter is normalised: none, before, after or symmetric",
    "iterations": "mean-field iterations",
    "spatial": "how the spatial kernel is computed: grid (exact) or lattice",
    "damping": "share of the last iteration kept, 0 up to 1",
    "neighbour_rounds": "rounds of extra lattice vertices: nearer to the exact filter, several times slower",
    "class_threshold": "leave out classes as soon as their probability is nowhere at least this",
}


def add_parameter_options(parser: argparse.ArgumentParser) -> None:
    """Add `--preset` and one option for each parameter."""
    group = parser.add_argument_group("parameters of the CRF", "Each option replaces one value of the preset.")
    group.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default=DEFAULT_PRESET,
        metavar="NAME",
        help="%(choices)s; %(default)s when not given",
    )
    for field in fields(CRFParameters):
        parse: Callable[[str], object] = numbers
        if isinstance(field.default, int | str):
            parse = type(field.default)
        group.add_argument(
            "--" + field.name.replace("_", "-"), type=parse, metavar="VALUE", default=None, help=HELP[field.name]
        )


def chosen_parameters(options: argparse.Namespace) -> CRFParameters:
    """The preset with the values given instead of its own."""
    given = {field.name: getattr(options, field.name) for field in fields(CRFParameters)}
    try:
        return replace(preset(options.preset), **{name: value for name, value in given.items() if value is not None})
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error


def numbers(text: str) -> float | list[float] | NDArray[Any]:
    """A number, several separated by commas, or an array from an .npy file."""
    if text.endswith(".npy"):
        try:
            return read_array(Path(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number, no numbers separated by commas and no .npy file"
        ) from None
    return values if len(values) > 1 else values[0]
