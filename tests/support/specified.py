"""A CRF and how to compute it, by names, with deviations for tiny images that lie on no border of simplices.

It works everything out, whatever a backend could leave out.
"""

from typing import NamedTuple

from crfrnn import CRFParameters
from crfrnn.crf import CRF
from crfrnn.inference.backend import Execution

THETAS = {"theta_alpha": 5.13, "theta_beta": 61.7, "theta_gamma": 1.57}


class Specified(NamedTuple):
    crf: CRF
    execution: Execution


def specified(**settings) -> Specified:
    """Fields of `CRFParameters` and of `Execution` by name; one thread unless something else is said."""
    execution = {name: settings.pop(name) for name in Execution._fields if name in settings}
    return Specified(
        CRFParameters(**({"tolerance": 0} | THETAS | settings)).crf, Execution(**({"threads": 1} | execution))
    )
