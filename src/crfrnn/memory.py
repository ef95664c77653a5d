"""Refuses work that cannot fit into memory, in the user's terms, before anything is allocated."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crfrnn.arrays import padded_channels

MOST_BYTES, MOST_SHOWN = 2**63, 60
UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
CGROUP = Path("/sys/fs/cgroup")
UNKNOWN_MEMORY = 4_000_000_000
"""Bytes assumed to be half of the memory if the system does not tell how much there is."""


def available_memory() -> int | None:
    """Bytes that this process can still allocate without swapping; None if the system does not tell."""
    known = [amount for amount in (_system_memory(), _cgroup_memory()) if amount is not None]
    return min(known, default=None)


def half_of_memory() -> int:
    """Half of the available bytes, for work that can choose how much it uses."""
    return (available_memory() or 2 * UNKNOWN_MEMORY) // 2


def require_memory(needed: int, what: str) -> None:
    """Raise a MemoryError if `what` needs more bytes than are available."""
    available = available_memory()
    if available is not None and needed > available:
        raise MemoryError(
            f"{what} needs about {needed / 1e9:.3g} GB of memory and {available / 1e9:.3g} GB is available; "
            "work on a smaller image or on crops, or with fewer classes"
        )


def byte_count(text: str) -> int:
    """Bytes in words such as 4GB, 500 MB or 1.5TB.

    Raises: ValueError: if these are none.
    """
    given = re.fullmatch(r"([0-9]*\.?[0-9]+) *([kmgt])b?", text.strip().lower())
    shown = repr(text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…")
    if given is None:
        raise ValueError(f"{shown} is no amount of memory; expected one such as 4GB or 500MB")
    amount = float(given[1]) * UNITS[given[2]]
    if amount >= MOST_BYTES:
        raise ValueError(f"{shown} is more memory than there is")
    return int(amount)


def lattice_bytes(num_points: int, num_features: int, itemsize: int, neighbour_rounds: int = 0) -> int:
    """Rough bytes to build a lattice: two ids, a weight and a share of the vertices' keys for every corner."""
    return num_points * (num_features + 1) * (12 + itemsize) * (1 + 8 * neighbour_rounds)


def exact_bytes(num_points: int, num_features: int, itemsize: int) -> int:
    """Rough bytes of an exact kernel: a copy of the features, their boxes and two ids for every point."""
    blocks = -(-num_points // 64)
    return blocks * (66 * num_features * itemsize + 64 * 8)


def region_bytes(members: int) -> int:
    """Rough bytes of regions: for every member its pixel, its segment and its share, sorted and not."""
    return members * 40


def mean_field_bytes(
    num_points: int, num_classes: int, itemsize: int, kept_iterations: int = 0, kept_itemsize: int | None = None
) -> int:
    """Rough bytes of a mean field besides its inputs: marginals, messages, lattice values, result, kept iterations.

    Args:
        kept_itemsize: Bytes of a number that is kept; None is itemsize.
    """
    kept = kept_iterations * (kept_itemsize or itemsize)
    return num_points * padded_channels(num_classes) * (6 * itemsize + kept)


def tile_bytes(num_points: int, num_classes: int, num_features: int, itemsize: int, lattices: int = 1) -> int:
    """Rough bytes to refine a tile, including its part of scores and image.

    Each of the lattices over the image is assumed to have two vertices for every pixel, as many as the roughest photos
    have. Noise has up to d + 1.
    """
    vertices = 2 * num_points * (2 * padded_channels(num_classes) * itemsize + 20)
    inputs = num_points * (2 * num_classes + 2 * num_features) * itemsize
    return (
        lattices * (lattice_bytes(num_points, num_features, itemsize) + vertices)
        + mean_field_bytes(num_points, num_classes, itemsize)
        + inputs
    )


def array_bytes(kept: Any) -> int:
    """Bytes of the arrays in tuples and lists within each other; those that occur twice count once."""
    return sum({id(array): int(array.nbytes) for array in _arrays_in(kept)}.values())


def _arrays_in(kept: Any) -> Iterator[Any]:
    if isinstance(kept, tuple | list):
        for each in kept:
            yield from _arrays_in(each)
    elif hasattr(kept, "nbytes"):
        yield kept


def _system_memory() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _cgroup_memory() -> int | None:
    """Bytes that a container's limit leaves (control groups version 2); None if there is no limit."""
    try:
        return int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
