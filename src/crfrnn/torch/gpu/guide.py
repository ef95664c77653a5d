"""Gradients to what kernels are built from: the image, the mask, given features and θ.

A backward pass collects gradients to each term's kernel and to its two factors, as if these were independent
(docs/algorithm.md, eq. 22-24). At the end they go through the normalisation, which made the factors, and through the
features.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crfrnn import crf as specification
from crfrnn.crf import CRF, Features, Given, thetas_of
from crfrnn.inference.backend import Inputs
from crfrnn.numbers import for_each, spacing_steps
from crfrnn.torch.features import feature_gradients, thetas_in_pixels
from crfrnn.torch.gpu.grid import Grid
from crfrnn.torch.gpu.lattice import Lattice, feature_gradient
from crfrnn.torch.gpu.terms import Term, feature_rows, kernels_in_pixels

Found = dict[tuple[str, str], Tensor]
"""Gradients by kind and name: ("image", ""), ("mask", ""), ("given", name), ("thetas", name)."""


class TermGradient(NamedTuple):
    """Sums of gradients to a term; None where nobody asks for them.

    Attributes:
        kernel: To the weights of a lattice, (d + 1, P), or to the deviations of a grid, (axes,).
        pre: To the factor of what points send, (P,).
        post: To the factor of what they receive, (P,).
    """

    kernel: Tensor | None
    pre: Tensor | None
    post: Tensor | None


def no_gradient(term: Term[Any], to_kernel: bool) -> TermGradient:
    """What `filter_back` begins with.

    Args:
        to_kernel: Whether there is a gradient to the kernel, not to the mask alone.
    """
    kernel: Tensor | None = None
    if to_kernel and isinstance(term.kernel, Grid):
        kernel = term.kernel.taps[0].values.new_zeros(len(term.kernel.shape))
    elif to_kernel:
        kernel = torch.zeros_like(term.kernel.weight)
    pre, post = (None if factor is None else torch.zeros_like(factor) for factor in (term.pre, term.post))
    return TermGradient(kernel, pre, post)


def collected(crf: CRF, inputs: Inputs, terms: Sequence[Term[Any]]) -> list[TermGradient | None]:
    """`no_gradient` of each term; None where it is built from nothing that can have one."""
    to_mask = _has_fractions(inputs.mask)
    to_kernel = [bool(_learned(kernel.features, inputs)) for kernel in crf.kernels]
    return [
        no_gradient(term, wanted) if wanted or to_mask else None for term, wanted in zip(terms, to_kernel, strict=True)
    ]


def filter_back(term: Term[Any], g: Tensor, sent: Tensor, found: TermGradient, steps: ModuleType) -> Tensor:
    """Nᵀ g. On the way the gradients of ⟨g, N sent⟩ are added to `found`, in place.

    Args:
        g: (P, channels), and sent too.
    """
    back = _back_on_grid if isinstance(term.kernel, Grid) else _back_on_lattice
    return back(term, g, sent, found, steps)


def _back_on_lattice(term: Term[Lattice], g: Tensor, sent: Tensor, found: TermGradient, steps: ModuleType) -> Tensor:
    lattice, pre, post, *_ = term
    values = lattice.spread(sent, pre, False, steps)
    steps.add_corner_products(lattice, values, g, post, found.kernel, found.post)
    values = lattice.spread(g, post, True, steps)
    steps.add_corner_products(lattice, values, sent, pre, found.kernel, found.pre)
    message: Tensor = steps.slice_values(lattice, values, pre)
    return message


def _back_on_grid(term: Term[Grid], g: Tensor, sent: Tensor, found: TermGradient, steps: ModuleType) -> Tensor:
    """The axes commute: g goes through them from the first, what was sent from the last, and between them lies the
    slope of one.
    """
    grid, pre, post, *_ = term
    last = len(grid.shape) - 1
    stages = [g]
    for axis, taps in enumerate(grid.taps):
        stages.append(grid.along(axis, stages[-1], taps, None if axis else post, None, steps))
    message = stages.pop()
    if found.pre is not None:
        found.pre.add_((sent.to(found.pre.dtype) * message).sum(dim=1))
    for axis, taps in reversed(list(enumerate(grid.taps))):
        before = pre if axis == last else None
        if found.kernel is not None:
            slope = grid.slopes[axis]
            assert slope is not None  # as only a tensor has a gradient
            changed = grid.along(axis, sent, slope, before, None if axis else post, steps)
            found.kernel[axis] += (stages[axis].to(found.kernel.dtype) * changed).sum()
        if axis or found.post is not None:
            sent = grid.along(axis, sent, taps, before, None, steps)
    if found.post is not None:
        found.post.add_((g.to(found.post.dtype) * sent).sum(dim=1))
    return message if pre is None else (message * pre[:, None]).to(message.dtype)


def through_normalization(term: Term[Any], found: TermGradient, steps: ModuleType) -> Tensor | None:
    """Gradient to the mask (P,), None where there is none. What goes through the norm is added to `found.kernel`."""
    to_pre: Any
    to_post: Any
    _, to_pre, to_post = found
    norm = term.norm
    if norm is None:
        return None if term.mask is None else to_pre + to_post
    if term.normalization == "symmetric":
        to_root, other = to_pre + to_post, None
        to_mask = to_root / norm.sqrt()
        to_norm = -0.5 * to_root * term.pre / norm
    else:
        after = term.normalization == "after"
        to_divided, divided, other = (to_post, term.post, to_pre) if after else (to_pre, term.pre, to_post)
        to_mask = to_divided / norm
        to_norm = -to_mask * divided
    if other is not None:
        to_mask = to_mask + other
    sent = torch.ones_like(norm) if term.mask is None else term.mask
    kernel = term._replace(pre=None, post=None)
    back = filter_back(kernel, to_norm[:, None], sent[:, None], TermGradient(found.kernel, None, None), steps)
    return None if term.mask is None else to_mask + back[:, 0]


def guide_gradients(
    crf: CRF,
    inputs: Inputs,
    terms: Sequence[Term[Any]],
    gradients: Sequence[TermGradient | None],
    dtype: torch.dtype,
    steps: ModuleType,
) -> Mapping[str, Any]:
    """The fields of `Gradients` besides logits and couplings, of `dtype`.

    Args:
        gradients: As `collected` and added up by `filter_back`.
    """
    totals: Found = {}

    def add(key: tuple[str, str], gradient: Tensor) -> None:
        totals[key] = totals[key] + gradient if key in totals else gradient

    for kernel, term, found in zip(kernels_in_pixels(crf, inputs), terms, gradients, strict=True):
        if found is None:
            continue
        to_mask = through_normalization(term, found, steps)
        if to_mask is not None and _has_fractions(inputs.mask):
            add(("mask", ""), to_mask.view(inputs.mask.shape))
        if found.kernel is not None:
            thetas = thetas_in_pixels(crf, inputs)
            learned = _learned(kernel.features, inputs)
            for key, gradient in _through_features(kernel, inputs, thetas, found.kernel, dtype, steps).items():
                if key in learned:
                    add(key, _in_unit(key, gradient, kernel.features, inputs))
    return {
        "image": totals.get(("image", "")),
        "mask": totals.get(("mask", "")),
        "given": {name: totals.get(("given", name)) for name in inputs.given},
        "thetas": {name: totals.get(("thetas", name)) for name in inputs.thetas},
    }


def _through_features(
    kernel: specification.Kernel,
    inputs: Inputs,
    thetas: Mapping[str, Tensor],
    to_kernel: Tensor,
    dtype: torch.dtype,
    steps: ModuleType,
) -> Found:
    """Gradients to what a kernel is built from, from those to its weights or deviations; those to θ in pixels."""
    if isinstance(kernel.filter, specification.Grid):
        return {("thetas", "theta_gamma"): to_kernel.flip(0)}
    rows = feature_rows(kernel.features, inputs, thetas, dtype)
    return feature_gradients(kernel.features, inputs, thetas, rows, feature_gradient(rows, to_kernel, steps))


def _in_unit(key: tuple[str, str], gradient: Tensor, features: Features, inputs: Inputs) -> Tensor:
    """The gradient to θ as it was given: one number or several, positions in the unit of the spacing."""
    kind, name = key
    if kind != "thetas":
        return gradient
    if inputs.spacing is not None and name in features.positions:
        distances = for_each(spacing_steps(inputs.spacing), len(gradient), "spacing", "spatial axes")
        gradient = torch.stack([part / distance for part, distance in zip(gradient.unbind(), distances, strict=True)])
    return gradient if len(inputs.thetas[name]) > 1 else gradient.sum(dim=0, keepdim=True)


def _learned(features: Features, inputs: Inputs) -> set[tuple[str, str]]:
    """What features are made of and can have a gradient."""
    found = {("thetas", name): inputs.thetas.get(name) for name in thetas_of(features)}
    if features.reads_image:
        found["image", ""] = inputs.image
    if isinstance(features, Given):
        found["given", features.name] = inputs.given[features.name]
    return {key for key, tensor in found.items() if _has_fractions(tensor)}


def _has_fractions(tensor: Tensor | None) -> bool:
    """Whether there can be a gradient to it."""
    return tensor is not None and tensor.is_floating_point()
