"""`python -m experiments.theta_cost`: what it costs a layer to learn θ, in time of its backward pass and in memory.

The least of several calls on one thread, in processor time, so that other work on the machine counts little. For each
photo and tolerance: the backward pass with θ over the one without, and the memory that messages take that are kept for
it over that of the marginals, which every backward pass needs.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.photos import load_photo

from crfrnn import CRFParameters, pairwise_terms
from crfrnn.torch import CrfRnn

PHOTOS = {"2007_008964": "smooth", "2007_006171": "middling", "2007_000332": "textured"}
CLASSES, ITERATIONS, CALLS = 21, 5, 8
THETAS = {"theta_alpha": 160.0, "theta_beta": 3.0, "theta_gamma": 3.0}


def backward_seconds(layers: list[CrfRnn], logits: torch.Tensor, image: torch.Tensor) -> list[float]:
    """The least of interleaved calls of each layer."""
    cotangent = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    seconds = [float("inf")] * len(layers)
    for _ in range(CALLS):
        for index, layer in enumerate(layers):
            result = layer(logits.clone().requires_grad_(True), image)
            start = time.process_time()
            result.backward(cotangent)
            seconds[index] = min(seconds[index], time.process_time() - start)
    return seconds


def memory_share(image: np.ndarray) -> float:
    """Rows of vertices over those of points: both have as many channels, and as many iterations."""
    terms = pairwise_terms(image, CRFParameters(**THETAS), dtype=np.float32)
    vertices = [getattr(term.kernel, "num_vertices", 0) for term in terms]
    return sum(vertices) / (image.shape[0] * image.shape[1])


def main() -> None:
    default_data = Path(os.environ.get("CRFRNN_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(prog="python -m experiments.theta_cost", description=__doc__)
    parser.add_argument("--data", type=Path, default=default_data, help="folder of voc_animals (default: %(default)s)")
    data = parser.parse_args().data
    torch.set_num_threads(1)
    print("| photo | tolerance | backward pass with θ ÷ without | memory of messages ÷ marginals |")
    print("| --- | --- | --- | --- |")
    for name, kind in PHOTOS.items():
        scores, levels = load_photo(data, name, None, CLASSES)
        logits = torch.from_numpy(scores)[None]
        image = torch.from_numpy(levels).movedim(-1, 0)[None].float()
        for tolerance in (0.0, 1e-3):
            layers = [
                CrfRnn(CLASSES, ITERATIONS, **THETAS, tolerance=tolerance, learn_theta=learns, threads=1)
                for learns in (False, True)
            ]
            without, with_theta = backward_seconds(layers, logits, image)
            ratio, memory = with_theta / without, memory_share(levels)
            print(f"| {kind} | {tolerance:g} | {ratio:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
