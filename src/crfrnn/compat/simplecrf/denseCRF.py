"""SimpleCRF's `denseCRF`: a dense CRF on a picture."""

# ruff: noqa: N999
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.compat.simplecrf.labelling import Kernels, Named, labels

CLIP = (0.01, 0.99)
"""What SimpleCRF brings probabilities into, so that a mask of 0 and 1 can change."""


def densecrf(I: ArrayLike, P: ArrayLike, param: Sequence[float]) -> NDArray[np.int8]:  # noqa: E741
    """Labels (H, W) of a picture.

    Args:
        I: (H, W, channels), RGB from 0 to 255. Any number of channels and any real dtype; SimpleCRF takes 8-bit RGB.
        P: (H, W, labels) probabilities, which are clipped to 0.01-0.99.
        param: (w1, alpha, beta, w2, gamma, it): weight of the bilateral kernel, its deviations in pixels and levels,
            weight of the spatial kernel, its deviation, and iterations.
    Raises: ValueError: if shapes do not fit, or there are not six numbers.
    """
    try:
        given = "" if len(param) == 6 else f"has {len(param)} values"
    except TypeError:
        given = f"is {param!r}"
    if given:
        raise ValueError(f"param {given}; expected six: (w1, alpha, beta, w2, gamma, it)")
    w1, alpha, beta, w2, gamma, it = param
    weights = Named("w2", w2), Named("w1", w1)
    kernels = Kernels(Named("gamma", gamma), Named("alpha", alpha), Named("beta", beta), weights)
    return labels(I, P, kernels, Named("it", it), CLIP)
