"""A dense CRF as one value: kernels, regions, compatibility, solver (docs/algorithm.md, eq. 1-6 and 32).

    crf = CRF([Kernel(Spatial(3), weight=3), Kernel(Bilateral(160, 3), weight=5)], solver=MeanField(iterations=10))

Every backend takes such a value whole. To add a parameter, add a field here and use it in each backend. It is then
compared, hashed, saved, loaded and handed to every backend without further code. Every θ_ is checked automatically.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from itertools import chain, compress, count
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from crfrnn.numbers import (
    Deviation,
    deviations,
    in_pixels,
    increasing_pair,
    one_of,
    positive_number,
    proper_fraction,
    weight,
    whole_number,
)

Normalization: TypeAlias = Literal["none", "before", "after", "symmetric"]
Gradient: TypeAlias = Literal["unrolled", "implicit"]
Regularization: TypeAlias = Literal["entropic", "euclidean"]
Step: TypeAlias = Literal["line-search", "open-loop"]
MOST_NEIGHBOUR_ROUNDS = 3  # each multiplies the vertices; the second already adds no accuracy
CUTOFF = 4  # deviations from the centre at which a `Grid` cuts its Gaussian: 6e-5 of an axis's mass lie beyond
PHOTO_LEVELS = 255  # from black to white in 8 bits, in which published θ_β are given
WEAKEST = 1e-20  # regularisation, for scores divided by it to be numbers in float32
EPSILON = 1e-20  # added to norms, which masks can make 0, so that 1 / norm stays finite


def _set(specification: object, name: str, value: object) -> None:
    """Set a field of a frozen specification while it is made."""
    object.__setattr__(specification, name, value)


@dataclass(frozen=True)
class Features:
    """What a kernel compares points by.

    Fields named theta_… are deviations. Those that `positions` names are in pixels, or in the unit of a spacing.
    """

    positions: ClassVar[tuple[str, ...]] = ()
    reads_image: ClassVar[bool] = False

    if TYPE_CHECKING:  # of the class, but a field of `Given`

        @property
        def name(self) -> str: ...

    def __post_init__(self) -> None:
        for name in thetas_of(self):
            _set(self, name, deviations(getattr(self, name), name))


@dataclass(frozen=True)
class Spatial(Features):
    """The position alone: x/θ_γ, y/θ_γ, … (smoothness).

    Attributes:
        theta_gamma: Deviation in pixels, or in the unit of the `spacing` of calls that take one: a number, or one for
            each axis as (x, y[, z]).
    """

    theta_gamma: Deviation | Sequence[float] = 3.0
    positions: ClassVar[tuple[str, ...]] = ("theta_gamma",)
    name: ClassVar[str] = "spatial"


@dataclass(frozen=True)
class Bilateral(Features):
    """Position and image: x/θ_α, y/θ_α, …, c_0/θ_β, c_1/θ_β, … (appearance).

    Attributes:
        theta_alpha: Deviation in pixels, or in the unit of the spacing: a number, or one for each axis as (x, y[, z]).
        theta_beta: Deviation in the image's own levels, or with an `image_range` in those of a photo: a number, or one
            for each channel.
        image_range: (low, high) of the image's levels, such as (0, 1): θ_β is then in 255ths of high - low, whatever
            the levels are. Levels beyond it count as they are. None: θ_β is in the image's own levels.
    """

    theta_alpha: Deviation | Sequence[float] = 160.0
    theta_beta: Deviation | Sequence[float] = 3.0
    image_range: Sequence[float] | None = None
    positions: ClassVar[tuple[str, ...]] = ("theta_alpha",)
    reads_image: ClassVar[bool] = True
    name: ClassVar[str] = "bilateral"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_range is not None:
            _set(self, "image_range", increasing_pair(self.image_range, "image_range"))

    @property
    def level(self) -> float:
        """What θ_β is in units of, in the image's own levels: 1, or a 255th of the range."""
        if self.image_range is None:
            return 1.0
        low, high = self.image_range
        return (high - low) / PHOTO_LEVELS


