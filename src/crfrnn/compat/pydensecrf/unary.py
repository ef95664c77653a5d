"""pydensecrf's unaries: energies, -log p, lower is likelier."""

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Shape, float_array
from crfrnn.compat.pydensecrf.arguments import layout
from crfrnn.memory import require_memory

Float32 = NDArray[np.float32]
IMPOSSIBLE = 1e6
"""The energy that log 0 counts as: exp(-IMPOSSIBLE) is 0, and messages to such a class stay far smaller."""


class Unary:
    """What `setUnary` takes: a `ConstUnary` or a `LogisticUnary`.

    Attributes:
        scores: (labels, *spatial), minus the energies.
        layout: The shape that the energies were flattened from, if it shows.
    """

    scores: Float32
    layout: Shape | None


class ConstUnary(Unary):
    """Energies u, (labels, points) or (labels, *spatial)."""

    def __init__(self, u: ArrayLike) -> None:
        self.scores = _scores(u, "u")
        self.layout = layout(u)


class LogisticUnary(Unary):
    """Energies L f of features f, (features, points), with weights L, (labels, features)."""

    def __init__(self, L: ArrayLike, f: ArrayLike) -> None:
        weights, features = (float_array(given, name, np.float32) for given, name in ((L, "L"), (f, "f")))
        if weights.ndim != 2 or features.ndim != 2 or weights.shape[1] != features.shape[0]:
            raise ValueError(
                f"L has shape {weights.shape} and f {features.shape}; expected (labels, features) and "
                "(features, points), with as many features"
            )
        self.scores = _scores(weights @ features, "L f")
        self.layout = layout(f)


def _scores(energies: ArrayLike, name: str) -> Float32:
    """Minus the energies, in a new array: class scores, higher is likelier.

    An infinite energy, such as -log 0, counts as `IMPOSSIBLE`. A point where all classes have one counts as unknown.
    """
    array = float_array(energies, name, np.float32)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected (labels, points), at least one of each")
    require_memory(array.nbytes, f"a copy of {name} of shape {array.shape}")
    given: Float32 = np.negative(array)
    finite = np.isfinite(given)
    if finite.all():
        return given
    if np.isnan(given).any():
        raise ValueError(f"{name} holds {np.isnan(given).sum()} NaN among {given.size} values")
    infinite = given == np.inf
    if infinite.any():
        raise ValueError(
            f"{name} holds {infinite.sum()} times -inf among {given.size} values; energies are -log p, and log 0 "
            "makes them +inf: is a minus missing?"
        )
    impossible = ~finite
    warnings.warn(
        f"{name} holds {impossible.sum()} infinite energies, -log 0, among {given.size}; they count as {IMPOSSIBLE:g}: "
        "clip probabilities, or use unary_from_softmax(..., clip=1e-5)",
        RuntimeWarning,
        stacklevel=4,
    )
    given[impossible] = -IMPOSSIBLE
    given[:, impossible.all(axis=0)] = 0
    return given
