"""Child processes to measure in, and what to ask them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from .exact import exact_mean_field
from .photos import load_photo, photo_size
from .volume import load_volume

ROOT = Path(__file__).parent.parent
WEIGHTS = {"spatial_weight": 3.0, "bilateral_weight": 5.0}
# What a child imports for each side, and which distribution brings the peers.
MODULES = {
    "crfrnn": "crfrnn",
    "layer": "crfrnn.torch",
    "layer_dense": "crfrnn.torch",
    "layer_backward": "crfrnn.torch",
    **dict.fromkeys(("segmenter", "segmenter_network", "segmenter_kernels", "step", "step_crf"), "crfrnn.models"),
    **dict.fromkeys(("pydensecrf", "pydensecrf_volume"), "pydensecrf.densecrf"),
    "simplecrf": "denseCRF",
    "crfseg": "crfseg",
    **dict.fromkeys(("guided_blur", "joint_bilateral_blur"), "kornia.filters"),
    "pamr": "torch",
    "bilateral_solver": "scipy.sparse",
}
PEERS = {
    "pydensecrf": "pydensecrf2",
    "simplecrf": "SimpleCRF",
    "crfseg": "crfseg",
    "guided_blur": "kornia",
    "bilateral_solver": "scipy",
}


def find_sides(interpreters: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The first interpreter that imports each side, and the versions of the peers found."""
    pythons, versions = {}, {}
    for side, module in MODULES.items():
        show = f"; from importlib.metadata import version; print(version('{PEERS[side]}'))" if side in PEERS else ""
        for python in interpreters:
            answer = subprocess.run([python, "-c", f"import {module}{show}"], capture_output=True, text=True, cwd=ROOT)
            if answer.returncode == 0:
                pythons[side] = python
                versions |= {PEERS[side]: answer.stdout.split()[-1]} if show else {}
                break
    return pythons, versions


class Child:
    """One side in its own process, pinned to `cores` cores."""

    def __init__(self, side: str, python: str, cores: int) -> None:
        self.side = side
        environment = os.environ | {"OMP_NUM_THREADS": str(cores)}
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, action: str, inputs: Path, settings: dict, *arguments: object) -> float:
        request = {"side": self.side, "action": action, "inputs": str(inputs), "settings": json.dumps(settings)}
        self.process.stdin.write(json.dumps(request | {"arguments": arguments}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.side} stopped during {action}; its error is printed above.")
        return json.loads(answer)

    def result(self, inputs: Path, settings: dict) -> np.ndarray:
        path = inputs.with_name(f"{self.side}.npy")
        self.ask("save_result", inputs, settings, str(path))
        return np.load(path)


@dataclass(frozen=True, eq=False)
class Workbench:
    """Where the data are, where pictures go, which interpreter runs a side, how often to repeat."""

    data: Path
    scratch: Path
    pictures: Path
    pythons: dict[str, str]
    quick: bool
    exact: dict[str, np.ndarray] = field(default_factory=dict)

    def child(self, side: str, cores: int) -> Child:
        return Child(side, self.pythons[side], cores)

    @cache  # noqa: B019  one workbench a run
    def inputs(self, photo: str, classes: int, size: tuple[int, int] | None = None) -> Path:
        path = self.scratch / f"{photo}-{classes}-{size}.npz"
        logits, image = load_photo(self.data, photo, size, classes)
        np.savez(path, logits=logits, image=image)
        return path

    @cache  # noqa: B019
    def volume(self, name: str) -> Path:
        path = self.scratch / f"{name}.npz"
        logits, image = load_volume(self.data, name)
        np.savez(path, logits=logits, image=image)
        return path

    def scaled(self, photo: str, scale: float) -> tuple[int, int]:
        return photo_size(self.data, photo, scale)

    def found(self, sides: Sequence[str]) -> list[str]:
        """Of `sides`, those that some interpreter imports."""
        return [side for side in sides if side in self.pythons]

    def against_exact(
        self, children: Sequence[Child], photo: str, classes: int, settings: dict, options: dict
    ) -> dict[str, dict[str, float]]:
        """Labels that differ (share) and mean |Δq| against exact filters, on the photo at half its size.

        The positional deviations are halved too, so that the filters cover the same parts of the photo.
        """
        inputs = self.inputs(photo, classes, self.scaled(photo, 0.5))
        settings = settings | {name: settings[name] / 2 for name in ("theta_alpha", "theta_gamma")}
        key = json.dumps([photo, classes, settings])
        if key not in self.exact:
            with np.load(inputs) as file:
                self.exact[key] = exact_mean_field(file["logits"], file["image"], settings)
        truth, errors = self.exact[key], {}
        for child in children:
            result = child.result(inputs, settings | options)
            labels_only = result.ndim < truth.ndim  # SimpleCRF
            labels = result if labels_only else result.argmax(0)
            errors[child.side] = {"labels": float(np.mean(labels != truth.argmax(0)))}
            if not labels_only:
                errors[child.side]["mean"] = float(np.abs(result - truth).mean())
        return errors


def model_settings(thetas: tuple[float, float, float], iterations: int) -> dict:
    alpha, beta, gamma = thetas
    return {"theta_alpha": alpha, "theta_beta": beta, "theta_gamma": gamma, "iterations": iterations} | WEIGHTS


def ratio(seconds: dict[str, list[float]], slower: str, faster: str) -> float:
    """Median over rounds of the time of `slower` divided by that of `faster` in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[slower], seconds[faster], strict=True))


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {side: statistics.median(times) for side, times in seconds.items()}


def interleaved(children: dict[str, Child], inputs: Path, settings: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in rounds of one call each, A B A B …, after one round that warms up."""
    taken = [[child.ask("time_call", inputs, settings) for child in children.values()] for _ in range(rounds + 1)]
    return dict(zip(children, zip(*taken[1:], strict=True), strict=True))


def alternating(child: Child, inputs: Path, variants: dict[str, dict], rounds: int) -> dict[str, list[float]]:
    """Seconds of one side with each of several settings, in the same way."""
    taken = [[child.ask("time_call", inputs, chosen) for chosen in variants.values()] for _ in range(rounds + 1)]
    return dict(zip(variants, zip(*taken[1:], strict=True), strict=True))
