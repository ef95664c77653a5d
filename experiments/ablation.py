"""`python -m experiments.ablation`: what each part of the system adds on MSRC-21, into docs/ablation.md.

For each seed: the network alone; a CRF behind it as post-processing, its parameters chosen on the validation split; and
CRF-RNNs that start from that network and train in different ways. All are measured on the test split, which nothing
else looks at. Finished parts are not repeated: run it again to continue.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crfrnn import CRFParameters, refine
from crfrnn.data import SegmentationData
from crfrnn.evaluation import confusion_matrix, evaluate, iou_of_classes
from crfrnn.files.replacement import replacing
from crfrnn.models import Segmenter, load_model
from crfrnn.segment import image_batch
from crfrnn.torch import CrfRnn
from crfrnn.training import TrainingConfig
from crfrnn.training.train import train
from experiments.report import write_report
from experiments.variants import CLASSES, CRF_EPOCHS, END_TO_END, TEST_ITERATIONS, VARIANTS, Experiment

CROP = (213, 320)  # the size of most photos

START = CRFParameters(theta_alpha=50, theta_beta=10, theta_gamma=3, spatial_weight=3, bilateral_weight=5)
SEARCH: tuple[dict[str, tuple[float, ...]], ...] = (
    {"bilateral_weight": (0.5, 1, 2, 5), "spatial_weight": (0.5, 1, 3)},
    {"theta_alpha": (20, 40, 80), "theta_beta": (5, 10, 20)},
    {"theta_gamma": (1, 2, 4)},
)
"""Choices of the parameters, tried in groups; each group is tried with the best of the groups before."""


def train_network(experiment: Experiment, seed: int, encoder: str | None = None) -> None:
    """Stage 1."""
    train(
        TrainingConfig(
            data=str(experiment.data),
            output=str(experiment.network(seed, encoder).parent),
            classes="msrc21",
            encoder=encoder,
            seed=seed,
            crop=CROP,
            network_epochs=experiment.network_epochs,
            crf_epochs=0,
            threads=1,
        )
    )


def choose_parameters(experiment: Experiment, seed: int) -> None:
    """The CRF's parameters with the best mean IoU behind the network alone on the validation split."""
    path = experiment.folder(seed, "network") / "parameters.json"
    if path.exists():
        return
    segmenter = load_model(experiment.folder(seed, "network") / "model.safetensors").segmenter
    scored = []
    with torch.inference_mode():
        for sample in SegmentationData(experiment.data, "val", CLASSES):
            logits = segmenter.unary(image_batch([sample.image], segmenter))[0].numpy()
            scored.append((logits, sample.image, torch.from_numpy(sample.labels.astype(np.int64))))

    def mean_iou(parameters: CRFParameters) -> float:
        total = torch.zeros(CLASSES.num_classes, CLASSES.num_classes, dtype=torch.int64)
        for logits, image, labels in scored:
            refined = refine(logits, image, parameters, threads=1).argmax(axis=0)
            total += confusion_matrix(torch.from_numpy(refined), labels, CLASSES.num_classes)
        return float(iou_of_classes(total).nanmean())

    best = START
    tried: list[dict[str, float]] = []
    for group in SEARCH:
        grid = [
            replace(best, **dict(zip(group, values, strict=True)))
            for values in np.array(np.meshgrid(*group.values())).reshape(len(group), -1).T.tolist()
        ]
        scores = [mean_iou(parameters) for parameters in grid]
        tried += [as_settings(parameters) | {"mean_iou": score} for parameters, score in zip(grid, scores, strict=True)]
        best = grid[int(np.argmax(scores))]
    best_score = max(each["mean_iou"] for each in tried)
    write_json(path, {"chosen": as_settings(best), "mean_iou_val": best_score, "tried": tried})


def as_settings(parameters: CRFParameters) -> dict[str, float]:
    """Parameters as the settings of a training run with the same names."""
    names = ("theta_alpha", "theta_beta", "theta_gamma", "spatial_weight", "bilateral_weight")
    return {name: float(getattr(parameters, name)) for name in names}


