"""What differs between Keras' backends for those who test on all of them, the truth they compare with, and fixtures.

A plugin of pytest (`-p keras_calls`).
"""

from contextlib import nullcontext

import keras
import numpy as np
import pytest

from crfrnn import reference
from crfrnn.crf import Grid, Lattice
from crfrnn.inference import batch as native_batch
from crfrnn.keras import CrfRnnLayer, bridge

BACKEND = keras.backend.backend()
COMPILED = {"tensorflow": [False, True], "jax": [False, True], "torch": [False]}[BACKEND]
"""Ways to call a layer: as it is, and in a compiled function (test_torch_graphs.py tests that of PyTorch)."""
NUMBERS = {"theta_alpha": 5.13, "theta_beta": 61.7, "theta_gamma": 1.57, "num_iterations": 3, "tolerance": 0}
"""Deviations for tiny images. They are no round numbers: on the border of two simplices rounding decides which vertices
a point touches, and no two implementations need to agree there."""
WEIGHTS = ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix")


def batch(rng, spatial=(6, 7), channels=3, classes=4, size=2, dtype=np.float32):
    """Random logits (B, *spatial, C) and image (B, *spatial, K)."""
    logits = rng.normal(size=(size, *spatial, classes)).astype(dtype)
    return logits, rng.uniform(0, 255, size=(size, *spatial, channels)).astype(dtype)


def layer(rng, classes=4, **options):
    """A built layer with random weights."""
    made = CrfRnnLayer(None, classes, **{**NUMBERS, **options})
    made.build([(None, None, None, classes), (None, None, None, 3)])
    made.set_weights([weight + 0.3 * rng.normal(size=weight.shape) for weight in made.get_weights()])
    return made


def model(crf, channels=3):
    """A functional model around a layer, for any batch and size."""
    logits, image = keras.Input((None, None, crf.num_classes)), keras.Input((None, None, channels))
    return keras.Model([logits, image], crf([logits, image]))


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def truth(crf, logits, image, mask=None, cotangent=None):
    """Refined logits of a batch by reference.py; with a cotangent also the gradients to logits and weights."""
    refined, to_logits, to_weights = [], [], [0, 0, 0]
    W_s, W_b, M = crf.get_weights()
    smooth, similar = crf.crf.kernels
    theta_gamma = smooth.features.theta_gamma
    for index, (scores, colours) in enumerate(zip(logits, image, strict=True)):
        *spatial, classes = scores.shape
        grid = np.stack([axis.ravel() for axis in np.indices(spatial)[::-1]], axis=1)
        bilateral = [grid / similar.features.theta_alpha, colours.reshape(len(grid), -1) / similar.features.theta_beta]
        if isinstance(smooth.filter, Grid):
            kernel = reference.GridGaussian(tuple(spatial), theta_gamma)
        else:
            kernel = reference.Lattice(grid / theta_gamma)
        bilateral_kernel = reference.Lattice if isinstance(similar.filter, Lattice) else reference.DenseGaussian
        weight = None if mask is None else np.asarray(mask[index], float).ravel()
        terms = [
            reference.Term(kernel, W_s, "after", weight),
            reference.Term(bilateral_kernel(np.concatenate(bilateral, axis=1)), W_b, "after", weight),
        ]
        rows = scores.reshape(-1, classes).T
        logits_T, marginals = reference.mean_field(rows, terms, iterations=crf.num_iterations, compatibility=M)
        refined.append(logits_T.T.reshape(scores.shape))
        if cotangent is not None:
            g = cotangent[index].reshape(-1, classes).T
            gradients = reference.mean_field_vjp(g, marginals, terms, compatibility=M)
            to_logits.append(gradients.unary.T.reshape(scores.shape))
            parts = [*gradients.weights, gradients.compatibility]
            to_weights = [total + part for total, part in zip(to_weights, parts, strict=True)]
    if cotangent is None:
        return np.stack(refined)
    return [np.stack(refined), np.stack(to_logits), *to_weights]


def refined_and_gradients(crf, logits, image, cotangent, mask=None, compiled=False):
    """Refined logits and the gradients of ⟨cotangent, refined⟩ to logits, W of each kernel and M, as arrays.

    The image may be a list of it and what else the layer is called with.
    """
    beside = image if isinstance(image, list) else [image]
    return _run(crf, logits, beside, cotangent, mask, compiled, False)


def gradients_to_all(crf, logits, beside, cotangent, compiled=False):
    """Gradients of ⟨cotangent, refined⟩ to logits, to what else the layer is called with, and to all its weights."""
    return _run(crf, logits, beside, cotangent, None, compiled, True)[1:]


def _run(*arguments):
    run = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND]
    return [numpy(tensor) for tensor in run(*arguments)]


def double_precision():
    """The context in which float64 arrays stay so: JAX has to be told."""
    if BACKEND != "jax":
        return nullcontext()
    import jax

    return jax.enable_x64(True)


def _tensorflow(crf, logits, beside, cotangent, mask, compiled, to_beside):
    import tensorflow as tf

    def gradients(logits, cotangent, *beside):
        watched = [logits, *beside] if to_beside else [logits]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            refined = crf([logits, *beside], mask=mask, training=True)
        return [refined, *tape.gradient(refined, [*watched, *crf.trainable_variables], output_gradients=cotangent)]

    call = tf.function(gradients) if compiled else gradients
    return call(*map(tf.constant, (logits, cotangent, *beside)))


def _jax(crf, logits, beside, cotangent, mask, compiled, to_beside):
    import jax

    def gradients(weights, logits, cotangent, *beside):
        def refine(weights, logits, *given):
            return crf.stateless_call(weights, [], [logits, *(given or beside)], mask=mask)[0]

        refined, back = jax.vjp(refine, weights, logits, *(beside if to_beside else ()))
        to_weights, *rest = back(cotangent)
        return [refined, *rest, *to_weights]

    call = jax.jit(gradients) if compiled else gradients
    return call(
        [weight.value for weight in crf.trainable_variables], *map(jax.numpy.asarray, (logits, cotangent, *beside))
    )


def _torch(crf, logits, beside, cotangent, mask, compiled, to_beside):
    import torch

    assert not compiled
    given = [torch.tensor(each) for each in (logits, *beside)]
    watched = [each.requires_grad_() for each in (given if to_beside else given[:1])]
    refined = crf(given, mask=mask)
    inputs = [*watched, *(weight.value for weight in crf.trainable_variables)]
    return [refined.detach(), *torch.autograd.grad(refined, inputs, torch.tensor(cotangent))]


@pytest.fixture
def crossings(monkeypatch):
    """How often native code was entered so far: forward, backward."""
    counts = {"forward": 0, "vjp": 0}

    def counted(name):
        function = getattr(native_batch, name)

        def count(*arguments, **more):
            counts[name] += 1
            return function(*arguments, **more)

        monkeypatch.setattr(native_batch, name, count)

    counted("forward")
    counted("vjp")
    return lambda: tuple(counts.values())


@pytest.fixture
def nothing_stays_behind():
    before = len(bridge.kept)  # a suite before may have left forward passes that had no backward pass
    yield
    assert len(bridge.kept) <= before
