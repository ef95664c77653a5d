"""The CRF-RNN as a layer of Keras 3, on its TensorFlow, JAX and PyTorch backends.

`CrfRnnLayer` is called like the original, `layer([logits, image])`. `fcn8s` is the network of the paper, and
`get_crfrnn_model_def` is both together, as the original defined them. docs/keras.md says what works where.
"""

import sys as _sys
from contextlib import suppress as _suppress
from importlib import import_module as _import_module

from crfrnn.keras.quiet import without_remarks as _without_remarks

# PyTorch loads Triton when it compiles, and so do its metrics. After TensorFlow that ends the process: both bring LLVM.
if "tensorflow" not in _sys.modules:
    with _suppress(ImportError):
        _import_module("triton")

try:
    with _without_remarks():
        import keras as _keras
except ImportError as error:
    raise ImportError(
        f"crfrnn.keras needs Keras 3 and the backend that KERAS_BACKEND names, and {error.name} is not installed: "
        "pip install 'crfrnn[keras]', and tensorflow, jax or torch"
    ) from error

if int(_keras.__version__.partition(".")[0]) < 3:
    raise ImportError(f"crfrnn.keras needs Keras 3, but {_keras.__version__} is installed: pip install 'crfrnn[keras]'")
if _keras.backend.backend() not in ("tensorflow", "jax", "torch"):
    raise ImportError(
        f"crfrnn.keras runs on the backends tensorflow, jax and torch, not on {_keras.backend.backend()}; "
        "set KERAS_BACKEND to one of them before Keras is imported"
    )

from crfrnn.keras.images import get_label_image, get_preprocessed_image
from crfrnn.keras.layer import CrfRnnLayer
from crfrnn.keras.model import fcn8s, get_crfrnn_model_def

__all__ = ["CrfRnnLayer", "fcn8s", "get_crfrnn_model_def", "get_label_image", "get_preprocessed_image"]
