"""Region terms: segments whose pixels tend to be of one class (docs/algorithm.md, eq. 32).

They have the methods of `terms.Term`, as pairs have. What pixels send each other is no linear filter, so the transpose
of a pair's filter becomes the derivative at the marginals.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Array, Shape, class_weights, mask_array, num_points, plain_array, region_array
from crfrnn.crf import EPSILON, Regions
from crfrnn.inference.coupling import couple, coupling_gradient, is_diagonal

FLOOR = 1e-20
"""What a factor of a product counts at least: its logarithm stays finite, and can be taken out of a sum again."""


class Segments(NamedTuple):
    """Some segments that share no pixel, and their n members.

    Attributes:
        points: The pixels that are members, as an index into all of them.
        segment: (n,) the segment of each member, 0 to S - 1.
        order: (n,) members sorted by segment; None if they are.
        starts: (S,) where the members of each segment begin in that order.
        share: (n, 1) how much of the pixel is a member, from 0 to 1; None where all are 1.
    """

    points: Any
    segment: NDArray[np.intp]
    order: NDArray[np.intp] | None
    starts: NDArray[np.intp]
    share: NDArray[np.float64] | None

    def agreement(self, q: Array, order: int | None) -> Array:
        """What every member hears of each class, (n, C): from 0 to its share."""
        if order is not None:
            return self._shared(np.power(self._mean(q), order - 1).astype(q.dtype)[self.segment])
        logs = np.log(self._factors(q))
        return self._shared(np.exp(self._sums(logs)[self.segment] - logs))

    def agreement_vjp(self, q: Array, cotangent: Array, order: int | None) -> Array:
        """The gradient of ⟨cotangent, agreement⟩ to the marginals of the members, (n, C)."""
        if order is not None:
            slope = (order - 1) * np.power(self._mean(q), order - 2) / self._sizes()
            return self._shared((self._sums(self._shared(cotangent)) * slope)[self.segment])
        weighted = cotangent * self.agreement(q, order)
        return self._shared((self._sums(weighted)[self.segment] - weighted) / self._factors(q))

    def potential(self, q: Array, order: int | None) -> NDArray[np.float64]:
        """What all segments together expect of each class, (C,): the energy is E times this."""
        if order is not None:
            return np.asarray((self._sizes() * np.power(self._mean(q), order)).sum(axis=0) / order)
        products = np.exp(self._sums(np.log(self._factors(q))))
        return np.asarray(np.where(self._sizes() > EPSILON, products, 0).sum(axis=0))

    def _sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Sums (S, C) over the members (n, C) of each segment."""
        in_order = values if self.order is None else values[self.order]
        return np.add.reduceat(in_order, self.starts, axis=0, dtype=np.float64)

    def _sizes(self) -> NDArray[np.float64]:
        """How many members each segment has, (S, 1), each with its share."""
        return self._sums(self._shared(np.ones((len(self.segment), 1)))) + EPSILON

    def _mean(self, q: Array) -> NDArray[np.float64]:
        return self._sums(self._shared(q[self.points])) / self._sizes()

    def _factors(self, q: Array) -> NDArray[np.float64]:
        """The probability that a member is of a class, or no member after all."""
        probability = self._shared(q[self.points]) + (0 if self.share is None else 1 - self.share)
        return np.maximum(probability, FLOOR, dtype=np.float64)

    def _shared(self, values: NDArray[Any]) -> NDArray[Any]:
        return values if self.share is None else self.share * values


