"""What is installed beside the package."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec


def usable(needed: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The names of what has all the packages that it needs."""
    return [name for name, packages in needed.items() if all(map(_is_there, packages))]


def _is_there(package: str) -> bool:
    if package in sys.modules:  # a stand-in has no specification to find
        return sys.modules[package] is not None
    return find_spec(package) is not None
