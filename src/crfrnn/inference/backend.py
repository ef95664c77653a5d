"""What computes a CRF over a batch: the protocol of all backends, and the one place that asks for their abilities.

The backends are `inference/batch.py` (the native core), `torch/gpu` (lattices as tensors, in plain torch or Triton) and
`torch/differentiable.py` (operations of torch, with gradients to everything). docs/extending.md adds another.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from crfrnn.crf import CRF, Exact, Grid, Lattice


class Ability(Enum):
    """What a CRF or a call may ask of a backend."""

    GRID = auto()
    LATTICE = auto()
    EXACT = auto()
    REGIONS = auto()
    OWN_KERNEL = auto()  # a function of the framework's tensors
    CLASS_THRESHOLD = auto()
    GRADIENT_WITH_CLASS_THRESHOLD = auto()
    SIXTEEN_BITS = auto()
    IMPLICIT_GRADIENT = auto()  # at the fixed point
    GRADIENT_TO_GUIDE = auto()  # to image, mask, given features and θ
    GRADIENT_TO_GUIDE_BESIDE_REGIONS = auto()  # the same where there are regions, and to memberships of theirs


class UnsupportedError(ValueError):
    """No backend does all that a call asks for; the message says what, and what to change."""


class Execution(NamedTuple):
    """How to compute, which changes no result by more than rounding.

    Attributes:
        threads: On the CPU; None is the default of the framework.
        deterministic: Whether sums on a GPU have a fixed order.
        storage: A dtype of torch of 16 bits in which marginals are kept, and on a GPU messages too; None is that of
            the scores.
        count_vertices: Whether to wait for a GPU once, to have room for the lattice vertices that there are and no
            more.
    """

    threads: int | None = None
    deterministic: bool = True
    storage: Any = None
    count_vertices: bool = False


class Inputs(NamedTuple):
    """A batch of B images, in arrays or tensors of the backend, channels first.

    Attributes:
        logits: (B, C, *spatial), float32 or float64.
        image: (B, K, *spatial), real, or None.
        mask: (B, *spatial) weights ≥ 0, or None.
        given: By the names that `Given` has: features (B, d, *spatial), or a kernel. By those of regions: ids
            (B, *spatial), integers, or memberships (B, S, *spatial).
        spacing: Distance between neighbouring pixels for each axis, (x, y[, z]), or one for all; None is 1.
        thetas: By name, θ that replace those of the specification in all kernels that have one of that name: (n,), one
            number or one for each axis or channel, in the unit of the spacing.
    """

    logits: Any
    image: Any = None
    mask: Any = None
    given: Mapping[str, Any] = {}
    spacing: Sequence[float] | None = None
    thetas: Mapping[str, Any] = {}


class Gradients(NamedTuple):
    """What a backward pass finds; each has the shape of what it belongs to, and thetas are summed over the batch.

    Attributes:
        logits: (B, C, *spatial).
        couplings: Summed over the batch, one for each kernel.
        image, mask, given, thetas: Those of the inputs, where they were asked for. None, or no entry, where no kernel
            is built from it.
    """

    logits: Any
    couplings: list[Any]
    image: Any = None
    mask: Any = None
    given: Mapping[str, Any] = {}
    thetas: Mapping[str, Any] = {}


class Backend(Protocol):
    """A module. Tensors and arrays have been checked for shape and type."""

    OFFERS: frozenset[Ability]
    SOLVERS: dict[type, Any]  # by class of specifications: what computes it

    def forward(
        self, crf: CRF, inputs: Inputs, couplings: Sequence[Any], keep: bool, execution: Execution
    ) -> tuple[Any, Any]:
        """Logits after the last iteration, as the logits given, and a record for `vjp` if `keep`.

        Args:
            couplings: E = M W of each of the CRF's terms: (), (C,) or (C, C).
        """
        ...

    def vjp(
        self,
        crf: CRF,
        inputs: Inputs,
        cotangent: Any,
        record: Any,
        couplings: Sequence[Any],
        execution: Execution,
        guide: bool,
    ) -> Gradients:
        """Gradients of ⟨cotangent, logits⟩ to logits and couplings; with `guide` to what kernels are built from too.

        Args:
            inputs: Those of the forward pass.
        """
        ...


_Backend = TypeVar("_Backend", bound=Backend)
Asked: TypeAlias = Ability | type
"""An ability, or the class of a solver."""


def asked_by(crf: CRF) -> dict[Asked, str]:
    """What a CRF asks of a backend, each with the message for when it is missing."""
    solver = type(crf.solver)
    asked: dict[Asked, str] = {solver: f"{solver.__name__} is not available"}
    for kernel in crf.kernels:
        ability = {Grid: Ability.GRID, Lattice: Ability.LATTICE, Exact: Ability.EXACT}[type(kernel.filter)]
        asked[ability] = f"{type(kernel.filter).__name__}() is not available"
    if crf.regions:
        asked[Ability.REGIONS] = "regions are not available"
    if getattr(crf.solver, "class_threshold", 0.0):
        asked[Ability.CLASS_THRESHOLD] = "class_threshold is not available; set it to 0"
    return asked


def able(backends: Sequence[_Backend], asked: Mapping[Asked, str], where: str) -> _Backend:
    """The first backend that offers all that is asked.

    Args:
        where: What the user called, for the message.
    Raises: UnsupportedError: if there is none. It names what is missing in the backend that lacks least; of equals, in
        the last one.
    """
    lacking = []
    for backend in backends:
        offered = {*backend.OFFERS, *backend.SOLVERS}
        lacking.append([text for each, text in asked.items() if each not in offered])
    for backend, lacks in zip(backends, lacking, strict=True):
        if not lacks:
            return backend
    raise UnsupportedError(f"{min(reversed(lacking), key=len)[0]} (in {where})")
