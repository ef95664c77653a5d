"""The usual dense CRF, of a spatial and a bilateral kernel, by its numbers; and the presets that people use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, get_args

from numpy.typing import ArrayLike

from crfrnn.crf import (
    CRF,
    Bilateral,
    Exact,
    FrankWolfe,
    Gradient,
    Grid,
    Kernel,
    Lattice,
    MeanField,
    Normalization,
    Regularization,
    Spatial,
    Step,
)
from crfrnn.numbers import Deviation, in_pixels, one_of, weight

SpatialKernel: TypeAlias = Literal["grid", "lattice"]
Filter: TypeAlias = Literal["lattice", "exact"]
Solver: TypeAlias = Literal["mean-field", "frank-wolfe"]
SOLVERS: dict[str, type[MeanField] | type[FrankWolfe]] = {"mean-field": MeanField, "frank-wolfe": FrankWolfe}
"""The short form's words for solvers. Its fields have the names of theirs."""


@dataclass(frozen=True)
class CRFParameters:
    """The short form of a `CRF` with a spatial and a bilateral kernel (docs/algorithm.md, eq. 1-6).

    Lists and arrays given for a field are kept as tuples, so that parameters compare, hash and pickle.

    Attributes:
        theta_alpha: Deviation of the bilateral kernel in pixels, or in the unit of the `spacing` of those calls that
            take one: a number, or one for each axis as (x, y[, z]).
        theta_beta: Deviation of the bilateral kernel in the image's own levels, or with an `image_range` in those of a
            photo: a number, or one for each channel.
        theta_gamma: Deviation of the spatial kernel, in the unit of theta_alpha: a number, or one for each axis.
        spatial_weight: Weight W of the spatial kernel: a number, (C,) or (C, C). With 0 the kernel is not computed.
        bilateral_weight: The same for the bilateral kernel.
        compatibility: M in `a = U - M (W_s s + W_b b)`. None is the Potts model, M = -1: agreement is rewarded. A
            number, (C,) diagonal or (C, C) matrix is taken as given: a positive diagonal penalises agreement.
        normalization: "after" (CRF-RNN), "before", "symmetric" (pydensecrf) or "none" (raw sums).
        iterations: Iterations of the solver; 0 returns what was given.
        spatial: Spatial kernel as exact Gaussian on the "grid", or approximated by a "lattice" as other tools do.
        damping: Share of the previous logits kept at each iteration, at least 0 and below 1.
        neighbour_rounds: Rounds of lattice vertices that no pixel touches added around those touched. One round halves
            the error on rough images at 3 to 5 times the vertices; a second one adds nothing (docs/benchmarks.md).
        class_threshold: A class is left out of filtering as soon as its probability is below this everywhere; 0
            filters all classes. docs/algorithm.md, sections 6 and 8, has the rules and the error.
        tolerance: How far a marginal may be off in an iteration because of work left out: 0 works everything out in
            every iteration (docs/algorithm.md, section 8).
        filter: Bilateral kernel approximated on a "lattice", or "exact" over all pairs of pixels, which takes seconds
            an iteration for a photo and grows with the square of its pixels (docs/accuracy.md). The exact filter goes
            with spatial="grid" and without neighbour_rounds.
        solver: "mean-field" or "frank-wolfe" (docs/solvers.md). What follows, `damping`, `class_threshold` and
            `tolerance` are those of the solver; what it does not have stays at its default.
        gradient: "unrolled", or "implicit" at the fixed point, whose memory does not grow with the iterations.
        regularization: Of Frank-Wolfe: "entropic" or "euclidean".
        strength: Of Frank-Wolfe's regulariser, λ from 1e-20 to 1e20.
        step: Of Frank-Wolfe: "line-search" or "open-loop".
        image_range: (low, high) of the image's levels, such as (0, 1) or (0, 65535): θ_β is then in 255ths of
            high - low, as for a photo of 8 bits. None: θ_β is in the image's own levels.
    Raises: TypeError or ValueError: on construction, naming the field.
    """

    theta_alpha: Deviation | Sequence[float] = 160.0
    theta_beta: Deviation | Sequence[float] = 3.0
    theta_gamma: Deviation | Sequence[float] = 3.0
    spatial_weight: ArrayLike = 3.0
    bilateral_weight: ArrayLike = 5.0
    compatibility: ArrayLike | None = None
    normalization: Normalization = "after"
    iterations: int = 10
    spatial: SpatialKernel = "grid"
    damping: float = 0.0
    neighbour_rounds: int = 0
    class_threshold: float = 0.0
    tolerance: float = MeanField.tolerance
    filter: Filter = "lattice"
    solver: Solver = "mean-field"
    gradient: Gradient = MeanField.gradient
    regularization: Regularization = FrankWolfe.regularization
    strength: float = FrankWolfe.strength
    step: Step = FrankWolfe.step
    image_range: Sequence[float] | None = None

    def __post_init__(self) -> None:
        one_of(self.spatial, get_args(SpatialKernel), "spatial")
        one_of(self.filter, get_args(Filter), "filter")
        for name in ("spatial_weight", "bilateral_weight"):
            self._set(name, weight(getattr(self, name), name))
        crf, lattice = self._as_crf()
        # Fields have the names that they have there.
        parts: list[Any] = [*(kernel.features for kernel in crf.kernels), crf.solver, lattice]
        for part in parts:
            for each in fields(part):
                self._set(each.name, getattr(part, each.name))
        self._set("compatibility", crf.compatibility)
        if self.filter == "exact":
            for name, other in (("spatial", "grid"), ("neighbour_rounds", 0)):
                if getattr(self, name) != other:
                    raise ValueError(
                        f"filter='exact' has no lattice for {name}={getattr(self, name)!r}; set {name} to {other!r}"
                    )
        self._set("_crf", crf)

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            self._set(name, value)
        self._set("_crf", self._as_crf()[0])

    @property
    def crf(self) -> CRF:
        """The same as a `CRF`."""
        return self._crf  # type: ignore[attr-defined, no-any-return]

    def in_pixels(self, spacing: float | Sequence[float], axes: int) -> "CRFParameters":
        """The same with θ_α and θ_γ, given in the unit of the spacing, in pixels along each of `axes` axes.

        Args:
            spacing: Distance between neighbouring pixels: a number, or one for each axis as (x, y[, z]).
            axes: How many spatial axes there are.
        Raises: TypeError or ValueError: if the spacing is not positive and finite, or has another number of axes.
        """
        return replace(
            self,
            theta_alpha=in_pixels(self.theta_alpha, spacing, axes, "theta_alpha"),
            theta_gamma=in_pixels(self.theta_gamma, spacing, axes, "theta_gamma"),
        )

    def _as_crf(self) -> tuple[CRF, Lattice]:
        """The CRF, and the lattice of its kernels, which has the rounds that grids and exact filters lack."""
        lattice = Lattice(self.neighbour_rounds)
        spatial = lattice if self.spatial == "lattice" else Grid()
        bilateral = lattice if self.filter == "lattice" else Exact()
        kernels = [
            Kernel(Spatial(self.theta_gamma), self.spatial_weight, spatial, self.normalization),
            Kernel(
                Bilateral(self.theta_alpha, self.theta_beta, self.image_range),
                self.bilateral_weight,
                bilateral,
                self.normalization,
            ),
        ]
        return CRF(kernels, self.compatibility, self._as_solver()), lattice

    def _as_solver(self) -> MeanField | FrankWolfe:
        """The solver; a number that only others have must be at its default."""
        chosen = solver_named(self.solver)
        names = [each.name for each in fields(chosen)]
        for other in SOLVERS.values():
            for each in fields(other):
                given = getattr(self, each.name)
                if each.name in names or given is each.default:
                    continue
                if getattr(other(**{each.name: given}), each.name) != each.default:
                    raise ValueError(
                        f"{each.name}={given!r}, but solver={self.solver!r} has no {each.name}: set "
                        f"it to {each.default!r}"
                    )
        return chosen(**{name: getattr(self, name) for name in names})

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def solver_named(name: str) -> type[MeanField] | type[FrankWolfe]:
    """The class of a solver by its word in the short form."""
    one_of(name, tuple(SOLVERS), "solver")
    return SOLVERS[name]


