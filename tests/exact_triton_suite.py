"""The Triton kernel of the exact filter in Triton's interpreter, against dense float64; run by test_torch_exact.py.

Triton looks for TRITON_INTERPRET=1 when it is imported, hence the process of its own.
"""

import numpy as np
import pytest
import torch

from crfrnn import reference
from crfrnn.torch import exact_triton
from tolerances import assert_close, tolerance

# Points around the block sizes, channels around the widths of a program.
CASES = [
    (1, 1, 1, 1),
    (2, 21, exact_triton.ROWS + 1, 5),
    (1, 16, exact_triton.COLUMNS, 3),
    (1, exact_triton.MOST_CHANNELS + 6, 40, 2),
]


@pytest.mark.parametrize(("batch", "channels", "points", "d"), CASES)
def test_equals_the_dense_kernel(rng, batch, channels, points, d):
    features = (rng.normal(size=(batch, d, points)) * 1.5).astype(np.float32)
    values = rng.random((batch, channels, points)).astype(np.float32)
    result = exact_triton.exact_filter(torch.from_numpy(values), torch.from_numpy(features))
    for index in range(batch):
        expected = reference.DenseGaussian(features[index].T).filter(values[index].T).T
        assert_close(result[index], expected, tolerance(np.float32).filter)


def test_strides_do_not_matter(rng):
    features = torch.from_numpy(rng.normal(size=(2, 50, 3)).astype(np.float32))
    values = torch.from_numpy(rng.random((50, 4, 2)).astype(np.float32))
    strided = exact_triton.exact_filter(values.permute(2, 1, 0), features.permute(0, 2, 1))
    packed = exact_triton.exact_filter(values.permute(2, 1, 0).contiguous(), features.permute(0, 2, 1).contiguous())
    assert torch.equal(strided, packed)


def test_far_points_are_alone():
    features = torch.tensor([[[-1e18, 0.0, 1e3, 1e18]]])
    values = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    assert torch.equal(exact_triton.exact_filter(values, features), values)
