"""Refusing, in the user's terms, what cannot fit into memory, before it is allocated."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes this process can still allocate without swapping; None where the system does not say."""
    known = [amount for amount in (_system_memory(), _cgroup_memory()) if amount is not None]
    return min(known, default=None)


def require_memory(needed: int, what: str) -> None:
    """Raise a MemoryError if `what` needs more bytes than are available."""
    available = available_memory()
    if available is not None and needed > available:
        raise MemoryError(
            f"{what} needs about {needed / 1e9:.3g} GB of memory and {available / 1e9:.3g} GB is available; "
            "work on a smaller image or on crops, or with fewer classes"
        )


def lattice_bytes(num_points: int, num_features: int, itemsize: int, neighbour_rounds: int = 0) -> int:
    """About what building a lattice takes: two ids, a weight and a share of the vertices' keys for every corner."""
    return num_points * (num_features + 1) * (12 + itemsize) * (1 + 8 * neighbour_rounds)


def mean_field_bytes(num_points: int, num_classes: int, itemsize: int, kept_iterations: int = 0) -> int:
    """About what a mean field takes over its inputs: marginals, messages, lattice values, result and what is kept."""
    padded = -(-num_classes // 8) * 8
    return num_points * padded * itemsize * (6 + kept_iterations)


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
    """What a container's limit leaves: version 2 of control groups, which has no number where there is no limit."""
    try:
        return int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
