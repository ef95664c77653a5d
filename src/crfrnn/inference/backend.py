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
    OWN_KERNEL = auto()  # a function of the framework's tensors
    CLASS_THRESHOLD = auto()
    GRADIENT_WITH_CLASS_THRESHOLD = auto()
    SIXTEEN_BITS = auto()
    IMPLICIT_GRADIENT = auto()  # at the fixed point
    GRADIENT_TO_GUIDE = auto()  # to image, mask, given features and θ
    GRADIENT_THROUGH_LATTICE = auto()  # the same where a lattice lies between


class UnsupportedError(ValueError):
    """No backend does all that a call asks for; the message says what, and what to change."""


class Execution(NamedTuple):
    """How to compute, which changes no result by more than rounding.

    Attributes:
        threads: On the CPU; None is the default of the framework.
        deterministic: Whether sums on a GPU have a fixed order.
        storage: A dtype of torch of 16 bits in which marginals are kept, and on a GPU messages too; None is that of
            the scores.
    """

    threads: int | None = None
    deterministic: bool = True
    storage: Any = None


class Inputs(NamedTuple):
    """A batch of B images, in arrays or tensors of the backend, channels first.

    Attributes:
        logits: (B, C, *spatial), float32 or float64.
        image: (B, K, *spatial), real, or None.
        mask: (B, *spatial) weights ≥ 0, or None.
        given: By the names that `Given` has: features (B, d, *spatial), or a kernel.
        spacing: Distance between neighbouring pixels for each axis, (x, y[, z]), or one for all; None is 1.
    """

    logits: Any
    image: Any = None
    mask: Any = None
    given: Mapping[str, Any] = {}
    spacing: Sequence[float] | None = None


class Backend(Protocol):
    """A module. Tensors and arrays have been checked for shape and type."""

    OFFERS: frozenset[Ability]
    SOLVERS: dict[type, Any]  # by class of specifications: what computes it, and may lack abilities: LACKS

    def forward(
        self, crf: CRF, inputs: Inputs, couplings: Sequence[Any], keep: bool, execution: Execution
    ) -> tuple[Any, Any]:
        """Logits after the last iteration, as the logits given, and a record for `vjp` if `keep`.

        Args:
            couplings: E = M W of each kernel: (), (C,) or (C, C).
        """
        ...

    def vjp(
        self, crf: CRF, cotangent: Any, record: Any, couplings: Sequence[Any], execution: Execution
    ) -> tuple[Any, list[Any]]:
        """Gradients of ⟨cotangent, logits⟩ to the logits and, summed over the batch, to the couplings."""
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
        solvers = [backend.SOLVERS[each] for each in asked if each in backend.SOLVERS]
        offered = backend.OFFERS.difference(*(getattr(solver, "LACKS", ()) for solver in solvers))
        lacking.append([text for each, text in asked.items() if each not in offered and each not in backend.SOLVERS])
    for backend, lacks in zip(backends, lacking, strict=True):
        if not lacks:
            return backend
    raise UnsupportedError(f"{min(reversed(lacking), key=len)[0]} (in {where})")
