"""Warnings of the package as words for the user whose input they are about."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from crfrnn.plausibility import InputWarning

_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)


@contextmanager
def noticed() -> Iterator[list[str]]:
    """The warnings about input within the context, in this thread alone; `told` has to be at work."""
    found: list[str] = []
    token = _heard.set(found)
    try:
        yield found
    finally:
        _heard.reset(token)


@contextmanager
def told() -> Iterator[None]:
    """Hand warnings about input to `noticed`, every time: Python shows them once, and to one user of several."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        shown = warnings.showwarning

        def tell(message: Any, category: Any, *where: Any, **more: Any) -> None:
            found = _heard.get()
            if found is None or not issubclass(category, InputWarning):
                shown(message, category, *where, **more)
            else:
                found.append(str(message))

        warnings.showwarning = tell
        yield
