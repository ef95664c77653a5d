"""How many threads a call uses."""

import operator
import os

MOST_THREADS = 1024


def default_threads() -> int:
    """The first number of OMP_NUM_THREADS, at most 1024, if it is one, otherwise the processors it may use."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdecimal() and int(first) > 0:
        return min(int(first), MOST_THREADS)
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """The number asked for, or the default if it is None; at most `MOST_THREADS`, as no result depends on it.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is below 1.
    """
    if threads is None:
        return default_threads()
    try:
        count = operator.index(threads)
    except TypeError:
        raise TypeError(f"threads={threads!r} must be an integer, or None for the default") from None
    if count < 1:
        raise ValueError(f"threads={count} must be at least 1; None takes the default, {default_threads()} here")
    return min(count, MOST_THREADS)