@dataclass(frozen=True, eq=False)
class RegionTerm:
    """Segments with a weight: a term of the mean field beside `PairwiseTerm` (docs/algorithm.md, eq. 32).

    A message costs as much as a few sums over the pixels of all segments; memory is that of a few messages in float64.

    Attributes:
        segments: Ids (*spatial), integers, where a negative id is in no segment; or memberships (S, *spatial) from 0 to
            1, as floating-point numbers or booleans, which may overlap.
        weight: Number, (C,) or (C, C).
        order: How many pixels of a segment have to agree, as in `Regions`; None is all of them.
        mask: Weights ≥ 0 of the pixels, N of them in any shape. One of less than 1 is a member by so much less.
    Raises: TypeError or ValueError: on construction, if one of them does not fit.
    """

    segments: ArrayLike
    weight: ArrayLike = 1.0
    order: int | None = Regions.order
    mask: ArrayLike | None = None
    num_points: int = field(init=False, repr=False)
    parts: tuple[Segments, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        order = Regions("segments", order=self.order).order
        given = plain_array(self.segments, "segments")
        grid = given.shape if given.dtype.kind in "iu" else given.shape[1:]
        mask = None if self.mask is None else mask_array(plain_array(self.mask, "mask").flatten(), (num_points(grid),))
        self._set(region_array(given, "segments", grid), class_weights(self.weight, "weight"), order, mask, grid)

    @classmethod
    def of_checked(cls, segments: NDArray[Any], regions: Regions, mask: Array | None, grid: Shape) -> "RegionTerm":
        """A term of segments over a grid, as `region_array` returns them, and a mask (N,) that has been checked."""
        term = cls.__new__(cls)
        term._set(segments, np.asarray(regions.weight, np.float64), regions.order, mask, grid)
        return term

    @property
    def dtype(self) -> None:
        """Any precision will do."""
        return None

    def message(self, q: Array, coupling: NDArray[Any]) -> Array:
        """As in `terms.Term`."""
        return couple(self._received(q), coupling)

    def vjp(self, q: Array, cotangent: Array, coupling: NDArray[Any]) -> tuple[Array, Array]:
        """As in `terms.Term`."""
        sent = couple(cotangent, coupling.T)
        to_q = np.zeros(q.shape)
        for part in self.parts:
            to_q[part.points] += part.agreement_vjp(q, sent[part.points], self.order)
        return to_q.astype(q.dtype), coupling_gradient(cotangent, self._received(q), coupling.ndim)

    def energy(self, q: Array, coupling: NDArray[Any]) -> float:
        """As in `terms.Term`.

        Raises: ValueError: if the coupling is a matrix with entries off its diagonal, which have no energy here.
        """
        if not is_diagonal(coupling):
            raise ValueError(
                "regions have an energy only if weight and compatibility multiply to a number or a diagonal; here they "
                "make a full matrix"
            )
        diagonal = coupling.diagonal() if coupling.ndim == 2 else coupling
        return float(sum((diagonal * part.potential(q, self.order)).sum() for part in self.parts))

    def check_points(self, spatial: Shape, name: str) -> None:
        """As in `terms.Term`."""
        if self.num_points != num_points(spatial):
            raise ValueError(
                f"scores of spatial shape {spatial} have {num_points(spatial)} points, but the segments of {name} have "
                f"{self.num_points}"
            )

    def _received(self, q: Array) -> Array:
        """What every pixel hears of each class, (N, C)."""
        received = np.zeros_like(q)
        for part in self.parts:
            received[part.points] += part.agreement(q, self.order).astype(q.dtype, copy=False)
        return received

    def _set(
        self, segments: NDArray[Any], weight: NDArray[np.float64], order: int | None, mask: Array | None, grid: Shape
    ) -> None:
        membership = np.ones(num_points(grid)) if mask is None else np.minimum(mask, 1).astype(np.float64)
        parts = _of_ids(segments, membership) if segments.shape == grid else _of_shares(segments, membership)
        for name, value in {
            "segments": segments, "weight": weight, "order": order, "mask": mask, "num_points": num_points(grid),
            "parts": tuple(parts),
        }.items():  # fmt: skip
            object.__setattr__(self, name, value)


def _of_ids(ids: NDArray[Any], membership: NDArray[np.float64]) -> Iterator[Segments]:
    """All segments of a map at once, as they share no pixel. Pixels in none make up one of which they have no share."""
    flat = np.maximum(ids.reshape(-1), -1)
    share = membership * (flat >= 0)
    _, segment = np.unique(flat, return_inverse=True)
    order = np.argsort(segment, kind="stable")
    starts = np.flatnonzero(np.diff(segment[order], prepend=-1))
    yield Segments(slice(None), segment, order, starts, None if (share == 1).all() else share[:, None])


def _of_shares(shares: NDArray[Any], membership: NDArray[np.float64]) -> Iterator[Segments]:
    """One segment after the other, without those that have no members."""
    for each in shares.reshape(len(shares), -1):
        share = each * membership
        points = np.flatnonzero(share)
        if points.size:
            segment = np.zeros(points.size, np.intp)
            yield Segments(points, segment, None, segment[:1], share[points, None])
