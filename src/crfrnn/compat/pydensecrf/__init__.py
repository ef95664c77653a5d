"""pydensecrf's modules over this package: `import crfrnn.compat.pydensecrf.densecrf as dcrf` is the line to change.

Names, arguments, defaults, signs and results are pydensecrf's. After `install()` code that imports `pydensecrf` itself
runs on these modules, unmodified.
"""

import sys

from crfrnn.compat.pydensecrf import densecrf, eigen, utils

__all__ = ["densecrf", "eigen", "install", "utils"]


def install() -> None:
    """Make `import pydensecrf`, wherever it comes from now on, find these modules.

    Processes that a worker pool spawns, rather than forks, have to call it themselves.

    Raises: RuntimeError: if pydensecrf itself has been imported already; some code would go on with the old modules.
    """
    ours = sys.modules[__name__]
    there = sys.modules.get("pydensecrf", ours)
    if there is not ours:
        raise RuntimeError(
            f"pydensecrf is already imported, from {getattr(there, '__file__', None) or 'elsewhere'}: call "
            "crfrnn.compat.pydensecrf.install() before anything imports it"
        )
    sys.modules["pydensecrf"] = ours
    sys.modules["pydensecrf.densecrf"] = densecrf
    sys.modules["pydensecrf.eigen"] = eigen
    sys.modules["pydensecrf.utils"] = utils
