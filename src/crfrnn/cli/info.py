"""What `crfrnn info` prints: the facts a bug report needs."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

import crfrnn


def info_lines() -> Iterator[str]:
    """Versions, the native core's compiler and instructions, threads; one name and value per line."""
    facts = {"crfrnn": crfrnn.__version__, "python": platform.python_version(), "platform": platform.platform()}
    facts |= {name.replace("_", "-"): str(value) for name, value in crfrnn.native_info().items()}
    facts["default-threads"] = str(crfrnn.default_threads())
    facts |= {package: installed_version(package) for package in ("numpy", "pillow", "torch")}
    width = max(map(len, facts))
    for name, value in facts.items():
        yield f"{name:<{width}}  {value}"


def installed_version(package: str) -> str:
    """The version of a package, found without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"not installed (pip install 'crfrnn[{package}]')"
