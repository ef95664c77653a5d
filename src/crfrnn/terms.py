"""In whose terms messages speak: ours, or those of another tool whose name was called."""

import re
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_spoken: ContextVar[tuple[Mapping[str, str], ...]] = ContextVar("_spoken", default=())
"""What is said instead of our words, the innermost tool first."""


def speaking(terms: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: warnings and errors of a function say these words instead of ours.

    Args:
        terms: What is said, by our names of arguments and our phrases.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            if _is_compiling():
                return function(*args, **kwargs)
            before = _spoken.set((terms, *_spoken.get()))
            try:
                return function(*args, **kwargs)
            except (ValueError, TypeError, MemoryError) as error:
                if error.args and isinstance(error.args[0], str):
                    error.args = (said(error.args[0], terms), *error.args[1:])
                raise
            finally:
                _spoken.reset(before)

        return called

    return decorate


def in_terms(message: str) -> str:
    """A message in the words of whoever was called."""
    for terms in _spoken.get():
        message = said(message, terms)
    return message


def are_ours() -> bool:
    """Whether nobody else's name was called."""
    return not _spoken.get()


def said(message: str, terms: Mapping[str, str]) -> str:
    """A message with other words for whole words and phrases of ours; where several fit, the longest counts."""
    whole = (rf"\b{re.escape(ours)}" if ours[0].isalnum() else re.escape(ours) for ours in sorted(terms, key=len)[::-1])
    words = (rf"{each}\b" if each[-1].isalnum() else each for each in whole)
    return re.sub("|".join(words), lambda found: terms[found[0]], message)


def _is_compiling() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and hasattr(torch, "compiler") and bool(torch.compiler.is_compiling())
