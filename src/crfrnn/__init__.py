"""Dense conditional random fields: mean-field inference in time linear in the number of pixels.

    probabilities = crfrnn.refine(logits, image)

refines the class scores of a network. A `CRF` names the kernels, the compatibility and the solver; `CRFParameters` is
its short form of two kernels. `mean_field` is the algorithm for any `PairwiseTerm` over any features, and
`PermutohedralLattice` is the Gaussian filter by itself.
"""

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crfrnn.models import attach as attach

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
    "RegionTerm",
    "Regions",
    "Spatial",
    "bilateral_features",
    "bilateral_solver",
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
    "pairwise_terms",
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


_ON_DEMAND = ("compat", "data", "evaluation", "keras", "models", "torch", "training", "tuning")


def __getattr__(name: str) -> Any:
    """`attach`, which needs PyTorch: imported when it is used, and not by `import *`."""
    if name == "attach":
        from crfrnn.models import attach

        return attach
    hint = f"; it is a module of its own: import crfrnn.{name}" if name in _ON_DEMAND else ""
    raise AttributeError(f"module 'crfrnn' has no attribute {name!r}{hint}")


def native_info() -> dict[str, str | int]:
    """What the native core was built with and which instructions it uses here."""
    return _native.info()


def release_memory() -> int:
    """Give back to the system the memory that is kept between calls.

    It is at most an eighth of the machine's memory, and never more than 2 GiB.

    Returns: The number of bytes given back.
    """
    return _native.release_memory()
