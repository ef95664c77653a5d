"""All properties by name. Each takes an example, returns whether it was refused, and raises a `Fault`."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import properties_compat
import properties_files
import properties_numpy

MODULES = [properties_numpy, properties_compat, properties_files]
if importlib.util.find_spec("torch"):
    import properties_torch

    MODULES.append(properties_torch)

PROPERTIES: dict[str, Callable[[Any], bool]] = {
    name: function
    for module in MODULES
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
}
