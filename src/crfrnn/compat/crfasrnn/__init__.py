"""The official PyTorch port of CRF-RNN over this package: image first, its constructor, its signs and its files.

`from crfrnn.compat.crfasrnn.crfrnn import CrfRnn` is the line to change. After `install()` code that imports
`crfasrnn` itself runs on these modules, unmodified and without its compiled extension. It needs the models extra.
"""

import sys

from crfrnn.compat.crfasrnn import crfasrnn_model, crfrnn, fcn8s, params, util
from crfrnn.compat.modules import stand_in

__all__ = ["crfasrnn_model", "crfrnn", "fcn8s", "install", "params", "util"]


def install() -> None:
    """Make `import crfasrnn`, wherever it comes from now on, find these modules.

    Raises: RuntimeError: if crfasrnn itself has been imported already.
    """
    ours = {"crfasrnn_model": crfasrnn_model, "crfrnn": crfrnn, "fcn8s": fcn8s, "params": params, "util": util}
    names = {f"crfasrnn.{name}": module for name, module in ours.items()}
    stand_in({"crfasrnn": sys.modules[__name__]} | names, "crfrnn.compat.crfasrnn.install")
