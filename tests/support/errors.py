"""How the suite reads error messages: by the facts they must state, whatever the sentence around them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def raises_saying(error: type[Exception], *facts: str) -> Iterator[None]:
    """The block raises exactly this kind of error, and its message holds every one of the facts."""
    with pytest.raises(error) as caught:
        yield
    assert caught.type is error
    message = str(caught.value)
    missing = [fact for fact in facts if fact not in message]
    assert not missing, f"{missing} not said in: {message}"
