"""pydensecrf's unaries: energies, -log p, lower is likelier."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Shape, all_finite, float_array, num_points, real_shape
from crfrnn.compat.pydensecrf.arguments import copied_bytes, layout
from crfrnn.memory import require_memory
from crfrnn.plausibility import check_energies, warn_of_input

Float32 = NDArray[np.float32]
IMPOSSIBLE = 1e6
"""The energy that log 0 counts as: exp(-IMPOSSIBLE) is 0, and messages to such a class stay far smaller."""


class Unary:
    """What `setUnary` takes: a `ConstUnary` or a `LogisticUnary`.

    Attributes:
        scores: (labels, *spatial), minus the energies, finite.
        undefined: (points,), where an energy was NaN or -inf; None where none was. The scores are 0 there.
        layout: The shape that the energies were flattened from, if it shows.
    """

    scores: Float32
    undefined: NDArray[np.bool_] | None
    layout: Shape | None


class ConstUnary(Unary):
    """Energies u, (labels, points) or (labels, *spatial)."""

    def __init__(self, u: ArrayLike) -> None:
        self.layout = layout(u)
        shape = real_shape(u, "u")
        if len(shape) < 2 or num_points(shape) == 0:
            raise ValueError(f"u has shape {shape}; expected (labels, points), at least one of each")
        _require_memory(copied_bytes(u, shape), shape)
        energies = _within_range(float_array(u, "u", np.float32), u)
        check_energies(energies, "u")
        self.scores, self.undefined = _scores(energies, "u")


class LogisticUnary(Unary):
    """Energies L f of features f, (features, points), with weights L, (labels, features)."""

    def __init__(self, L: ArrayLike, f: ArrayLike) -> None:
        self.layout = layout(f)
        weights, features = real_shape(L, "L"), real_shape(f, "f")
        if len(weights) != 2 or len(features) != 2 or weights[1] != features[0] or 0 in weights + features:
            raise ValueError(
                f"L has shape {weights} and f {features}; expected (labels, features) and (features, points), with as "
                "many features"
            )
        shape = (weights[0], features[1])
        _require_memory(copied_bytes(f, features) + 4 * num_points(shape), shape)
        given = [float_array(array, name, np.float32) for array, name in ((L, "L"), (f, "f"))]
        self.scores, self.undefined = _scores(given[0] @ given[1], "L f")


def _within_range(energies: Float32, given: ArrayLike) -> Float32:
    """Finite energies that float32 cannot hold become its largest and smallest numbers, for they are not infinite."""
    if (isinstance(given, np.ndarray) and given.dtype.itemsize <= 4) or not np.isinf(energies).any():
        return energies
    largest = np.finfo(np.float32).max
    return np.where(np.isfinite(given), energies.clip(-largest, largest), energies)


def _require_memory(copies: int, shape: Shape) -> None:
    """Raise a MemoryError if there is no room for scores of this shape, whether each is finite, and for copies."""
    require_memory(copies + 5 * num_points(shape), f"a copy of energies of shape {shape}")


class _Scores(NamedTuple):
    scores: Float32
    undefined: NDArray[np.bool_] | None


def _scores(energies: NDArray[np.floating], name: str) -> _Scores:
    """Minus the energies, in a new array: class scores, higher is likelier; and the points that have none.

    An infinite energy, such as -log 0, counts as `IMPOSSIBLE`. A point where all classes have one counts as unknown.
    """
    given: Float32 = np.negative(energies)
    if all_finite(given):
        return _Scores(given, None)
    finite = np.isfinite(given)
    wrong = np.isnan(given) | (given == np.inf)
    impossible = ~finite & ~wrong
    if impossible.any():
        warn_of_input(
            f"{name} holds {impossible.sum()} infinite energies, -log 0, among {given.size}; they count as "
            f"{IMPOSSIBLE:g}: clip probabilities, or use unary_from_softmax(..., clip=1e-5)"
        )
        given[impossible] = -IMPOSSIBLE
        given[:, impossible.all(axis=0)] = 0
    if not wrong.any():
        return _Scores(given, None)
    nans = int(np.isnan(given).sum())
    counted = [(nans, "NaN"), (int(wrong.sum()) - nans, "-inf")]
    warn_of_input(
        f"{name} holds {' and '.join(f'{number} {kind}' for number, kind in counted if number)} among {given.size} "
        "energies. As in pydensecrf, all probabilities of such a point are NaN, and so are those of points that hear "
        "of it, in the end all of them; argmax then gives 0"
        f"{'. Energies are -log p, and log 0 makes them +inf: is a minus missing?' if nans < wrong.sum() else ''}"
    )
    undefined = wrong.any(axis=0)
    given[:, undefined] = 0
    return _Scores(given, undefined.reshape(-1))
