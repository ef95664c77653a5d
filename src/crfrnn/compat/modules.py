"""Modules of this package under the names of another tool's, for programs that import that tool themselves."""

import sys
from collections.abc import Mapping
from types import ModuleType


def stand_in(modules: Mapping[str, ModuleType], installer: str) -> None:
    """Make imports of these names, wherever they come from now on, find these modules.

    Args:
        modules: By name; a package comes before the modules in it.
        installer: What the caller is called, for messages.
    Raises: RuntimeError: if one of these names has been imported already; some code would go on with the old module.
    """
    for name, module in modules.items():
        there = sys.modules.get(name, module)
        if there is not module:
            raise RuntimeError(
                f"{name} is already imported, from {getattr(there, '__file__', None) or 'elsewhere'}: call "
                f"{installer}() before anything imports it"
            )
    sys.modules.update(modules)
