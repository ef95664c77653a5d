"""Every field of `CRFParameters` as an option of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray

from crfrnn.cli.usage import UsageError
from crfrnn.crf import CRF, MeanField
from crfrnn.files.parameter_files import load_parameters
from crfrnn.files.photos import read_array
from crfrnn.files.places import Place, fetched
from crfrnn.parameters import DEFAULT_PRESET, PRESETS, CRFParameters, preset, with_values

if TYPE_CHECKING:
    from crfrnn.models import Model

Classes = TypeVar("Classes")

CONTRAST = "contrast"
"""The word for a θ_β that is measured on each image."""

SQUARE_HELP = "smaller scores cover a square with the photo at its top left, as from a network that sees padded photos"
ARRAY_HELP = "the array of a file of several (default: the one named like scores, or the first)"
CLASSES_HELP = "voc, msrc21, camvid, or a text file with one class name on each line, or a .json file of names, or ids"
PARAMETERS_HELP = "a parameters file, such as `crfrnn tune` writes"
PRESET_PURPOSES = {
    "photos": "logits or probabilities of a network for photos; the default, which gained on both data sets tried",
    "crfrnn": "what a CRF-RNN starts to learn from, as published",
    "deeplab": "probabilities of a network for photos, as DeepLab v1 and v2 were refined",
    "stego": "the same numbers as deeplab, in unsupervised segmentation",
    "maskcut": "a rough mask of one object",
    "irn": "labels that are right with probability 0.7, as from pseudo-labels",
    "seam": "activation maps of weakly supervised networks",
    "afa": "the same numbers as seam",
    "toco": "activation maps; a weaker spatial kernel than seam",
    "text-mask": "a soft mask from text prompts; sums without normalisation, the strongest pull to edges",
    "pydensecrf": "the example of pydensecrf, 5 iterations",
}
"""What each preset is for."""
COMMON = (
    "theta_alpha",
    "theta_beta",
    "theta_gamma",
    "spatial_weight",
    "bilateral_weight",
    "iterations",
    "image_range",
)
"""The parameters that are changed most."""

HELP = {
    "theta_alpha": "deviation of the bilateral kernel in pixels, or in millimetres where voxels have a size: a number "
    "or x,y[,z]",
    "theta_beta": "deviation of the bilateral kernel in the image's own levels, 0-255 of a photo: a number or one for "
    "each channel",
    "theta_gamma": "deviation of the spatial kernel, like --theta-alpha",
    "spatial_weight": "weight of the spatial kernel: a number, one per class, or an .npy file with a C×C matrix",
    "bilateral_weight": "weight of the bilateral kernel, like --spatial-weight",
    "compatibility": "penalty for neighbouring classes: a number or one per class for a class next to itself, or an "
    ".npy file with a C×C matrix; the preset's Potts model rewards agreement",
    "normalization": "how the filter is normalised: none, before, after or symmetric",
    "iterations": "iterations of the solver",
    "spatial": "how the spatial kernel is computed: grid (exact) or lattice",
    "damping": "share of the last iteration kept, 0 up to 1",
    "neighbour_rounds": "rounds of extra lattice vertices: nearer to the exact filter, several times slower",
    "class_threshold": "leave out a class once its probability is below this at every pixel",
    "tolerance": "how far a marginal may be off in an iteration because of work left out, at least 0 and below 1: 0 "
    f"works everything out, and {MeanField.tolerance:g} is the default",
    "filter": "how the bilateral kernel is computed: lattice, or exact: seconds to minutes an iteration",
    "solver": "mean-field or frank-wolfe",
    "gradient": "of training: unrolled or implicit",
    "regularization": "of frank-wolfe: entropic or euclidean",
    "strength": "of frank-wolfe's regulariser: the smaller, the surer are the probabilities",
    "step": "of frank-wolfe: line-search or open-loop",
    "image_range": "low,high of the image's levels, such as 0,1 or 0,65535: --theta-beta is then in 255ths of it",
}


def chosen_classes(read: Callable[[str], Classes], given: str) -> Classes:
    """What --classes means, read by `class_set` or `naming_of`. Raises a ValueError that names the option."""
    try:
        return read(given)
    except ValueError as error:
        raise ValueError(f"--classes {given}: {error}") from error


def add_parameter_options(parser: argparse.ArgumentParser) -> None:
    """Add `--preset`, `--parameters` and one option for each parameter."""
    add_common_parameters(parser)
    add_rarer_parameters(parser)


def add_common_parameters(parser: argparse.ArgumentParser, contrast: bool = False) -> None:
    """Add `--preset`, `--parameters` and the options for the parameters in `COMMON`.

    Args:
        contrast: Whether to accept `--theta-beta contrast`, which `chosen_parameters` leaves to the caller.
    """
    presets = "\n".join(f"  {name:11} {purpose}" for name, purpose in PRESET_PURPOSES.items())
    group = parser.add_argument_group(
        "parameters of the CRF",
        "Each option replaces one value of the preset, or of the parameters file. With a list of kernels it takes only "
        "the options of the file's solver, --compatibility and --image-range. Presets, and what they are for:\n"
        f"{presets}",
    )
    source = group.add_mutually_exclusive_group()
    preset_help = f"one of the list above (default: {DEFAULT_PRESET})"
    source.add_argument("--preset", choices=tuple(PRESETS), metavar="NAME", help=preset_help)
    source.add_argument("--parameters", type=Path, metavar="FILE", help=PARAMETERS_HELP)
    _add_fields(group, [field for field in fields(CRFParameters) if field.name in COMMON], contrast)


def add_rarer_parameters(parser: argparse.ArgumentParser) -> None:
    """Add the options for all other parameters."""
    group = parser.add_argument_group("more parameters of the CRF")
    _add_fields(group, [field for field in fields(CRFParameters) if field.name not in COMMON])


def _add_fields(group: argparse._ActionsContainer, chosen: list[Field[Any]], contrast: bool = False) -> None:
    for field in chosen:
        parse: Callable[[str], object] = numbers
        if isinstance(field.default, int | str):
            parse = type(field.default)
        text = HELP[field.name]
        if contrast and field.name == "theta_beta":
            parse, text = numbers_or_contrast, f"{text}; {CONTRAST}: what the image's own contrast suggests"
        group.add_argument("--" + field.name.replace("_", "-"), type=parse, metavar="VALUE", default=None, help=text)


def chosen_parameters(options: argparse.Namespace) -> CRFParameters | CRF:
    """The preset or the parameters file, with the given values in place of its own.

    Raises:
        UsageError: if a given value is wrong.
        ValueError: if the file is wrong.
    """
    start = (
        preset(options.preset or DEFAULT_PRESET) if options.parameters is None else load_parameters(options.parameters)
    )
    given = {field.name: getattr(options, field.name) for field in fields(CRFParameters)}
    chosen = {name: value for name, value in given.items() if value is not None and not is_contrast(value)}
    try:
        return with_values(start, chosen, lambda name: "--" + name.replace("_", "-"))
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error


def add_parameters_file(parser: argparse._ActionsContainer) -> None:
    """Add `--parameters` to a command that runs a model."""
    parser.add_argument(
        "--parameters", type=Path, metavar="FILE", help=f"{PARAMETERS_HELP}: used instead of the CRF of the model"
    )


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add `--device`."""
    parser.add_argument(
        "--device", metavar="NAME", help="compute on this device of PyTorch, such as cuda (default: the CPU)"
    )


