"""What the Keras layer costs over the NumPy API: `python -m benchmarks.keras_layer` writes the table of docs/keras.md.

Each backend runs in a process of its own, in which calls of the layer and of the NumPy API take turns. The ratio of a
row is the median of the ratios within each turn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

BACKENDS = ("tensorflow", "jax", "torch")
HEIGHT, WIDTH, CLASSES, ITERATIONS = 366, 500, 21, 10
LAYOUTS = ("channels_first", "channels_last")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20, help="%(default)s calls of each")
    parser.add_argument("--backend", choices=BACKENDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.backend:
        for row in measured(options.turns):
            print(*row, sep="\t")
        return
    rows: dict[str, list[str]] = {}
    for backend in BACKENDS:
        command = [sys.executable, "-m", "benchmarks.keras_layer", "--turns", str(options.turns), "--backend", backend]
        environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        for line in output.splitlines():
            name, ratio = line.split("\t")
            rows.setdefault(name, []).append(f"{100 * (float(ratio) - 1):+.0f} %")
    print(f"| over the NumPy API | {' | '.join(BACKENDS)} |")
    print("| --- |" + " --- |" * len(BACKENDS))
    for name, ratios in rows.items():
        print(f"| {name} | {' | '.join(ratios)} |")


def measured(turns: int) -> list[tuple[str, float]]:
    """Names of what is called, and its time over that of the NumPy API."""
    import crfrnn

    random = np.random.default_rng(0)
    # Blocks of colour under noise: about the vertices of a photo.
    image = np.kron(random.integers(0, 256, (HEIGHT // 30 + 1, WIDTH // 30 + 1, 3)), np.ones((30, 30, 1)))
    image = image[:HEIGHT, :WIDTH] + random.normal(0, 4, (HEIGHT, WIDTH, 3))
    logits = random.normal(0, 2, (CLASSES, HEIGHT, WIDTH)).astype(np.float32)
    cotangent = random.normal(size=logits.shape).astype(np.float32)
    parameters = crfrnn.CRFParameters()
    weights = [np.eye(CLASSES) * weight for weight in (parameters.spatial_weight, parameters.bilateral_weight)]

    def numpy_forward() -> None:
        terms = crfrnn.pairwise_terms(image.astype(np.float32), parameters)
        crfrnn.mean_field(logits, terms, iterations=ITERATIONS)

    def numpy_backward() -> None:
        terms = [
            crfrnn.PairwiseTerm(term.kernel, weight)
            for term, weight in zip(crfrnn.pairwise_terms(image.astype(np.float32), parameters), weights, strict=True)
        ]
        compatibility = -np.eye(CLASSES)
        _, marginals = crfrnn.mean_field_with_marginals(
            logits, terms, iterations=ITERATIONS, compatibility=compatibility
        )
        crfrnn.mean_field_vjp(cotangent, marginals, terms, compatibility=compatibility)

    rows = []
    for layout in LAYOUTS:
        arrays = [logits, np.moveaxis(image, -1, 0).astype(np.float32), cotangent]
        if layout == "channels_last":
            arrays = [np.ascontiguousarray(np.moveaxis(array, 0, -1)) for array in arrays]
        forward, backward = layer_calls(layout, *[array[np.newaxis] for array in arrays])
        for name, call, twin in (("forward", forward, numpy_forward), ("with backward", backward, numpy_backward)):
            rows.append((f"{layout.replace('_', ' ')}, {name}", ratio(call, twin, turns)))
    return rows


def layer_calls(layout: str, *arrays: np.ndarray) -> tuple[Callable[[], object], Callable[[], object]]:
    """The layer on this process' backend, compiled where it compiles: forward, and forward and backward."""
    import keras

    from crfrnn.keras import CrfRnnLayer

    layer = CrfRnnLayer(None, CLASSES, 160.0, 3.0, 3.0, ITERATIONS, data_format=layout)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        logits, image, cotangent = map(tf.constant, arrays)
        layer([logits, image])

        @tf.function
        def forward(x: tf.Tensor) -> tf.Tensor:
            return layer([x, image])

        @tf.function
        def backward(x: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer([x, image]) * cotangent)
            return tape.gradient(loss, [x, *layer.trainable_variables])

        return lambda: forward(logits), lambda: backward(logits)
    if keras.backend.backend() == "jax":
        import jax

        logits, image, cotangent = map(jax.numpy.asarray, arrays)
        layer([logits, image])
        variables = [variable.value for variable in layer.trainable_variables]

        def call(weights: list[jax.Array], x: jax.Array) -> jax.Array:
            return layer.stateless_call(weights, [], [x, image])[0]

        compiled = jax.jit(call)
        gradient = jax.jit(jax.grad(lambda weights, x: (call(weights, x) * cotangent).sum(), argnums=(0, 1)))
        return (
            lambda: compiled(variables, logits).block_until_ready(),
            lambda: jax.block_until_ready(gradient(variables, logits)),
        )
    import torch

    logits, image, cotangent = map(torch.from_numpy, arrays)
    layer([logits, image])

    def infer() -> None:
        with torch.no_grad():
            layer([logits, image])

    def learn() -> None:
        x = logits.clone().requires_grad_()
        (layer([x, image]) * cotangent).sum().backward()

    return infer, learn


def ratio(call: Callable[[], object], twin: Callable[[], object], turns: int) -> float:
    """The median over turns of the time of `call` by that of `twin`."""
    for warm_up in (call, twin) * 4:
        warm_up()
    ratios = []
    for _ in range(turns):
        times = []
        for each in (call, twin):
            start = time.perf_counter()
            each()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return median(ratios)


if __name__ == "__main__":
    main()