def with_values(
    parameters: CRFParameters | CRF, values: Mapping[str, Any], written: Callable[[str], str] = str
) -> CRFParameters | CRF:
    """Parameters with some fields of `CRFParameters` replaced.

    Args:
        values: By name. A CRF of any kernels takes those of its solver, another solver, `compatibility` and
            `image_range`.
        written: How the user writes the name of a field, for messages.
    Raises:
        TypeError: if there is no field of that name.
        ValueError: if a value is wrong, or a CRF of any kernels does not take it.
    """
    known = [each.name for each in fields(CRFParameters)]
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise TypeError(f"there is no parameter {name}: {meant}")
    if isinstance(parameters, CRFParameters):
        return replace(parameters, **values)
    rest = dict(values)
    kind = solver_named(rest.pop("solver")) if "solver" in rest else type(parameters.solver)
    names = [each.name for each in fields(kind)]
    before = parameters.solver
    numbers = {each.name: getattr(before, each.name) for each in fields(before) if each.name in names}
    numbers |= {name: rest.pop(name) for name in names if name in rest}
    changed = replace(
        parameters, compatibility=rest.pop("compatibility", parameters.compatibility), solver=kind(**numbers)
    )
    if "image_range" in rest:
        changed = changed.with_image_range(rest.pop("image_range"))
    for name in rest:
        if any(name == each.name for other in SOLVERS.values() for each in fields(other)):
            raise ValueError(f"{written(name)}: this solver has no {name}")
        raise ValueError(
            f"{written(name)} is for a spatial and a bilateral kernel; change the kernels in the parameters file "
            "or the CRF"
        )
    return changed