@dataclass(frozen=True)
class Given(Features):
    """Features or a kernel of the caller's own, which every call gives under this name as `given={name: …}`.

    They are either features, divided by their deviations, to which `filter` applies; or the kernel itself, a linear map
    of values between points, to which it does not.

    Attributes:
        name: Any text that is not empty.
    """

    name: str

    def __post_init__(self) -> None:
        _require_name(self.name, "features or a kernel")


@dataclass(frozen=True)
class Grid:
    """The exact Gaussian along one axis of the grid after the other, cut off at 4σ: for `Spatial` features."""


@dataclass(frozen=True)
class Lattice:
    """The permutohedral lattice, which approximates the Gaussian in time linear in the points.

    Attributes:
        neighbour_rounds: Rounds of vertices that no pixel touches added around those touched. One round halves the
            error on rough images at 3 to 5 times the vertices; a second one adds nothing (docs/benchmarks.md).
    """

    neighbour_rounds: int = 0

    def __post_init__(self) -> None:
        _set(self, "neighbour_rounds", whole_number(self.neighbour_rounds, "neighbour_rounds", MOST_NEIGHBOUR_ROUNDS))


@dataclass(frozen=True)
class Exact:
    """All pairs of points: the truth that a lattice approximates, in O(N²) time (docs/accuracy.md)."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of a CRF: what it compares, how it is filtered, and how it enters (docs/algorithm.md, eq. 2-5).

    Attributes:
        features: `Spatial`, `Bilateral` or `Given`.
        weight: W: a number, (C,) or (C, C). A kernel of weight 0 is not computed.
        filter: `Grid`, `Lattice` or `Exact`; None is the grid for `Spatial` features and the lattice for others.
        normalization: "after" (CRF-RNN), "before", "symmetric" (pydensecrf) or "none" (raw sums).
    Raises: TypeError or ValueError: on construction, naming the field.
    """

    features: Features
    weight: ArrayLike = 1.0
    filter: Grid | Lattice | Exact | None = None
    normalization: Normalization = "after"

    def __post_init__(self) -> None:
        if not isinstance(self.features, Features):
            raise TypeError(f"features is {_described(self.features)}; expected Spatial(…), Bilateral(…) or Given(…)")
        if self.filter is None:
            _set(self, "filter", Grid() if isinstance(self.features, Spatial) else Lattice())
        _one_class(self.filter, (Grid, Lattice, Exact), "filter")
        if isinstance(self.filter, Grid) and not isinstance(self.features, Spatial):
            raise ValueError(
                f"filter=Grid() is for Spatial features, which lie on a grid, not for {type(self.features).__name__}: "
                "use Lattice() or Exact()"
            )
        _set(self, "weight", weight(self.weight, "weight"))
        one_of(self.normalization, get_args(Normalization), "normalization")


@dataclass(frozen=True)
class Regions:
    """Segments whose pixels tend to be of one class, such as superpixels (docs/algorithm.md, eq. 32).

    Every call gives the segments as `given={name: …}`: a map of integer ids, in which a pixel with a negative id is in
    no segment; or memberships from 0 to 1 of each segment, which may overlap. Ids need not be consecutive.

    Attributes:
        name: Any text that is not empty.
        weight: W: a number, (C,) or (C, C), as that of a kernel; a pixel is drawn to a class by at most W.
        order: How many pixels of a segment have to agree, at least 2. The reward counts for every group of as many
            pixels, so segments of any size matter, and some pixels of another class cost little. 2 is the mean over
            the segment. None: all pixels, the P^n Potts model of Kohli et al. 2007, for segments of few pixels.
    Raises: TypeError or ValueError: on construction, naming the field.
    """

    name: str
    weight: ArrayLike = 1.0
    order: int | None = 4

    def __post_init__(self) -> None:
        _require_name(self.name, "segments")
        _set(self, "weight", weight(self.weight, "weight"))
        if self.order is not None:
            _set(self, "order", whole_number(self.order, "order", least=2))


