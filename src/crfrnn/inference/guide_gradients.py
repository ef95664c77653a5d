"""Gradients to what the kernels of an image are built from: the image, the mask, given features and θ."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from crfrnn.arrays import Array
from crfrnn.crf import CRF, Grid
from crfrnn.inference.backend import Inputs
from crfrnn.inference.term_gradients import through_normalization
from crfrnn.inference.terms import Term
from crfrnn.kernels.features import Guide, feature_gradients, feature_rows
from crfrnn.kernels.native import TermGradient
from crfrnn.numbers import for_each, spacing_steps

Found: TypeAlias = dict[tuple[str, str], Any]
"""Gradients of one image by kind and name, as `feature_gradients` returns them, and ("mask", ""), (N,)."""


def guide_gradients(
    crf: CRF,
    spacing: Sequence[float] | None,
    guide: Guide,
    terms: Sequence[Term],
    to_terms: Sequence[TermGradient | None],
    dtype: np.dtype[Any],
) -> Found:
    """Those of one image, summed over the kernels; all terms are pairs."""
    axes = len(guide.grid)
    steps = (1.0,) * axes if spacing is None else for_each(spacing_steps(spacing), axes, "spacing", "spatial axes")
    found: Found = {}

    def add(key: tuple[str, str], gradient: Any) -> None:
        found[key] = found[key] + gradient if key in found else gradient

    for kernel, term, to_term in zip(crf.in_pixels(steps, axes).kernels, terms, to_terms, strict=True):
        to_kernel, to_mask = through_normalization(term, to_term)
        if to_mask is not None:
            add(("mask", ""), to_mask)
        if to_kernel is None:
            continue
        if isinstance(kernel.filter, Grid):
            built_from: Found = {("thetas", "theta_gamma"): to_kernel[::-1]}
        else:
            rows = feature_rows(kernel.features, guide, dtype)
            built_from = feature_gradients(kernel.features, guide, rows, to_kernel)
        for (kind, name), gradient in built_from.items():
            in_unit = gradient / np.asarray(steps) if name in kernel.features.positions else gradient
            add((kind, name), in_unit)
    return found


def of_batch(images: Sequence[Found], inputs: Inputs) -> Mapping[str, Any]:
    """The fields of `Gradients` besides logits and couplings."""
    dtype = inputs.logits.dtype

    def stacked(kind: str, name: str) -> Array | None:
        """(B, d, *spatial) of (N, d) or (*spatial, d) for each image; None where no kernel is built from it."""
        if (kind, name) not in images[0]:
            return None
        spatial = inputs.logits.shape[2:]
        planes = [np.moveaxis(found[kind, name].reshape(*spatial, -1), -1, 0) for found in images]
        return np.ascontiguousarray(np.stack(planes), dtype)

    def theta(name: str, value: Array) -> Array | None:
        if ("thetas", name) not in images[0]:
            return None
        total = np.sum([found["thetas", name] for found in images], axis=0)
        return np.asarray(total if value.size > 1 else [total.sum()], dtype)

    mask = stacked("mask", "")
    return {
        "image": stacked("image", ""),
        "mask": None if mask is None or inputs.mask is None else mask[:, 0],
        "given": {name: stacked("given", name) for name in inputs.given},
        "thetas": {name: theta(name, np.asarray(value)) for name, value in inputs.thetas.items()},
    }
