"""What a layer doubts of its input."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.crf import CRF
from crfrnn.levels import check_levels
from crfrnn.plausibility import check_logits, check_swapped


class Doubts:
    """What a layer looks at until there was something to judge, so that it warns once.

    Attributes:
        pending: Whether it has not judged yet.
    """

    def __init__(self) -> None:
        self.pending = True

    def look(self, crf: CRF, logits: NDArray[Any], image: NDArray[Any], call: str) -> None:
        """Warn of logits (B, C, *spatial) and an image (B, K, *spatial).

        Args:
            call: How it is called, for messages.
        """
        if self.pending and logits.size:
            check_logits(logits[0], "leave out the softmax or sigmoid before it, or give the logarithm", "logits")
            check_swapped(logits, image, call)
            self.pending = not check_levels(crf, np.moveaxis(image, 1, -1))
