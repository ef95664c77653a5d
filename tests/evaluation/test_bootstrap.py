"""The interval of a gain in mean IoU against all resamples there are."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the tune extra")
pytest.importorskip("torchmetrics", reason="needs the tune extra")
from crfrnn.evaluation.bootstrap import gain_interval  # noqa: E402

pytestmark = pytest.mark.torch


def test_the_interval_is_that_of_all_resamples(rng):
    """Four photos have 4⁴ equally likely resamples, which are few enough to go through."""
    before = rng.integers(1, 40, (4, 3, 3))
    after = rng.integers(1, 40, (4, 3, 3)) + 30 * np.eye(3, dtype=int)

    def iou(confusions) -> float:
        total = sum(confusions)
        return float(np.mean([total[c, c] / (total[c].sum() + total[:, c].sum() - total[c, c]) for c in range(3)]))

    gains = [
        iou([after[i] for i in drawn]) - iou([before[i] for i in drawn])
        for drawn in itertools.product(range(4), repeat=4)
    ]
    found = gain_interval(torch.from_numpy(before), torch.from_numpy(after), seed=4)
    expected = np.quantile(gains, (0.025, 0.975))
    np.testing.assert_allclose(found, expected, atol=0.08 * (expected[1] - expected[0]))


def test_the_interval_is_paired(rng):
    """Photos differ far more than before and after do; the same ones drawn on both sides leave no difference."""
    confusions = torch.from_numpy(rng.integers(0, 1000, (6, 2, 2)))
    assert gain_interval(confusions, confusions) == (0, 0)


def test_classes_without_labels_do_not_count():
    """Neither those that occur nowhere, nor those only predicted: both sides are means of the same classes."""
    one = torch.tensor([[[8, 1, 1], [1, 9, 0], [0, 0, 0]]]).repeat(3, 1, 1)
    other = torch.tensor([[[10, 0, 0], [0, 10, 0], [0, 0, 0]]]).repeat(3, 1, 1)
    gain = 1 - (8 / 11 + 9 / 11) / 2
    np.testing.assert_allclose(gain_interval(one, other), (gain, gain))
