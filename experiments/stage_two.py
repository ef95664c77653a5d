"""`python -m experiments.stage_two`: what holds stage 2 back on MSRC-21, one change at a time.

The network alone trained on, and CRF-RNNs trained end to end from it: with batch statistics and dropout as in stage 1
or kept as they are, with other rates, θ learned, and more epochs. Writes a section of docs/ablation.md. Networks and
splits are those of `experiments.ablation`, and so is the folder for runs. Finished parts are not repeated: run it again
to continue.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from crfrnn.cli.usage import counted
from crfrnn.files.replacement import replacing
from experiments.ablation import parser_of, run_task, train_from_network, train_network
from experiments.report import STAGE_TWO, table, with_section
from experiments.variants import CRF_EPOCHS, Experiment

KEPT = {"freeze_statistics": True}
THETA = {"learn_theta": True, "theta_alpha": 160.0, "theta_beta": 30.0}
ALONE = {"network_epochs": CRF_EPOCHS, "crf_epochs": 0}


@dataclass(frozen=True)
class Run:
    """A way to go on from the network alone."""

    title: str
    settings: dict[str, Any]
    alone: bool = False
    encoder: str | None = None


RUNS = {
    "longer": Run("network alone, trained on", ALONE, alone=True),
    "end-to-end": Run("end to end", {}),
    "longer-kept": Run("network alone, trained on, statistics kept", ALONE | KEPT, alone=True),
    "end-to-end-kept": Run("end to end, statistics kept", KEPT),
    "kept-theta": Run("end to end, statistics kept, θ learned from 160/30/3", KEPT | THETA),
    "kept-crf-rate": Run("end to end, statistics kept, CRF's rate 3e-2", KEPT | {"crf_weight_rate": 3e-2}),
    "kept-network-rate": Run("end to end, statistics kept, network's rate 3e-4", KEPT | {"crf_network_rate": 3e-4}),
    "longer-twice": Run(
        "network alone, trained on, statistics kept, 12 epochs", KEPT | {"network_epochs": 12, "crf_epochs": 0}, True
    ),
    "kept-theta-twice": Run("end to end, statistics kept, θ learned, 12 epochs", KEPT | THETA | {"crf_epochs": 12}),
    "lite2-longer-kept": Run("on Lite2: network alone, trained on, statistics kept", ALONE | KEPT, True, "lite2"),
    "lite2-kept": Run("on Lite2: end to end, statistics kept", KEPT, encoder="lite2"),
}


def train_run(experiment: Experiment, seed: int, name: str) -> None:
    """Train one of `RUNS` from the network alone, and measure it on the test split."""
    train_from_network(experiment, seed, name, RUNS[name].settings, RUNS[name].encoder)


def written(experiment: Experiment, seeds: list[int], names: list[str]) -> str:
    """The section: a table for each network alone, of it and the runs that follow it in `RUNS`."""
    tables: list[list[tuple[str, list[dict[str, Any]]]]] = []
    for name, run in RUNS.items():
        paths = [experiment.folder(seed, name) / "test.json" for seed in seeds]
        found = list(takewhile(Path.exists, paths))
        if name not in names or not found:
            continue
        if run.alone or not tables:
            tables.append([])
        few = "" if len(found) == len(seeds) else f" ({counted(len(found), 'seed')})"
        side = "network" if run.alone else "crf"
        tables[-1].append((run.title + few, [json.loads(path.read_text())[side] for path in found]))
    lines = [
        STAGE_TWO,
        f"Networks of {experiment.network_epochs} epochs, on EfficientNet-Lite0, go on for {CRF_EPOCHS} more where a "
        f"row says nothing else; {counted(len(seeds), 'seed')}, or fewer where it says so. “Statistics kept” is "
        "`freeze_statistics`: batch normalisation and dropout work in training as they do in use. The gain is over the "
        "first row of a table, the network alone. Written by `python -m experiments.stage_two`.",
    ]
    for rows in tables:
        lines += ["", *table(rows)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of("stage_two", __doc__)
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS), help="all if not given")
    arguments = parser.parse_args()
    experiment, seeds = Experiment(arguments.data, arguments.output, arguments.network_epochs), arguments.seeds
    encoders = dict.fromkeys(RUNS[name].encoder for name in arguments.runs)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        networks = [(experiment, seed, encoder) for encoder in encoders for seed in seeds]
        list(pool.map(run_task, [(train_network, each) for each in networks]))
        list(pool.map(run_task, [(train_run, (experiment, seed, name)) for name in arguments.runs for seed in seeds]))
    page = arguments.docs / "ablation.md"
    text = with_section(page.read_text(encoding="utf-8"), STAGE_TWO, written(experiment, seeds, arguments.runs))
    with replacing(page) as handle:
        handle.write(text.encode())


if __name__ == "__main__":
    main()