def chosen_model(
    file: Place | None, parameters: Path | None, device: str | None = None, iterations: int | None = None
) -> Model:
    """The model of a file, or that of the package.

    Args:
        parameters: A file with the CRF to use instead of its own.
        device: The device to move it to.
        iterations: Of the CRF; None leaves them.
    Raises: ValueError: if a file is wrong, there is no such device, or the model has no CRF to iterate.
    """
    from crfrnn.models import load_model, with_crf
    from crfrnn.torch.arrays import device_named

    with fetched(*([] if file is None else [file])) as paths:
        model = load_model(paths[0] if paths else None)
    if parameters is not None:
        given = load_parameters(parameters)
        try:
            model = with_crf(model, given)
        except ValueError as error:
            raise ValueError(f"{parameters}: {error}") from error
    if iterations is not None:
        if model.segmenter.crf is None:
            raise ValueError(f"--iterations {iterations}, but the model has no CRF; --parameters gives it one")
        model.segmenter.crf.num_iterations = iterations
    if device is not None:
        model.segmenter.to(device_named(device))
    return model


def is_contrast(value: object) -> bool:
    """Whether this is the word for a θ_β measured on each image."""
    return isinstance(value, str) and value == CONTRAST


def numbers_or_contrast(text: str) -> str | float | list[float] | NDArray[Any]:
    """What `numbers` reads, or the word for a θ_β measured on each image."""
    return text if is_contrast(text) else numbers(text)


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
            f"{text!r} is no number, list of numbers separated by commas, or .npy file"
        ) from None
    return values if len(values) > 1 else values[0]
