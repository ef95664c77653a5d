"""The dense CRF as a differentiable part of PyTorch models.

`CrfRnn` is the layer; `mean_field` and `gaussian_filter` are the functions under it, `upsample` brings scores to the
size of an image, and `bilateral_solver` smooths values along its edges. `losses` has those that train a network from
clicks and scribbles. Tensors are channels first, (batch, channels, *spatial), with 1 to 3 spatial axes.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("crfrnn.torch needs PyTorch, which is not installed: pip install 'crfrnn[torch]'") from error

from crfrnn.torch import losses
from crfrnn.torch.bilateral_solver import bilateral_solver
from crfrnn.torch.functional import gaussian_filter, mean_field
from crfrnn.torch.layer import CrfRnn
from crfrnn.torch.upsampling import upsample

__all__ = ["CrfRnn", "bilateral_solver", "gaussian_filter", "losses", "mean_field", "upsample"]
