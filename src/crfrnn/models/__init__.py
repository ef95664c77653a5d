"""Segmentation networks, alone and with a CRF-RNN behind them, and their weights on disk.

`Segmenter` joins any network with a CRF-RNN and `attach` does so in one line; `FcnLite` is the small network that
trains in minutes, `Fcn8s` that of the paper. `load_model` reads what `save_model` wrote, or the model that comes with
the package.
"""

try:
    import safetensors as _safetensors  # noqa: F401
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"crfrnn.models needs {error.name}, which is not installed: pip install 'crfrnn[models]'"
    ) from error

from crfrnn.models.crf import with_crf
from crfrnn.models.fcn import Fcn8s, Fcn16s, Fcn32s
from crfrnn.models.fcn_lite import FcnLite
from crfrnn.models.official import load_official
from crfrnn.models.segmenter import Segmenter, attach
from crfrnn.models.store import NETWORKS, Model, load_model, save_model

__all__ = [
    "NETWORKS",
    "Fcn8s",
    "Fcn16s",
    "Fcn32s",
    "FcnLite",
    "Model",
    "Segmenter",
    "attach",
    "load_model",
    "load_official",
    "save_model",
    "with_crf",
]
