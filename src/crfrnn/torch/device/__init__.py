"""The mean field on any torch device: Triton kernels on CUDA, the same steps in plain torch elsewhere.

The functions are those of `crfrnn.batch` with tensors in the place of arrays; `ops.py` calls them for tensors that are
not on the CPU.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from crfrnn.batch import Settings
from crfrnn.torch.device import meanfield, twin
from crfrnn.torch.device.lattice import Lattice
from crfrnn.torch.device.meanfield import Record
from crfrnn.torch.device.pairwise import Term

OLDEST_TRITON = (3, 5)
OLDEST_CAPABILITY = (8, 0)


def mean_field(
    logits: Tensor, image: Tensor, mask: Tensor | None, couplings: Sequence[Tensor], settings: Settings, keep: bool
) -> tuple[Tensor, Record]:
    """`meanfield.mean_field` by the steps of the tensors' device."""
    with _at(logits.device) as steps:
        return meanfield.mean_field(logits, image, mask, couplings, settings, keep, steps)


def mean_field_vjp(
    cotangent: Tensor, record: Record, couplings: Sequence[Tensor], settings: Settings
) -> tuple[Tensor, list[Tensor]]:
    """`meanfield.mean_field_vjp` by the steps of the tensors' device."""
    with _at(cotangent.device) as steps:
        return meanfield.mean_field_vjp(cotangent, record, couplings, settings, steps)


def lattices(
    features: Tensor, mask: Tensor | None, normalization: str, neighbour_rounds: int, deterministic: bool
) -> Term[Lattice]:
    """`meanfield.lattices` by the steps of the tensors' device."""
    with _at(features.device) as steps:
        return meanfield.lattices(features, mask, normalization, neighbour_rounds, deterministic, steps)


def filtered(values: Tensor, term: Term[Lattice], transpose: bool) -> Tensor:
    """`meanfield.filtered` by the steps of the tensors' device."""
    with _at(values.device) as steps:
        return meanfield.filtered(values, term, transpose, steps)


@lru_cache
def steps_of(device: torch.device) -> ModuleType:
    """`fused` for an NVIDIA GPU of compute capability 8.0 and above with Triton 3.5 and above, else `twin`."""
    if device.type != "cuda" or torch.version.hip is not None:
        return twin
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return twin
    try:
        major, minor = import_module("triton").__version__.split(".")[:2]
    except ImportError:
        return twin
    if (int(major), int(minor)) < OLDEST_TRITON:
        return twin
    from crfrnn.torch.device import fused

    return fused


@contextmanager
def _at(device: torch.device) -> Iterator[ModuleType]:
    """The steps of a device, which is the current one inside, where autocast leaves precision alone."""
    with ExitStack() as stack:
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        yield steps_of(device)
