"""What a mean field did: how much of the work it left out because nothing changed any more."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Activity:
    """What a mean field did, iteration by iteration (docs/algorithm.md, sections 6 and 8).

    Attributes:
        iterations: How many ran. They end early if no point sent anything new in one, which is looked for where points
            are left out, and elsewhere about once in 17 iterations.
        classes: In how many classes messages were sent, for each of these iterations.
        evaluated: At which points the marginals to be sent were worked out anew in each of them,
            (iterations, *spatial); the others kept what they had. The result is worked out at all points in any case,
            from the messages of the last one.
    """

    iterations: int
    classes: tuple[int, ...]
    evaluated: NDArray[np.bool_]


def complete_activity(iterations: int, classes: int, points: int) -> Activity:
    """That of a solver which works everything out in every iteration, with points (N,)."""
    return Activity(iterations, (classes,) * iterations, np.ones((iterations, points), np.bool_))
