"""The CRF on any torch device as a backend: Triton kernels on CUDA, the same steps in plain torch elsewhere.

`ops.py` calls it for tensors that are not on the CPU. `plain.py` has the steps in plain torch and is the one to read;
files named triton_… hold the same steps as Triton kernels.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf import CRF, MeanField
from crfrnn.inference.backend import Ability, Execution, Gradients, Inputs
from crfrnn.torch.gpu import meanfield, plain
from crfrnn.torch.gpu.lattice import Lattice
from crfrnn.torch.gpu.meanfield import Record
from crfrnn.torch.gpu.terms import Term

OFFERS = frozenset(
    {Ability.GRID, Ability.LATTICE, Ability.CLASS_THRESHOLD, Ability.SIXTEEN_BITS, Ability.GRADIENT_TO_GUIDE}
)
SOLVERS: dict[type, Any] = {MeanField: meanfield}
OLDEST_TRITON = (3, 5)
OLDEST_CAPABILITY = (8, 0)


def forward(
    crf: CRF, inputs: Inputs, couplings: Sequence[Tensor], keep: bool, execution: Execution
) -> tuple[Tensor, Record]:
    """As in `Backend`, by the steps of the tensors' device."""
    with _at(inputs.logits.device) as steps:
        solver: Any = SOLVERS[type(crf.solver)]
        refined, record = solver.forward(crf, inputs, couplings, keep, execution, steps)
        return refined, record


def vjp(
    crf: CRF,
    inputs: Inputs,
    cotangent: Tensor,
    record: Record,
    couplings: Sequence[Tensor],
    execution: Execution,
    guide: bool,
) -> Gradients:
    """As in `Backend`, by the steps of the tensors' device."""
    with _at(cotangent.device) as steps:
        solver: Any = SOLVERS[type(crf.solver)]
        gradients: Gradients = solver.vjp(crf, inputs, cotangent, record, couplings, execution, guide, steps)
        return gradients


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


def lattice_gradient(cotangent: Tensor, values: Tensor, features: Tensor, term: Term[Lattice]) -> Tensor:
    """`meanfield.lattice_gradient` by the steps of the tensors' device."""
    with _at(values.device) as steps:
        return meanfield.lattice_gradient(cotangent, values, features, term, steps)


@lru_cache
def steps_of(device: torch.device) -> ModuleType:
    """`triton_steps` for an NVIDIA GPU of compute capability 8.0 and above with Triton 3.5 and above, else `plain`."""
    if device.type != "cuda" or torch.version.hip is not None:
        return plain
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return plain
    try:
        major, minor = import_module("triton").__version__.split(".")[:2]
    except ImportError:
        return plain
    if (int(major), int(minor)) < OLDEST_TRITON:
        return plain
    from crfrnn.torch.gpu import triton_steps

    return triton_steps


@contextmanager
def _at(device: torch.device) -> Iterator[ModuleType]:
    """The steps of a device. Inside, that device is the current one and autocast is off."""
    with ExitStack() as stack:
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        yield steps_of(device)
