"""The CRF of a model from parameters, such as those of a parameters file."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.arrays import check_classes, class_weights
from crfrnn.models.segmenter import Segmenter
from crfrnn.models.store import KINDS, Model
from crfrnn.parameter_files import require_defaults
from crfrnn.parameters import CRFParameters
from crfrnn.torch import CrfRnn

CRF_FIELDS = (
    "theta_alpha",
    "theta_beta",
    "theta_gamma",
    "spatial_weight",
    "bilateral_weight",
    "compatibility",
    "normalization",
    "iterations",
    "spatial",
    "damping",
    "filter",
)
"""The fields of `CRFParameters` that a `CrfRnn` has."""


def with_crf(model: Model, parameters: CRFParameters) -> Model:
    """The same network with a CRF of these parameters instead of its own, or where it has none.

    Raises: ValueError: as `crf_of` does.
    """
    segmenter = model.segmenter
    crf = crf_of(parameters, model.classes.num_classes)
    mean, std = (None if levels is None else levels.tolist() for levels in (segmenter.mean, segmenter.std))
    return replace(model, segmenter=Segmenter(segmenter.network, crf, mean=mean, std=std).eval())


def crf_of(parameters: CRFParameters, num_classes: int) -> CrfRnn:
    """A CRF-RNN with these parameters; its weights are scalar, per class or full as far as these are.

    Raises: ValueError: if weights are for another number of classes, or a field is set that a `CrfRnn` does not have.
    """
    require_defaults(parameters, CRF_FIELDS, "the CRF of a model")
    compatibility = -1.0 if parameters.compatibility is None else parameters.compatibility
    given = {
        name: class_weights(value, name)
        for name, value in (
            ("spatial_weight", parameters.spatial_weight),
            ("bilateral_weight", parameters.bilateral_weight),
            ("compatibility", compatibility),
        )
    }
    for name, weights in given.items():
        check_classes(weights, num_classes, name)
    axes = max(given["spatial_weight"].ndim, given["bilateral_weight"].ndim)
    crf = CrfRnn(
        num_classes,
        parameters.iterations,
        parameters.theta_alpha,
        parameters.theta_beta,
        parameters.theta_gamma,
        normalization=parameters.normalization,
        spatial=parameters.spatial,
        weights=KINDS[axes],
        compatibility=KINDS[given["compatibility"].ndim],
        damping=parameters.damping,
        filter=parameters.filter,
    )
    with torch.no_grad():
        crf.spatial_ker_weights.copy_(_with_axes(given["spatial_weight"], axes, num_classes))
        crf.bilateral_ker_weights.copy_(_with_axes(given["bilateral_weight"], axes, num_classes))
        crf.compatibility_matrix.copy_(torch.from_numpy(given["compatibility"]))
    return crf


def _with_axes(weights: NDArray[np.float64], axes: int, num_classes: int) -> Tensor:
    """A number or a diagonal as a diagonal or a matrix: the same weights, with so many axes."""
    if weights.ndim < axes:
        weights = np.broadcast_to(weights, num_classes)
    return torch.tensor(np.diag(weights) if weights.ndim < axes else weights)
