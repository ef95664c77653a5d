"""What docs/migration.md says, run."""

import re
from pathlib import Path

import numpy as np
import pytest

import crfrnn
from tolerances import GOLDEN

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_snippets():
    """One after the other, as they are read."""
    names = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, "docs/migration.md", "exec"), names)
    assert np.abs(names["before"] - names["after"]).max() <= GOLDEN
    assert names["labels"].shape == (40, 60)
    # The exact spatial kernel of SimpleCRF's translation leaves few labels different.
    assert (names["labels"] != names["before"].argmax(axis=0)).mean() < 0.05


def test_names_of_the_package_exist():
    for name in re.findall(r"crfrnn\.(\w+)", PAGE):
        if name not in ("compat", "torch", "keras"):
            assert hasattr(crfrnn, name), name
    parameters = crfrnn.CRFParameters()
    for name in ("theta_alpha", "theta_beta", "theta_gamma", "spatial_weight", "bilateral_weight", "compatibility"):
        assert name in PAGE
        assert hasattr(parameters, name)


def test_steps_become_a_trace(pydensecrf):
    from crfrnn.compat.pydensecrf import densecrf

    parameters = crfrnn.CRFParameters(
        theta_alpha=80.0,
        theta_beta=13.0,
        spatial_weight=1.0,
        bilateral_weight=2.0,
        normalization="symmetric",
        spatial="lattice",
    )
    terms = crfrnn.pairwise_terms(pydensecrf["image"], parameters)
    crf = densecrf.DenseCRF2D(96, 72, 5)
    crf.setUnaryEnergy(pydensecrf["unary"])
    crf.addPairwiseGaussian(3, 1)
    crf.addPairwiseBilateral(80, 13, pydensecrf["image"], 2)
    Q, tmp1, tmp2 = crf.startInference()
    unary = -pydensecrf["unary"].reshape(5, 72, 96)
    for q, divergence in crfrnn.mean_field_trace(unary, terms, iterations=3):
        assert np.abs(q.reshape(5, -1) - Q).max() <= GOLDEN
        assert crf.klDivergence(Q) == pytest.approx(divergence, rel=1e-4)
        crf.stepInference(Q, tmp1, tmp2)


@pytest.mark.parametrize("kind", ["diagonal", "matrix"])
def test_a_compat_becomes_a_compatibility(pydensecrf, kind):
    compat = pydensecrf[f"compat_{kind}"]
    parameters = crfrnn.CRFParameters(
        theta_alpha=80.0,
        theta_beta=13.0,
        spatial_weight=1.0,
        bilateral_weight=1.0,
        compatibility=(compat + compat.T) / 2,
        normalization="symmetric",
        spatial="lattice",
        iterations=5,
    )
    q = crfrnn.refine(-pydensecrf["unary"].reshape(5, 72, 96), pydensecrf["image"], parameters)
    assert np.abs(q.reshape(5, -1) - pydensecrf[f"q_symmetric_{kind}_T5"]).max() <= GOLDEN


@pytest.mark.torch
def test_monai_becomes_a_layer():
    """With weights, factor and compatibility as the page translates them; the layer's lattice has its axes turned."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from crfrnn.compat.monai import CRF
    from crfrnn.torch import CrfRnn

    generator = torch.Generator().manual_seed(0)
    logits, image = torch.randn(1, 3, 9, 8, generator=generator), torch.rand(1, 2, 9, 8, generator=generator)
    C, f = torch.randn(3, 3, generator=generator), 1.5
    layer = CrfRnn(
        3,
        4,
        theta_alpha=5.0,
        theta_beta=0.5,
        theta_gamma=4.0,
        spatial_weight=1.3,
        bilateral_weight=0.7,
        spatial="lattice",
        return_probabilities=True,
    )
    layer.compatibility_matrix.data = -f * C.T
    expected = CRF(4, 0.7, 1.3, 5.0, 0.5, 4.0, f, C)(logits.mT, image.mT).mT
    torch.testing.assert_close(layer(logits, image), expected, atol=1e-4, rtol=0)
