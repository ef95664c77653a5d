"""pydensecrf's modules, which are those of `crfrnn.compat.pydensecrf`."""

import sys

from crfrnn.compat.pydensecrf import densecrf, eigen, utils

__all__ = ["densecrf", "eigen", "utils"]

for _module, _name in ((densecrf, "densecrf"), (eigen, "eigen"), (utils, "utils")):
    sys.modules[f"{__name__}.{_name}"] = _module