def chosen_settings(experiment: Experiment, seed: int) -> dict[str, float]:
    chosen: dict[str, float] = json.loads((experiment.folder(seed, "network") / "parameters.json").read_text())[
        "chosen"
    ]
    return chosen


def measure_post_processing(experiment: Experiment, seed: int) -> None:
    """The network alone and with a CRF of the chosen parameters, on the test split."""
    network = load_model(experiment.folder(seed, "network") / "model.safetensors").segmenter.network
    chosen = json.loads((experiment.folder(seed, "network") / "parameters.json").read_text())["chosen"]
    options = chosen | {"weights": "scalar", "compatibility": "scalar"}
    measure(experiment, seed, "network", Segmenter(network, CrfRnn(CLASSES.num_classes, TEST_ITERATIONS, **options)))


def train_variant(experiment: Experiment, seed: int, name: str) -> None:
    """Train one of `VARIANTS` from the network alone, and measure it on the test split."""
    train_from_network(experiment, seed, name, VARIANTS[name].settings)


def train_from_network(
    experiment: Experiment, seed: int, name: str, settings: Mapping[str, Any], encoder: str | None = None
) -> None:
    """Train from the network alone with these settings, and measure on the test split."""
    settings = {
        "network_epochs": 0,
        "crf_epochs": CRF_EPOCHS,
        "network_rate": TrainingConfig.crf_network_rate,
        "decoder_rate": None,
        **settings,
    }
    folder = experiment.folder(seed, name)
    train(
        TrainingConfig(
            data=str(experiment.data),
            output=str(folder),
            classes="msrc21",
            encoder=encoder,
            init=str(experiment.network(seed, encoder)),
            seed=seed,
            crop=CROP,
            test_iterations=TEST_ITERATIONS,
            threads=1,
            **settings,
        )
    )
    measure(experiment, seed, name, load_model(folder / "model.safetensors").segmenter)


def measure(experiment: Experiment, seed: int, name: str, segmenter: Segmenter) -> None:
    path = experiment.folder(seed, name) / "test.json"
    if not path.exists():
        write_json(path, evaluate(segmenter, SegmentationData(experiment.data, "test", CLASSES), CLASSES).as_json())


def write_json(path: Path, content: object) -> None:
    with replacing(path) as handle:
        handle.write((json.dumps(content, indent=1) + "\n").encode())


Task = tuple[Callable[..., None], tuple[Any, ...]]


def rounds(experiment: Experiment, seeds: list[int], names: list[str]) -> Iterator[list[Task]]:
    """Tasks that need those of the round before, but not each other."""
    yield [(train_network, (experiment, seed)) for seed in seeds]
    yield [(choose_parameters, (experiment, seed)) for seed in seeds]
    yield [(measure_post_processing, (experiment, seed)) for seed in seeds]
    yield [(train_variant, (experiment, seed, name)) for name in names for seed in seeds]


def run_task(task: Task) -> None:
    function, arguments = task
    torch.set_num_threads(1)
    function(*arguments)


def parser_of(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that all experiments on MSRC-21's networks have."""
    default_data = Path(os.environ.get("CRFRNN_DATA", "../shared/data")) / "msrc21"
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=description)
    parser.add_argument("--data", type=Path, default=default_data, help="folder of MSRC-21 (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/ablation"), help="for runs (default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="for ablation.md (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--network-epochs", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes of one thread each")
    return parser


def main() -> None:
    parser = parser_of("ablation", __doc__)
    parser.add_argument(
        "--variants",
        nargs="*",
        choices=list(VARIANTS),
        default=list(VARIANTS),
        help=f"besides {END_TO_END}; all if not given",
    )
    arguments = parser.parse_args()
    experiment = Experiment(arguments.data, arguments.output, arguments.network_epochs)
    names = [name for name in VARIANTS if name == END_TO_END or name in arguments.variants]
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for tasks in rounds(experiment, arguments.seeds, names):
            list(pool.map(run_task, tasks))
    write_report(experiment, arguments.seeds, names, arguments.docs)


if __name__ == "__main__":
    main()
