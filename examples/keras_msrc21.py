"""A small FCN with a CRF-RNN behind it, trained end to end with Keras' `fit` on the photos of MSRC-21.

    pip install 'crfrnn[keras]' matplotlib, and one of tensorflow, jax and torch
    KERAS_BACKEND=jax python examples/keras_msrc21.py MSRC21 -o out/keras

MSRC21 is a folder with images/, labels/ (PNG, 255 = unknown), train.txt and val.txt. The loss of each epoch goes to
NAME_OF_BACKEND.csv, and loss.png shows it for every backend that has run. Random weights and the order of the photos
come from NumPy, so that the training is the same on every backend.
"""

import argparse
import csv
import time
from pathlib import Path

import keras
import matplotlib
import numpy as np
from keras import layers
from PIL import Image

from crfrnn.keras import CrfRnnLayer

matplotlib.use("Agg")
from matplotlib import pyplot

CLASSES = 21
UNKNOWN = 255
SIZE = 160, 112
CHANNELS = (32, 64, 128)
BATCH = 6
RATE = 2e-3


def photos(folder: Path, split: str, mirrored: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photos (N, H, W, 3) in 0-255, labels (N, H, W), and what each pixel counts: 1, or 0 where its class is unknown.

    Upright photos are laid on their side. `mirrored` adds every photo once more, mirrored.
    """
    pairs = []
    for name in (folder / f"{split}.txt").read_text().split():
        photo = Image.open(folder / f"images/{name}.jpg").convert("RGB")
        labels = Image.open(folder / f"labels/{name}.png")
        if photo.height > photo.width:
            photo, labels = (image.transpose(Image.Transpose.ROTATE_90) for image in (photo, labels))
        pairs.append((np.asarray(photo.resize(SIZE, Image.BILINEAR)), np.asarray(labels.resize(SIZE, Image.NEAREST))))
    x, y = (np.stack(images) for images in zip(*pairs, strict=True))
    if mirrored:
        x, y = (np.concatenate([images, images[:, :, ::-1]]) for images in (x, y))
    known = y != UNKNOWN
    return x.astype(np.float32), np.where(known, y, 0).astype(np.int32), known.astype(np.float32)


def segmenter() -> tuple[keras.Model, keras.Model]:
    """Network and CRF-RNN, photos (B, H, W, 3) in 0-255 to logits (B, H, W, C); and the same network without it."""
    photo = keras.Input((None, None, 3))
    features = layers.Rescaling(1 / 127.5, -1)(photo)
    scores = []
    for width in CHANNELS:
        for stride in (2, 1):
            features = layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(features)
            features = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(features))
        scores.append(layers.Conv2D(CLASSES, 1)(features))
    # As in FCN-8s: coarse scores, doubled in size, meet finer ones.
    logits = scores.pop()
    while scores:
        logits = layers.Add()([layers.UpSampling2D(2, interpolation="bilinear")(logits), scores.pop()])
    logits = layers.UpSampling2D(2, interpolation="bilinear")(logits)
    crfrnn = CrfRnnLayer(
        image_dims=None,
        num_classes=CLASSES,
        theta_alpha=30.0,
        theta_beta=10.0,
        theta_gamma=2.0,
        num_iterations=5,
        name="crfrnn",
    )
    return keras.Model(photo, crfrnn([logits, photo])), keras.Model(photo, logits)


def seed_kernels(model: keras.Model, random: np.random.Generator) -> None:
    """Draw the kernels of all convolutions anew."""
    for weight in model.trainable_weights:
        if len(weight.shape) == 4:
            weight.assign(random.normal(0, np.sqrt(2 / np.prod(weight.shape[:3])), weight.shape))


def train(folder: Path, epochs: int) -> tuple[list[float], dict[str, float]]:
    """The loss of each epoch, and figures of the trained model on the photos of val.txt."""
    random = np.random.default_rng(0)
    x, y, known = photos(folder, "train", mirrored=True)
    order = random.permutation(len(x))
    model, network = segmenter()
    seed_kernels(model, random)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-len(x) // BATCH))
    model.compile(keras.optimizers.Adam(rate), loss, weighted_metrics=["accuracy"])
    network.compile(loss=loss, weighted_metrics=["accuracy"])
    start = time.perf_counter()
    history = model.fit(x[order], y[order], BATCH, epochs, sample_weight=known[order], shuffle=False, verbose=2).history
    minutes = (time.perf_counter() - start) / 60
    x, y, known = photos(folder, "val")
    alone, refined = (
        each.evaluate(x, y, BATCH, sample_weight=known, return_dict=True, verbose=0)["accuracy"]
        for each in (network, model)
    )
    return history["loss"], {"minutes": minutes, "network alone": alone, "with CRF-RNN": refined}


def plot(folder: Path) -> None:
    """Draw loss.png from all the .csv files in a folder."""
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for style, path in zip(("-", "--", ":"), sorted(folder.glob("*.csv")), strict=False):
        with path.open(newline="") as file:
            rows = [(int(row["epoch"]), float(row["loss"])) for row in csv.DictReader(file)]
        axes.plot(*zip(*rows, strict=True), style, label=path.stem)
    axes.set(xlabel="epoch", ylabel="loss", title="FCN + CRF-RNN on MSRC-21, trained with fit")
    axes.legend()
    figure.savefig(folder / "loss.png", dpi=120)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train an FCN with a CRF-RNN on MSRC-21 with Keras.")
    parser.add_argument("data", type=Path, help="folder with images/, labels/, train.txt and val.txt")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/keras"), help="folder for results")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args(arguments)
    losses, figures = train(options.data, options.epochs)
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / f"{keras.backend.backend()}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "loss"])
        writer.writerows(enumerate(losses, start=1))
    plot(options.output)
    print(
        f"{keras.backend.backend()}: loss {losses[0]:.3f} → {losses[-1]:.3f} in {figures['minutes']:.1f} minutes; "
        f"pixels right on val: network alone {figures['network alone']:.3f}, with CRF-RNN {figures['with CRF-RNN']:.3f}"
    )


if __name__ == "__main__":
    main()
