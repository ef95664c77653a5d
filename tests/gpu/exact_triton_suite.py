"""The Triton kernels of the exact filter in Triton's interpreter, against the truth; run by test_torch_exact.py.

Triton looks for TRITON_INTERPRET=1 when it is imported, hence the process of its own.
"""

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from crfrnn import reference
from crfrnn.torch import exact_filter as exact
from crfrnn.torch.gpu import triton_exact
from tolerances import assert_close, tolerance

# NumPy, which interprets, warns of infinities and NaN.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SIDE, SPAN = triton_exact.SIDE, triton_exact.SPAN
# Images, channels, points and features: around the sizes of blocks, programs and codes.
CASES = [
    (1, 1, 1, 1),
    (3, 21, 2 * SIDE + 1, 5),
    (1, 16, SIDE, 3),
    (1, triton_exact.MOST_CHANNELS + 6, 40, 2),
    (2, 2, 3 * SIDE - 1, 16),
    (1, 2, SIDE + 5, 20),
    (1, 2, 70, triton_exact.CODE_BITS + 2),
]


def dense(values, features):
    """The sums of one image in float64."""
    return reference.DenseGaussian(features.numpy().T).filter(values.numpy().T).T


@pytest.mark.parametrize(("batch", "channels", "points", "d"), CASES)
def test_equals_the_dense_kernel(rng, batch, channels, points, d):
    """Also with images of quite different ranges in a batch."""
    width = torch.tensor([1.5, 0.1, 30.0])[:batch, None, None]
    features = torch.from_numpy(rng.normal(size=(batch, d, points)).astype(np.float32)) * width
    values = torch.from_numpy(rng.random((batch, channels, points)).astype(np.float32))
    result = triton_exact.exact_filter(values, features)
    for index in range(batch):
        assert_close(result[index], dense(values[index], features[index]), tolerance(np.float32).filter)


def test_many_blocks_of_which_few_are_near(rng):
    """Points along a line, in any order, so that most pairs of blocks are left out, in more than one span of them."""
    points = (SPAN + 3) * SIDE - 7
    features = torch.from_numpy(np.stack([rng.permutation(points) / 10, rng.normal(size=points)]).astype(np.float32))
    values = torch.from_numpy(rng.normal(size=(3, points)).astype(np.float32))
    result = triton_exact.exact_filter(values[None], features[None])
    assert_close(result[0], dense(values, features), tolerance(np.float32).filter)


@pytest.mark.parametrize("beyond", [False, True])
def test_blocks_beyond_reach_are_left_out(rng, beyond):
    """A huge value in another block is not felt a little beyond the reach, and is a little within it."""
    points = 2 * SIDE
    reach = math.sqrt(2 * math.log(points * 2**24))
    place = torch.from_numpy(rng.permutation(points))
    features = (place >= SIDE).float() * (reach + (0.01 if beyond else -0.01))
    values = torch.where(features > 0, 1e20, 1.0)
    result = triton_exact.exact_filter(values[None, None], features[None, None])[0, 0]
    expected = torch.from_numpy(dense(values[None], features[None])[0])
    assert expected[features == 0].min() > 1e8
    if beyond:
        expected[features == 0] = SIDE
    assert_close(result / expected, torch.ones(points), tolerance(np.float32).filter)


@pytest.mark.parametrize("d", [2, 3])
def test_the_order_goes_from_neighbour_to_neighbour(rng, d):
    """Hilbert's curve visits all cells of a grid, each step to one beside the last."""
    side = 8
    cells = rng.permutation(np.stack([axis.ravel() for axis in np.indices((side,) * d)], axis=1))
    features = torch.from_numpy(cells.T.astype(np.float32)) * 0.3 - 1
    code = triton_exact.codes(features[None])[0]
    steps = np.diff(cells[code.argsort().numpy()], axis=0)
    assert (np.abs(steps).sum(axis=1) == 1).all()


@pytest.mark.parametrize(("wrong", "points"), [(math.nan, 3), (math.inf, 3), (-math.inf, 3), (math.inf, SIDE)])
def test_features_that_are_not_finite_spoil_what_they_reach(rng, wrong, points):
    """NaN all of their image, infinities the points that have them, as in plain torch; the other image is as ever."""
    features = torch.from_numpy(rng.normal(size=(2, 2, 3 * SIDE)).astype(np.float32)) * 20
    values = torch.from_numpy(rng.random((2, 3, 3 * SIDE)).astype(np.float32))
    alone = triton_exact.exact_filter(values[1:], features[1:])
    features[0, 1, :points] = wrong
    result = triton_exact.exact_filter(values, features)
    expected = exact.filter_in_blocks(values, features)
    assert torch.equal(result.isnan(), expected.isnan())
    assert expected[0].isnan().any()
    assert_close(result.nan_to_num(), expected.nan_to_num(), tolerance(np.float32).filter)
    assert torch.equal(result[1:], alone)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_values_that_are_not_finite_spoil_their_channel(rng, wrong):
    """Near or far."""
    features = torch.arange(3.0 * SIDE)[None, None].repeat(2, 1, 1)
    values = torch.from_numpy(rng.random((2, 3, 3 * SIDE)).astype(np.float32))
    expected = triton_exact.exact_filter(values, features)
    values[0, 1, 0] = wrong
    expected[0, 1] = math.nan
    result = triton_exact.exact_filter(values, features)
    assert torch.equal(result.isnan(), expected.isnan())
    assert torch.equal(result.nan_to_num(), expected.nan_to_num())


def test_largest_numbers(rng):
    values = torch.tensor([[[torch.finfo(torch.float32).max, 1e-30, -1.0]]])
    features = torch.tensor([[[-1e30, 0.0, 3e38]]])
    assert torch.equal(triton_exact.exact_filter(values, features), values)


def test_strides_do_not_matter(rng):
    features = torch.from_numpy(rng.normal(size=(2, 50, 3)).astype(np.float32))
    values = torch.from_numpy(rng.random((50, 4, 2)).astype(np.float32))
    strided = triton_exact.exact_filter(values.permute(2, 1, 0), features.permute(0, 2, 1))
    packed = triton_exact.exact_filter(values.permute(2, 1, 0).contiguous(), features.permute(0, 2, 1).contiguous())
    assert torch.equal(strided, packed)
    ordered = triton_exact.order(features.permute(0, 2, 1))
    assert torch.equal(triton_exact.exact_filter(values.permute(2, 1, 0), features.permute(0, 2, 1), ordered), packed)


def test_far_points_are_alone():
    features = torch.tensor([[[-1e18, 0.0, 1e3, 1e18]]])
    values = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    assert torch.equal(triton_exact.exact_filter(values, features), values)


@triton.jit
def split(x, high, rest, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    most, least = triton_exact._halves(tl.load(x + place))
    tl.store(high + place, most)
    tl.store(rest + place, least)


def test_the_matrix_units_lose_two_bits_of_a_number(rng):
    """They read the first 19 bits of a float32: sign, exponent and 10 of the fraction."""
    x = torch.from_numpy((rng.normal(size=256) * 10.0 ** rng.integers(-20, 20, 256)).astype(np.float32))
    high, rest = torch.empty_like(x), torch.empty_like(x)
    split[1,](x, high, rest, SIZE=256)
    read = [(each.view(torch.int32) >> 13 << 13).view(torch.float32) for each in (high, rest)]
    assert torch.equal(read[0], high)
    assert torch.equal(high + rest, x)
    assert ((read[0].double() + read[1].double() - x.double()).abs() <= 2**-20 * x.double().abs()).all()
