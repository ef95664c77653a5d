"""Builds the CRF of a model from parameters, such as those in a parameters file."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.arrays import check_classes, class_weights
from crfrnn.crf import CRF
from crfrnn.files.parameter_files import crf_of
from crfrnn.models.segmenter import Segmenter
from crfrnn.models.store import KINDS, Model
from crfrnn.parameters import CRFParameters
from crfrnn.torch import CrfRnn
from crfrnn.unary import num_classes_of


def with_crf(model: Model, parameters: CRFParameters | CRF) -> Model:
    """The same network with a CRF of these parameters, whether or not it had a CRF before.

    Raises: ValueError: as `layer_of` does.
    """
    segmenter = model.segmenter
    channels = segmenter.crf.num_classes if segmenter.crf else getattr(segmenter.network, "num_classes", None)
    crf = layer_of(parameters, channels or model.classes.num_classes)
    mean, std = (None if levels is None else levels.tolist() for levels in (segmenter.mean, segmenter.std))
    return replace(model, segmenter=Segmenter(segmenter.network, crf, mean=mean, std=std).eval())


def layer_of(parameters: CRFParameters | CRF, channels: int) -> CrfRnn:
    """A CRF-RNN with these parameters. Its weights are scalar, per class or full, as in the parameters.

    Args:
        channels: Of the logits; one is the foreground of two classes.

    Raises: ValueError: if weights are for another number of classes, or the CRF needs something a layer cannot do.
    """
    crf, num_classes = crf_of(parameters), num_classes_of(channels)
    if threshold := getattr(crf.solver, "class_threshold", 0.0):
        raise ValueError(f"class_threshold={threshold}, but the CRF of a model has no class_threshold: set it to 0.0")
    compatibility = class_weights(-1.0 if crf.compatibility is None else crf.compatibility, "compatibility")
    pairs = zip(crf.names, crf.terms, strict=True)
    given = {name: class_weights(term.weight, f"{name}_weight") for name, term in pairs}
    for name, weights in given.items():
        check_classes(weights, num_classes, f"{name}_weight")
    check_classes(compatibility, num_classes, "compatibility")
    axes = max((weights.ndim for weights in given.values()), default=0)
    kernels = [replace(kernel, weight=1) for kernel in crf.kernels]
    regions = [replace(each, weight=1) for each in crf.regions]
    unweighted = replace(crf, kernels=kernels, regions=regions, compatibility=None)
    layer = CrfRnn(channels, crf=unweighted, weights=KINDS[axes], compatibility=KINDS[compatibility.ndim])
    with torch.no_grad():
        for name, weights in given.items():
            getattr(layer, f"{name}_ker_weights").copy_(_with_axes(weights, axes, num_classes))
        layer.compatibility_matrix.copy_(torch.from_numpy(compatibility))
    return layer


def crf_of_layer(layer: CrfRnn) -> CRF:
    """The CRF that a layer computes now: its θ and its weights, as they are after training."""
    crf = layer.crf
    weights = iter([getattr(layer, f"{name}_ker_weights").tolist() for name in crf.names])
    kernels = [replace(kernel, weight=next(weights)) for kernel in crf.kernels]
    regions = [replace(each, weight=next(weights)) for each in crf.regions]
    return replace(crf, kernels=kernels, regions=regions, compatibility=layer.compatibility_matrix.tolist())


def _with_axes(weights: NDArray[np.float64], axes: int, num_classes: int) -> Tensor:
    """The same weights with `axes` axes: a number or a diagonal is expanded to a diagonal or a matrix."""
    if weights.ndim < axes:
        weights = np.broadcast_to(weights, num_classes)
    return torch.tensor(np.diag(weights) if weights.ndim < axes else weights)
