"""The original FCN-8s in plain NumPy, channels last, as its Keras definition has it for photos of 500×500.

Layer names, shapes, padding and crops are written down here once more, not taken from the code under test.
"""

import numpy as np

SIZE = 500
BGR_MEAN = np.array([103.939, 116.779, 123.68])
CONVOLUTIONS = ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3))
"""Blocks, and how many convolutions each has."""
WIDTHS = (64, 128, 256, 512, 512)
FC_WIDTH = 4096
TRANSPOSED = {"score2": (4, 2), "score4": (4, 2), "upsample": (16, 8)}
"""Side of the kernel and stride; only score2 has a bias."""

Layers = dict[str, dict[str, np.ndarray]]


def shapes(classes: int = 21, widths: tuple[int, ...] = WIDTHS, fc: int = FC_WIDTH) -> dict[str, dict[str, tuple]]:
    """The shapes of kernel and bias of each layer: (h, w, in, out), transposed ones (h, w, out, in)."""
    kernels = {}
    inputs = 3
    for (block, count), width in zip(CONVOLUTIONS, widths, strict=True):
        for place in range(1, count + 1):
            kernels[f"conv{block}_{place}"] = (3, 3, inputs, width)
            inputs = width
    kernels |= {"fc6": (7, 7, inputs, fc), "fc7": (1, 1, fc, fc), "score-fr": (1, 1, fc, classes)}
    kernels |= {"score-pool4": (1, 1, widths[3], classes), "score-pool3": (1, 1, widths[2], classes)}
    layers = {name: {"kernel": kernel, "bias": kernel[-1:]} for name, kernel in kernels.items()}
    layers |= {name: {"kernel": (side, side, classes, classes)} for name, (side, _) in TRANSPOSED.items()}
    layers["score2"]["bias"] = (classes,)
    return layers


def random_layers(rng: np.random.Generator, classes: int, width: int) -> Layers:
    """Small random layers whose activations neither vanish nor explode."""
    return {
        name: {
            part: rng.normal(0, 0.1, shape)
            if part == "bias"
            else rng.normal(0.1, 1, shape) / np.sqrt(np.prod(shape[:3]))
            for part, shape in parts.items()
        }
        for name, parts in shapes(classes, (width,) * 5, width).items()
    }


def forward(layers: Layers, photo: np.ndarray) -> np.ndarray:
    """Scores (500, 500, classes) of an RGB photo (500, 500, 3), 0 to 255."""
    features = photo[..., ::-1] - BGR_MEAN
    features = np.pad(features, ((100, 100), (100, 100), (0, 0)))
    pools = {}
    for block, count in CONVOLUTIONS:
        for place in range(1, count + 1):
            name = f"conv{block}_{place}"
            features = np.maximum(convolved(features, layers[name], same=name != "conv1_1"), 0)
        features = pools[block] = halved(features)
    for name in ("fc6", "fc7"):
        features = np.maximum(convolved(features, layers[name], same=False), 0)
    score2 = transposed(convolved(features, layers["score-fr"], same=False), layers, "score2")
    score4 = transposed(
        score2 + cropped(convolved(pools[4], layers["score-pool4"], same=False), 5, 5), layers, "score4"
    )
    fused = score4 + cropped(convolved(pools[3], layers["score-pool3"], same=False), 9, 9)
    return cropped(transposed(fused, layers, "upsample"), 31, 37)


def convolved(features: np.ndarray, layer: dict[str, np.ndarray], same: bool) -> np.ndarray:
    kernel = layer["kernel"]
    side = len(kernel)
    if same:
        features = np.pad(features, ((side // 2, side // 2), (side // 2, side // 2), (0, 0)))
    height, width = (length - side + 1 for length in features.shape[:2])
    taps = (features[y : y + height, x : x + width] @ kernel[y, x] for y in range(side) for x in range(side))
    return sum(taps) + layer["bias"]


def transposed(features: np.ndarray, layers: Layers, name: str) -> np.ndarray:
    side, stride = TRANSPOSED[name]
    kernel = layers[name]["kernel"]
    height, width = features.shape[:2]
    result = np.zeros(((height - 1) * stride + side, (width - 1) * stride + side, kernel.shape[2]))
    for y in range(side):
        for x in range(side):
            result[y : y + stride * height : stride, x : x + stride * width : stride] += features @ kernel[y, x].T
    return result + layers[name].get("bias", 0)


def halved(features: np.ndarray) -> np.ndarray:
    """Maxima of 2×2; an odd last row or column stands alone."""
    height, width = (length + length % 2 for length in features.shape[:2])
    even = np.full((height, width, features.shape[2]), -np.inf)
    even[: features.shape[0], : features.shape[1]] = features
    return even.reshape(height // 2, 2, width // 2, 2, -1).max(axis=(1, 3))


def cropped(features: np.ndarray, first: int, last: int) -> np.ndarray:
    return features[first : features.shape[0] - last, first : features.shape[1] - last]