@dataclass(frozen=True)
class MeanField:
    """Mean-field iterations (Krähenbühl & Koltun 2011, algorithm 1; Zheng et al. 2015, algorithm 1).

    Attributes:
        iterations: T; 0 returns what was given.
        damping: Share of the previous logits kept at each iteration, at least 0 and below 1.
        class_threshold: A class is left out of filtering as soon as its probability is below this everywhere; 0
            filters all classes. docs/algorithm.md, sections 6 and 8, has the rules and the error.
        tolerance: How far a marginal may be off in an iteration because of work left out: 0 works everything out in
            every iteration (docs/algorithm.md, section 8).
        gradient: "unrolled" goes back through every iteration, whose marginals are kept. "implicit" is that of the
            fixed point, which takes the iterations to have converged; its memory does not grow with them
            (docs/solvers.md).
    """

    takes_regions: ClassVar[bool] = True
    iterations: int = 10
    damping: float = 0.0
    class_threshold: float = 0.0
    tolerance: float = 1e-3
    gradient: Gradient = "unrolled"

    def __post_init__(self) -> None:
        _set(self, "iterations", whole_number(self.iterations, "iterations"))
        for name in ("damping", "class_threshold", "tolerance"):
            _set(self, name, proper_fraction(getattr(self, name), name))
        one_of(self.gradient, get_args(Gradient), "gradient")


@dataclass(frozen=True)
class FrankWolfe:
    """Regularised Frank-Wolfe: descends on the energy of marginals plus a regulariser (Lê-Huu & Alahari 2021).

    It returns the logits log q of its last marginals q, whose softmax they are. Probabilities below 1e-20 count as
    that, because Euclidean marginals can be 0, and their logits pass no gradient on.

    Attributes:
        iterations: The most; 0 returns the marginals of what was given.
        regularization: "entropic", λ Σ q log q, or "euclidean", ½ λ Σ q². With the first and λ = 1, a step of 1 is an
            iteration of mean field.
        strength: λ, from 1e-20 to 1e20. The smaller, the harder are the marginals, and the nearer is what it descends
            on to the energy; gradients vanish where marginals are hard.
        step: "line-search" goes as far as the regularised energy falls, or for the entropic one as an upper bound of
            it falls: it never rises. "open-loop" takes 2/(t + 2).
        tolerance: The iterations end after one whose step aimed at marginals nowhere further than this from those it
            had; 0 runs all of them.
        gradient: As for `MeanField`.
    Raises: TypeError or ValueError: on construction, naming the field.
    """

    iterations: int = 10
    regularization: Regularization = "entropic"
    strength: float = 1.0
    step: Step = "line-search"
    tolerance: float = 1e-3
    gradient: Gradient = "unrolled"

    def __post_init__(self) -> None:
        _set(self, "iterations", whole_number(self.iterations, "iterations"))
        one_of(self.regularization, get_args(Regularization), "regularization")
        _set(self, "strength", positive_number(self.strength, "strength"))
        if not WEAKEST <= self.strength <= 1 / WEAKEST:
            raise ValueError(f"strength={self.strength} must be from {WEAKEST} to {1 / WEAKEST}")
        one_of(self.step, get_args(Step), "step")
        _set(self, "tolerance", proper_fraction(self.tolerance, "tolerance"))
        one_of(self.gradient, get_args(Gradient), "gradient")


