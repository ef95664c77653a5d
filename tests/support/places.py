"""Where the steps of `crfrnn.torch.gpu` are tested: plain torch, Triton kernels on a GPU, or these interpreted."""

import os
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch

from crfrnn.torch.gpu.lattice import build_lattice

# Interpreted, every operation of a kernel costs a tenth of a millisecond: fewer cases, and large tiles.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def cases(*every, few):
    return few if INTERPRETED else every


DTYPES = cases(np.float32, np.float64, few=[np.float32])


class Place(NamedTuple):
    """Where to compute, and by which steps."""

    device: str
    steps: ModuleType

    def tensor(self, array):
        return torch.from_numpy(np.array(array)).to(self.device)

    def lattice(self, features, images=1, **options):
        """Of features (P, d), all points of an image in one line."""
        rows = self.tensor(np.ascontiguousarray(features.T))
        return build_lattice(rows, images, len(features) // images, self.steps, **options)

    def filter(self, kernel, values, transpose=False, before=None, after=None):
        """Of values (P, channels)."""
        factors = (None if each is None else self.tensor(each) for each in (before, after))
        return kernel.filter(self.tensor(values), *factors, transpose, self.steps).cpu().numpy()
