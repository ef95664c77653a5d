"""SimpleCRF's modules over this package: `import crfrnn.compat.simplecrf.denseCRF as denseCRF` is the line to change.

After `install()` code that imports `denseCRF` and `denseCRF3D` itself runs on these modules, unmodified. There is no
`maxflow`: crfrnn has no graph cut.
"""

from crfrnn.compat.modules import stand_in
from crfrnn.compat.simplecrf import denseCRF, denseCRF3D

__all__ = ["denseCRF", "denseCRF3D", "install"]


def install() -> None:
    """Make `import denseCRF` and `import denseCRF3D`, wherever they come from now on, find these modules.

    Raises: RuntimeError: if SimpleCRF's own have been imported already.
    """
    stand_in({"denseCRF": denseCRF, "denseCRF3D": denseCRF3D}, "crfrnn.compat.simplecrf.install")
