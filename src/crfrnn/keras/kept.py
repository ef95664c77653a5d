"""What forward passes leave for their backward passes, under numbers that travel through compiled programs."""

from collections.abc import Sequence
from itertools import count

import numpy as np

from crfrnn.inference.batch import Record
from crfrnn.memory import array_bytes, lattice_bytes

LIMIT = 2 * 2**30
"""Bytes kept besides what the newest forward pass left."""
NUMBERS = 2**31


class Kept:
    """Lattices and marginals of forward passes, each kept until its backward pass takes it.

    TensorFlow and JAX carry arrays from the forward to the backward pass, not Python objects, and may run a backward
    pass once, often or never. So the oldest entries are dropped beyond a limit. A backward pass that does not find its
    entry computes the forward pass again.

    There is no lock: a process that is forked while another thread holds one would wait for it for ever. Each step
    below is one operation of a dictionary or a counter, which threads do not share.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._entries: dict[int, Sequence[Record]] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, records: Sequence[Record]) -> int:
        """The number under which the records of a batch are kept from now on."""
        for oldest in list(self._entries):
            if sum(map(_bytes, list(self._entries.values()))) <= self.limit:
                break
            self._entries.pop(oldest, None)
        number = next(self._numbers) % NUMBERS
        self._entries[number] = records
        return number

    def take(self, number: int) -> Sequence[Record] | None:
        """The records kept under a number, which are then dropped; None if they are not there."""
        return self._entries.pop(number, None)


def _bytes(records: Sequence[Record]) -> int:
    terms = (term for record in records for term in record.terms)
    lattices = sum(lattice_bytes(term.num_points, 2, np.dtype(term.dtype or np.float64).itemsize) for term in terms)
    return lattices + sum(array_bytes(record.kept) for record in records)