# Numbers in common use, named after where, and the default, photos, which gained most on two data sets together
# (docs/choosing-parameters.md). All but photos and crfrnn were written for pydensecrf, hence "symmetric". Their
# unaries: photos and crfrnn take logits; deeplab, stego, seam, afa, toco and pydensecrf softmax probabilities
# (input="probabilities"; seam and afa at full size, s = 1: at 1/s of the size divide theta_alpha and theta_gamma by s);
# maskcut the softmax of a {0, 1} mask; irn labels held with probability 0.7 (input="labels"); text-mask a mask / 255.
PRESETS: dict[str, CRFParameters] = {
    "photos": CRFParameters(theta_alpha=50, theta_beta=10, spatial_weight=1, bilateral_weight=2),
    "crfrnn": CRFParameters(),
    **{
        name: CRFParameters(
            theta_gamma=theta_gamma,
            spatial_weight=spatial_weight,
            theta_alpha=theta_alpha,
            theta_beta=theta_beta,
            bilateral_weight=bilateral_weight,
            normalization="none" if name == "text-mask" else "symmetric",
            iterations=iterations,
        )
        for name, theta_gamma, spatial_weight, theta_alpha, theta_beta, bilateral_weight, iterations in (
            ("deeplab", 1, 3, 67, 3, 4, 10),
            ("stego", 1, 3, 67, 3, 4, 10),
            ("maskcut", 3, 7, 50, 5, 10, 10),
            ("irn", 3, 3, 50, 5, 10, 10),
            ("seam", 3, 3, 80, 13, 10, 10),
            ("afa", 3, 3, 80, 13, 10, 10),
            ("toco", 1, 1, 121, 5, 4, 10),
            ("text-mask", 1, 3, 23, 7, 20, 5),
            ("pydensecrf", 3, 3, 80, 13, 10, 5),
        )
    },
}

DEFAULT_PRESET = "photos"
"""What refines where nothing is said; layers, which learn, start with `CRFParameters()`, as published."""


def preset(name: str) -> CRFParameters:
    """The parameters of that name in `PRESETS`."""
    if not isinstance(name, str) or name not in PRESETS:
        near = get_close_matches(name, PRESETS, 1) if isinstance(name, str) else []
        meant = f": did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}{meant}")
    return PRESETS[name]
