"""Other tools' names over this package, for code that was written for them; docs/migration.md has one table for each.

`crfrnn.compat.pydensecrf`, `crfrnn.compat.simplecrf` and `crfrnn.compat.bilateral_solver` need only the base install,
`crfrnn.compat.monai` and `crfrnn.compat.pamr` the torch extra, `crfrnn.compat.crfasrnn` the models extra. None needs
the tool itself. docs/compatibility.md tells what was tried.
"""

import importlib
from types import ModuleType

from crfrnn.extras import usable

_TOOLS = {
    "bilateral_solver": (),
    "crfasrnn": ("torch", "safetensors"),
    "monai": ("torch",),
    "pamr": ("torch",),
    "pydensecrf": (),
    "simplecrf": (),
}
"""Each with the packages without which it is not imported."""


def __getattr__(name: str) -> ModuleType:
    """A tool's names, imported when they are used."""
    if name in _TOOLS:
        return importlib.import_module(f"crfrnn.compat.{name}")
    raise AttributeError(f"module 'crfrnn.compat' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The tools, without those whose extra is missing."""
    return sorted([*usable(_TOOLS), *(name for name in globals() if name.startswith("__"))])
