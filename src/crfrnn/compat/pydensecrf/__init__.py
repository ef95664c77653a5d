"""pydensecrf's modules over this package: `import crfrnn.compat.pydensecrf.densecrf as dcrf` is the line to change.

Names, arguments, defaults, signs and results are pydensecrf's. After `install()` code that imports `pydensecrf` itself
runs on these modules, unmodified; `python -m crfrnn.compat.pydensecrf script.py …` runs a whole program so.
"""

import sys

from crfrnn.compat.modules import stand_in
from crfrnn.compat.pydensecrf import densecrf, eigen, utils

__all__ = ["densecrf", "eigen", "install", "utils"]


def install() -> None:
    """Make `import pydensecrf`, wherever it comes from now on, find these modules.

    Processes that a worker pool spawns, rather than forks, have to call it themselves.

    Raises: RuntimeError: if pydensecrf itself has been imported already; some code would go on with the old modules.
    """
    ours = {"densecrf": densecrf, "eigen": eigen, "utils": utils}
    names = {f"pydensecrf.{name}": module for name, module in ours.items()}
    stand_in({"pydensecrf": sys.modules[__name__]} | names, "crfrnn.compat.pydensecrf.install")
