"""The attributes of a layer that say what its CRF is, and layers and parameters that earlier versions pickled."""

import copy
import pickle

import numpy as np
import pytest

from crfrnn import CRF, Bilateral, CRFParameters, Given, Kernel, Lattice, Spatial
from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import CrfRnn, mean_field  # noqa: E402

pytestmark = pytest.mark.torch

THETAS = {"theta_alpha": 5.13, "theta_beta": 61.7, "theta_gamma": 1.57}


def batch(rng):
    logits = torch.from_numpy(rng.normal(size=(2, 3, 6, 7)).astype(np.float32))
    return logits, torch.from_numpy(rng.uniform(0, 255, size=(2, 3, 6, 7)).astype(np.float32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("theta_alpha", (4.3, 5.2)),
        ("theta_beta", 33.1),
        ("theta_gamma", 2.7),
        ("num_iterations", 2),
        ("damping", 0.4),
        ("normalization", "symmetric"),
    ],
)
def test_setting_an_attribute_is_making_the_layer_with_it(rng, name, value):
    logits, image = batch(rng)
    set_later, made = CrfRnn(3, **THETAS), CrfRnn(3, **(THETAS | {name: value}))
    before = set_later(logits, image)
    setattr(set_later, name, value)
    assert getattr(set_later, name) == getattr(made, name) == value
    assert set_later.crf == made.crf
    assert torch.equal(set_later(logits, image), made(logits, image))
    assert not torch.equal(set_later(logits, image), before)


def test_what_cannot_be_set():
    layer = CrfRnn(3, spatial="lattice", filter="lattice")
    assert (layer.spatial, layer.filter) == ("lattice", "lattice")
    with pytest.raises(AttributeError):
        layer.spatial = "grid"
    with raises_saying(ValueError, "damping=1.5", "below 1"):
        layer.damping = 1.5
    with raises_saying(TypeError, "crf is a int"):
        layer.crf = 3
    with raises_saying(ValueError, "weights for the kernels spatial, bilateral", "has spatial", "make a new layer"):
        layer.crf = CRF([Kernel(Spatial(3))])
    layer.crf = CRFParameters(theta_beta=7)
    assert layer.theta_beta == 7
    with pytest.raises(AttributeError, match="FrankWolfe, has no damping"):
        CrfRnn(3, crf=CRFParameters(solver="frank-wolfe")).damping = 0.5
    with pytest.raises(AttributeError, match="theta_beta"):
        _ = CrfRnn(3, crf=CRF([Kernel(Spatial(3))])).theta_beta


def test_a_crf_and_single_arguments_do_not_go_together():
    with raises_saying(ValueError, "iterations=7", "crf=", "leave it out"):
        CrfRnn(3, 7, crf=CRF([Kernel(Spatial(3))]))
    with raises_saying(ValueError, "theta_beta=9.0", "crf="):
        CrfRnn(3, theta_beta=9, crf=CRFParameters().crf)


def test_pickles():
    parameters = CRFParameters(theta_alpha=12.0, compatibility=((1, 0), (0, 2)))
    for again in (pickle.loads(pickle.dumps(parameters)), copy.deepcopy(parameters)):
        assert again == parameters
        assert again.crf == parameters.crf
    old = CRFParameters.__new__(CRFParameters)
    old.__setstate__({name: value for name, value in vars(parameters).items() if name != "_crf"})
    assert old.crf == parameters.crf


def test_a_layer_that_an_earlier_version_saved_whole(rng):
    layer = CrfRnn(3, 4, **THETAS, damping=0.25, spatial="lattice")
    state = {name: value for name, value in vars(layer).items() if name != "_crf"}
    state |= {name: getattr(layer, name) for name in THETAS}
    state |= {"num_iterations": 4, "normalization": "after", "spatial": "lattice", "damping": 0.25, "filter": "lattice"}
    old = CrfRnn.__new__(CrfRnn)
    old.__setstate__(state)
    assert old.crf.kernels == layer.crf.kernels
    assert torch.equal(old(*batch(rng)), layer(*batch(np.random.default_rng(20110615))))


def test_vmap(rng):
    logits, image = batch(rng)
    layer = CrfRnn(3, 2, **THETAS)
    expected = layer(logits, image)

    def one(scores, picture):
        return layer(scores[None], picture[None])[0]

    torch.testing.assert_close(torch.vmap(one)(logits, image), expected)
    torch.testing.assert_close(torch.vmap(one, in_dims=(0, None))(logits, image[0])[0], expected[0])


def test_weights_by_kind_of_features(rng):
    """A name of the caller's own is no spatial kernel."""
    logits, image = batch(rng)
    crf = CRF(
        [Kernel(Given("spatial"), 1.0, Lattice()), Kernel(Spatial(1.57), 2.0), Kernel(Bilateral(5.13, 61.7), 3.0)]
    )
    given = {"spatial": image / 61.7}
    set_to_nothing = mean_field(logits, image, None, crf, given=given, spatial_weight=torch.tensor(0.0))
    without = CRF([crf.kernels[0], crf.kernels[2]])
    torch.testing.assert_close(set_to_nothing, mean_field(logits, image, None, without, given=given))