@dataclass(frozen=True)
class CRF:
    """A dense CRF and how it is solved; it compares, hashes and pickles.

    Attributes:
        kernels: Any number of `Kernel`.
        compatibility: M in `a = U - M Σ_k W_k N_k q`. None is the Potts model, M = -1: agreement is rewarded. A number,
            (C,) diagonal or (C, C) matrix is taken as given: a positive diagonal penalises agreement.
        solver: `MeanField` or `FrankWolfe`, which takes no regions.
        regions: Any number of `Regions`.
        text: The same as JSON, which `CRF.from_text` reads: for files and for operators of frameworks.
    Raises: TypeError or ValueError: on construction, naming the field.
    """

    kernels: Sequence[Kernel]
    compatibility: ArrayLike | None = None
    solver: MeanField | FrankWolfe = MeanField()
    regions: Sequence[Regions] = ()
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _set(self, "kernels", _all_of(Kernel, self.kernels, "kernels"))
        _set(self, "regions", _all_of(Regions, self.regions, "regions"))
        if self.compatibility is not None:
            _set(self, "compatibility", weight(self.compatibility, "compatibility"))
        _one_class(self.solver, tuple(_SOLVERS), "solver")
        if self.regions and not getattr(self.solver, "takes_regions", False):
            raise ValueError(f"{type(self.solver).__name__} takes no regions, only kernels: use MeanField(…)")
        for name in self.region_names:
            if name in (kernel.features.name for kernel in self.kernels if isinstance(kernel.features, Given)):
                raise ValueError(f"{name!r} names both features of a kernel and regions: give one of them another name")
        _set(self, "text", json.dumps(encoded(self), separators=(",", ":")))
        active = [bool(np.any(term.weight)) for term in self.terms]
        _set(self, "_active", self if all(active) else self.where(active))

    @property
    def terms(self) -> "tuple[Kernel | Regions, ...]":
        """Kernels and then regions: whatever has a weight, in the order of all lists of weights."""
        return (*self.kernels, *self.regions)

    @property
    def active(self) -> "CRF":
        """The CRF without its terms of weight 0."""
        return self._active  # type: ignore[attr-defined, no-any-return]

    def where(self, kept: Sequence[bool]) -> "CRF":
        """The CRF of some of its terms, in their order."""
        chosen = list(compress(self.terms, kept))
        kernels = [term for term in chosen if isinstance(term, Kernel)]
        return replace(self, kernels=kernels, regions=[term for term in chosen if isinstance(term, Regions)])

    @classmethod
    def from_text(cls, text: str) -> "CRF":
        """The CRF of this `text`.

        Raises: TypeError or ValueError: if the text does not describe a CRF.
        """
        return _from_text(text)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each term: of features or regions, numbered where several share one: bilateral, bilateral_2.

        Frameworks name weights by them, so any other character than a letter or digit in a name becomes an underscore.
        """
        names: list[str] = []
        for given in (*(kernel.features.name for kernel in self.kernels), *(each.name for each in self.regions)):
            name = re.sub(r"\W", "_", given)
            numbered = (f"{name}_{number}" for number in count(2))
            names.append(next(each for each in chain([name], numbered) if each not in names))
        return tuple(names)

    @property
    def given_names(self) -> tuple[str, ...]:
        """The names under which calls give features, kernels or segments, each once, in the order of the terms."""
        features = (kernel.features for kernel in self.kernels)
        names = (each.name for each in features if isinstance(each, Given))
        return tuple(dict.fromkeys((*names, *self.region_names)))

    @property
    def region_names(self) -> tuple[str, ...]:
        """The names under which calls give segments, each once."""
        return tuple(dict.fromkeys(each.name for each in self.regions))

    @property
    def thetas(self) -> dict[str, Deviation]:
        """Deviations by name, each that of the first kernel that has one."""
        found: dict[str, Deviation] = {}
        for kernel in self.kernels:
            for name in thetas_of(kernel.features):
                found.setdefault(name, getattr(kernel.features, name))
        return found

    def with_thetas(self, **thetas: Deviation | Sequence[float]) -> "CRF":
        """The same with other deviations, in all kernels that have one of that name: `theta_beta=10`.

        Raises: TypeError or ValueError: if no kernel has one of that name, or for wrong deviations.
        """
        self.require_thetas(thetas)
        kernels = []
        for kernel in self.kernels:
            changes = {name: thetas[name] for name in thetas_of(kernel.features) if name in thetas}
            kernels.append(replace(kernel, features=replace(kernel.features, **changes)))
        return replace(self, kernels=kernels)

    def with_image_range(self, image_range: Sequence[float] | None) -> "CRF":
        """The same with the range of the image's levels, or none, in all bilateral kernels.

        Raises: TypeError or ValueError: if there is no such kernel for a range, or for a wrong one.
        """
        kernels = [
            replace(kernel, features=replace(kernel.features, image_range=image_range))
            if isinstance(kernel.features, Bilateral)
            else kernel
            for kernel in self.kernels
        ]
        if image_range is not None and not any(isinstance(kernel.features, Bilateral) for kernel in kernels):
            raise ValueError(f"image_range={image_range!r} is for bilateral kernels: {', '.join(self.names) or 'none'}")
        return replace(self, kernels=kernels)

    def require_thetas(self, names: Iterable[str]) -> None:
        """Raise a ValueError unless some kernel has a deviation of each of these names."""
        for name in names:
            if name not in self.thetas:
                raise ValueError(f"no kernel has {name}; they have {', '.join(self.thetas) or 'no deviations'}")

    def in_pixels(self, spacing: float | Sequence[float], axes: int) -> "CRF":
        """The same with deviations of positions, given in the unit of the spacing, in pixels along each axis.

        Args:
            spacing: Distance between neighbouring pixels: a number, or one for each axis as (x, y[, z]).
            axes: How many spatial axes there are.
        Raises: TypeError or ValueError: if the spacing is not positive and finite, or has another number of axes.
        """
        return replace(
            self,
            kernels=[replace(kernel, features=_in_pixels(kernel.features, spacing, axes)) for kernel in self.kernels],
        )


_SOLVERS: tuple[type, ...] = (MeanField, FrankWolfe)
_TYPES = {
    each.__name__: each for each in (CRF, Kernel, Regions, Spatial, Bilateral, Given, Grid, Lattice, Exact, *_SOLVERS)
}


def thetas_of(features: Features) -> Iterator[str]:
    """The names of the deviations of features."""
    return (each.name for each in fields(features) if each.name.startswith("theta_"))


def encoded(value: Any) -> Any:
    """A part of a CRF as what JSON can hold; lists that are empty unless given are left out if they are."""
    if is_dataclass(value):
        given = ((each, getattr(value, each.name)) for each in fields(value) if each.init)
        content = {each.name: encoded(held) for each, held in given if (each.default, held) != ((), ())}
        return {"type": type(value).__name__, **content}
    return list(map(encoded, value)) if isinstance(value, tuple) else value


def decoded(value: Any) -> Any:
    """The object that `encoded` was given.

    Raises: TypeError or ValueError: if there is an unknown type or field, or a wrong value.
    """
    if isinstance(value, list):
        return tuple(map(decoded, value))
    if not isinstance(value, dict):
        return value
    content = {key: decoded(each) for key, each in value.items()}
    kind = content.pop("type", None)
    if kind not in _TYPES:
        raise ValueError(f"type={kind!r} is unknown; use {', '.join(map(repr, _TYPES))}")
    known = [each.name for each in fields(_TYPES[kind]) if each.init]
    for key in content:
        if key not in known:
            raise ValueError(f"{kind} has no {key!r}; it has {', '.join(known) or 'no fields'}")
    for each in fields(_TYPES[kind]):
        if each.init and each.default is MISSING and each.name not in content:
            raise ValueError(f"{kind} needs {each.name!r}")
    return _TYPES[kind](**content)


@lru_cache(maxsize=256)
def _from_text(text: str) -> CRF:
    try:
        crf = decoded(json.loads(text))
    except RecursionError:
        raise ValueError("the text of a CRF is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the text of a CRF is no complete JSON: {error}") from None
    _one_class(crf, CRF, "the text")
    return crf  # type: ignore[no-any-return]


def _in_pixels(features: Any, spacing: float | Sequence[float], axes: int) -> Any:
    changes = {name: in_pixels(getattr(features, name), spacing, axes, name) for name in features.positions}
    return replace(features, **changes) if changes else features


def _all_of(kind: type, given: Any, name: str) -> tuple[Any, ...]:
    """A list of a specification's parts, as a tuple."""
    if isinstance(given, kind | str) or not isinstance(given, Sequence):
        raise TypeError(f"{name} is {_described(given)}; expected a list of {kind.__name__}")
    for index, each in enumerate(given):
        _one_class(each, kind, f"{name}[{index}]")
    return tuple(given)


def _require_name(name: object, what: str) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"name={name!r} must be text, the name under which calls give {what}")


def _one_class(value: object, expected: type | tuple[type, ...], name: str) -> None:
    if not isinstance(value, expected):
        classes = expected if isinstance(expected, tuple) else (expected,)
        raise TypeError(
            f"{name} is {_described(value)}; expected {' or '.join(f'{each.__name__}(…)' for each in classes)}"
        )


def _described(value: object) -> str:
    """What a value is, in words: the value if it is short, an object of a class, or the class itself."""
    if value is None or isinstance(value, int | float | str):
        return f"{value!r:.60}"
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
