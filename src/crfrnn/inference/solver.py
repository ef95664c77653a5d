"""Solvers: what turns scores and terms into refined scores, and gradients back.

A solver is a specification of crf.py and a module with `forward`, `vjp` and `kept_rows` for it, named here once.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from crfrnn.arrays import Array
from crfrnn.crf import FrankWolfe, MeanField
from crfrnn.inference import frankwolfe, meanfield
from crfrnn.inference.activity import Activity, complete_activity
from crfrnn.inference.terms import Term
from crfrnn.kernels.native import Output, Storage, TermGradient

Coupling = NDArray[Any]


class Solver(Protocol):
    """A module for one class of specifications. Input has been checked, and so has the memory it takes."""

    def forward(
        self,
        solver: Any,
        unary: Array,
        pairwise: Sequence[Term],
        couplings: Sequence[Coupling],
        output: Output,
        keep: Storage | None,
        threads: int | None,
    ) -> tuple[Array, Any]:
        """Logits (C, N), probabilities or labels (N,), and what `vjp` needs if `keep`, else None.

        Args:
            unary: (C, N), contiguous class after class or point after point, float32 or float64 as the kernels are.
            couplings: E = M W of each term: (), (C,) or (C, C).
            keep: How to store marginals for `vjp`, where the solver offers a choice; None if there is no `vjp`.
        """
        ...

    def vjp(
        self,
        solver: Any,
        cotangent: Array,
        kept: Any,
        pairwise: Sequence[Term],
        couplings: Sequence[Coupling],
        threads: int | None,
        guide: bool = False,
    ) -> tuple[Array, list[Array], Sequence[TermGradient | None]]:
        """Gradients of ⟨cotangent, logits⟩ to the unary, to every coupling, in its shape, and to every term.

        Args:
            guide: Whether to compute those to the terms; without it there are none. None stands for a term that is no
                pair.
        """
        ...

    def kept_rows(self, solver: Any) -> int:
        """How many rows of marginals a point keeps for `vjp`, for an estimate of memory."""
        ...


SOLVERS: dict[type, Solver] = {MeanField: meanfield, FrankWolfe: frankwolfe}


def solver_for(solver: object) -> Solver:
    """The module of a specification."""
    return SOLVERS[type(solver)]


def observed(
    solver: Any,
    unary: Array,
    pairwise: Sequence[Term],
    couplings: Sequence[Coupling],
    output: Output,
    threads: int | None,
) -> tuple[Array, Activity]:
    """The `forward` of a specification's module, and what it did, with points (N,).

    A module without `observed` leaves nothing out.
    """
    module: Any = solver_for(solver)
    if hasattr(module, "observed"):
        found: tuple[Array, Activity] = module.observed(solver, unary, pairwise, couplings, output, threads)
        return found
    result, _ = module.forward(solver, unary, pairwise, couplings, output, None, threads)
    return result, complete_activity(solver.iterations, *unary.shape)
