"""`python -m experiments.learned_theta`: CRF-RNNs on MSRC-21 that start with wrong θ and learn them.

Writes a section of docs/ablation.md. Networks and splits are those of `experiments.ablation`, and so is the folder for
runs. Finished parts are not repeated: run it again to continue.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from crfrnn.files.replacement import replacing
from crfrnn.models import load_model
from experiments.ablation import (
    choose_parameters,
    chosen_settings,
    parser_of,
    run_task,
    train_from_network,
    train_network,
)
from experiments.report import LEARNED, table, with_section
from experiments.variants import CRF_EPOCHS, Experiment

TUNED = "theta-tuned"
STARTS = {"160/30/3": (160.0, 30.0, 3.0), "5/3/3": (5.0, 3.0, 3.0)}
NAMES = ("theta_alpha", "theta_beta", "theta_gamma")


def runs() -> dict[str, tuple[str, dict[str, Any]]]:
    """Title and settings by the name of the folder."""
    found: dict[str, tuple[str, dict[str, Any]]] = {TUNED: ("θ chosen on the validation split", {})}
    for start, thetas in STARTS.items():
        settings = dict(zip(NAMES, thetas, strict=True)) | {"learn_theta": True}
        found[f"theta-{start.replace('/', '-')}-learned"] = (f"θ learned from {start}", settings)
    return found


def train_run(experiment: Experiment, seed: int, name: str) -> None:
    """Train one of `runs` from the network alone, and measure it on the test split."""
    settings = runs()[name][1]
    if name == TUNED:
        chosen = chosen_settings(experiment, seed)
        settings = {each: chosen[each] for each in NAMES}
    train_from_network(experiment, seed, name, settings)


def written(experiment: Experiment, seeds: list[int]) -> str:
    """The section."""
    rows, thetas = [], []
    for name, (title, _) in runs().items():
        folders = [experiment.folder(seed, name) for seed in seeds]
        rows.append((title, [json.loads((folder / "test.json").read_text())["crf"] for folder in folders]))
        found = []
        for folder in folders:
            crf = load_model(folder / "model.safetensors").segmenter.crf
            assert crf is not None
            found.append(" / ".join(f"{crf.crf.thetas[each]:.3g}" for each in NAMES))
        thetas.append(f"| {title} | {' | '.join(found)} |")
    lines = [
        LEARNED,
        f"CRF-RNNs, end to end as above, {CRF_EPOCHS} epochs, {len(seeds)} seeds. The first has the θ that suit the "
        "network alone best on the validation split, with a CRF as post-processing. The others start with wrong ones "
        "and learn them (`learn_theta`). Written by `python -m experiments.learned_theta`.",
        "",
        *table(rows),
        "",
        f"θ_α / θ_β / θ_γ at the end, for seeds {', '.join(map(str, seeds))}:",
        "",
        "| |" + " |" * len(seeds),
        "| --- |" + " --- |" * len(seeds),
        *thetas,
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of("learned_theta", __doc__)
    arguments = parser.parse_args()
    experiment, seeds = Experiment(arguments.data, arguments.output, arguments.network_epochs), arguments.seeds
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for first in (train_network, choose_parameters):
            list(pool.map(run_task, [(first, (experiment, seed)) for seed in seeds]))
        list(pool.map(run_task, [(train_run, (experiment, seed, name)) for seed in seeds for name in runs()]))
    page = arguments.docs / "ablation.md"
    text = with_section(page.read_text(encoding="utf-8"), LEARNED, written(experiment, seeds))
    with replacing(page) as handle:
        handle.write(text.encode())


if __name__ == "__main__":
    main()
