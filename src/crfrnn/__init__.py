"""Dense conditional random fields: mean-field inference in time linear in the number of pixels.

    probabilities = crfrnn.refine(logits, image)

refines the class scores of a network. A `CRF` names the kernels, the compatibility and the solver; `CRFParameters` is
its short form of two kernels. `mean_field` is the algorithm for any `PairwiseTerm` over any features, and
`PermutohedralLattice` is the Gaussian filter by itself. `overlay` and `compare` draw labels on photos.

What needs more than NumPy and Pillow, or is not always needed, is imported when it is used: sub-packages such as
`crfrnn.torch`, and the pictures.
"""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crfrnn import compat as compat
    from crfrnn import data as data
    from crfrnn import evaluation as evaluation
    from crfrnn import keras as keras
    from crfrnn import models as models
    from crfrnn import torch as torch
    from crfrnn import training as training
    from crfrnn import tuning as tuning
    from crfrnn.files.picture import Picture as Picture
    from crfrnn.inference.plots import plot_trace as plot_trace
    from crfrnn.models import attach as attach
    from crfrnn.pictures import compare as compare
    from crfrnn.pictures import overlay as overlay

from crfrnn import interrupts as _interrupts  # first of all: importing the rest takes a while  # noqa: F401

try:
    from crfrnn import _native
except ImportError as error:
    raise ImportError(
        "crfrnn's native module does not load. In a source tree build it with `pip install .` (a C++20 compiler is "
        f"all it needs); an installed package was built for another Python or system: reinstall it. ({error})"
    ) from error

from crfrnn.bilateral_solver import bilateral_solver
from crfrnn.contrast import contrast_theta_beta
from crfrnn.crf import CRF, Bilateral, Exact, FrankWolfe, Given, Grid, Kernel, Lattice, MeanField, Regions, Spatial
from crfrnn.extras import usable
from crfrnn.files.parameter_files import load_parameters, save_parameters
from crfrnn.inference.activity import Activity
from crfrnn.inference.adjoint import ConvergenceWarning
from crfrnn.inference.energy import energy, frank_wolfe_trace, kl_divergence, mean_field_trace, relaxed_energy
from crfrnn.inference.meanfield import (
    MeanFieldGradients,
    mean_field,
    mean_field_vjp,
    mean_field_with_marginals,
)
from crfrnn.inference.regions import RegionTerm
from crfrnn.inference.terms import PairwiseTerm, pairwise_terms
from crfrnn.kernels.exact import ExactGaussian
from crfrnn.kernels.features import bilateral_features, spatial_features
from crfrnn.kernels.grid import GridGaussian
from crfrnn.kernels.lattice import PermutohedralLattice
from crfrnn.parameters import PRESETS, CRFParameters, preset
from crfrnn.plausibility import InputWarning
from crfrnn.refine import refine
from crfrnn.threads import default_threads
from crfrnn.tiles import refine_tiled
from crfrnn.unary import unary_from_labels, unary_from_probabilities
from crfrnn.upsampling import upsample

__all__ = [
    "CRF",
    "PRESETS",
    "Activity",
    "Bilateral",
    "CRFParameters",
    "ConvergenceWarning",
    "Exact",
    "ExactGaussian",
    "FrankWolfe",
    "Given",
    "Grid",
    "GridGaussian",
    "InputWarning",
    "Kernel",
    "Lattice",
    "MeanField",
    "MeanFieldGradients",
    "PairwiseTerm",
    "PermutohedralLattice",
    "Picture",
    "RegionTerm",
    "Regions",
    "Spatial",
    "bilateral_features",
    "bilateral_solver",
    "compare",
    "contrast_theta_beta",
    "default_threads",
    "energy",
    "frank_wolfe_trace",
    "kl_divergence",
    "load_parameters",
    "mean_field",
    "mean_field_trace",
    "mean_field_vjp",
    "mean_field_with_marginals",
    "native_info",
    "overlay",
    "pairwise_terms",
    "plot_trace",
    "preset",
    "refine",
    "refine_tiled",
    "relaxed_energy",
    "release_memory",
    "save_parameters",
    "spatial_features",
    "unary_from_labels",
    "unary_from_probabilities",
    "upsample",
]

try:
    __version__ = metadata.version("crfrnn")
except metadata.PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"


_SUB_PACKAGES = {
    "cluster": ("ray",),
    "compat": (),
    "data": (),
    "evaluation": ("torch", "torchmetrics"),
    "keras": ("keras",),
    "models": ("torch", "safetensors"),
    "torch": ("torch",),
    "training": (),
    "tuning": ("optuna", "torch", "torchmetrics"),
}
"""Each with the packages without which it is not imported."""
_SOURCES = {
    "Picture": "crfrnn.files.picture",
    "attach": "crfrnn.models",
    "compare": "crfrnn.pictures",
    "overlay": "crfrnn.pictures",
    "plot_trace": "crfrnn.inference.plots",
}


def __getattr__(name: str) -> Any:
    """What is imported when it is used. An ImportError names the extra to install if one is missing."""
    if name in _SUB_PACKAGES:
        return importlib.import_module(f"crfrnn.{name}")
    if name in _SOURCES:
        globals()[name] = found = getattr(importlib.import_module(_SOURCES[name]), name)
        return found
    raise AttributeError(f"module 'crfrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What users type: no modules of the inside, and nothing whose extra is missing, so that `help(crfrnn)` works.

    `import *` leaves out what would import a framework.
    """
    special = [name for name in globals() if name.startswith("__")]
    there = usable(_SUB_PACKAGES)
    sources = [name for name, source in _SOURCES.items() if name in __all__ or source.split(".")[1] in there]
    return sorted({*__all__, *there, *sources, *special})


def native_info() -> dict[str, str | int]:
    """What the native core was built with and which instructions it uses here."""
    return _native.info()


def release_memory() -> int:
    """Give back to the system the memory that is kept between calls.

    It is at most an eighth of the machine's memory, and never more than 2 GiB.

    Returns: The number of bytes given back.
    """
    return _native.release_memory()
