"""Mean IoU and time of this CRF beside other ways to refine scores with the photo."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .case import THETAS, Case
from .measure import Workbench, model_settings

MEASURED, CHOSEN_ON = slice(0, 40), slice(40, 60)
"""Photos of the shuffled list to measure on, and those on which settings were chosen."""
VOID = 255


@dataclass(frozen=True)
class Method:
    """A side of `child.py` with settings."""

    name: str
    side: str
    settings: dict

    @property
    def text(self) -> str:
        """The settings, without deviations that are in the name."""
        shown = {name: value for name, value in self.settings.items() if "θ" not in self.name or "theta" not in name}
        return ", ".join(f"{name} {value:g}" for name, value in shown.items())


def crf(name: str, side: str) -> list[Method]:
    thetas = {theta: "/".join(f"{number:g}" for number in theta) for theta in THETAS}
    return [Method(f"{name}, θ {text}", side, model_settings(theta, 10)) for theta, text in thetas.items()]


GUIDED, JOINT, PAMR, SOLVER = "guided blur", "joint bilateral blur", "PAMR", "bilateral solver"
CRF_CHOSEN, PEER_CHOSEN = "crfrnn, chosen", "pydensecrf2, with these"
CHOSEN = {
    "theta_alpha": 40,
    "theta_beta": 5,
    "theta_gamma": 3,
    "spatial_weight": 3,
    "bilateral_weight": 4,
    "iterations": 5,
}
METHODS = (
    *crf("crfrnn", "crfrnn"),
    *crf("pydensecrf2", "pydensecrf"),
    Method(CRF_CHOSEN, "crfrnn", CHOSEN),
    Method(PEER_CHOSEN, "pydensecrf", CHOSEN),
    *(Method(GUIDED, "guided_blur", {"kernel_size": 33, "eps": 1e-5, "subsample": each}) for each in (1, 4)),
    Method(JOINT, "joint_bilateral_blur", {"reach": 2, "sigma_space": 8, "sigma_color": 0.05}),
    Method(PAMR, "pamr", {"iterations": 10, "width": 0.02}),
    Method(
        SOLVER,
        "bilateral_solver",
        {"sigma_spatial": 8, "sigma_luma": 16, "sigma_chroma": 4, "smoothing": 128, "trust": 4},
    ),
)


def grid(name: str, side: str, **choices: Sequence[float]) -> list[Method]:
    """A method with every combination of settings."""
    return [Method(name, side, dict(zip(choices, values, strict=True))) for values in product(*choices.values())]


CANDIDATES = (
    *grid(
        CRF_CHOSEN,
        "crfrnn",
        theta_alpha=(40, 80, 160),
        theta_beta=(3, 5, 10),
        theta_gamma=(3,),
        spatial_weight=(1, 3),
        bilateral_weight=(1, 2, 4),
        iterations=(5,),
    ),
    *grid(GUIDED, "guided_blur", kernel_size=(17, 33, 65), eps=(1e-5, 1e-4, 1e-3), subsample=(4,)),
    *grid(JOINT, "joint_bilateral_blur", reach=(2,), sigma_space=(5, 8), sigma_color=(0.02, 0.05, 0.1)),
    *grid(PAMR, "pamr", iterations=(10,), width=(0.02, 0.05, 0.1)),
    *grid(
        SOLVER,
        "bilateral_solver",
        sigma_spatial=(8, 16),
        sigma_luma=(8, 16),
        sigma_chroma=(4, 8),
        smoothing=(128, 512),
        trust=(4, 8),
    ),
)


def shuffled_photos(bench: Workbench) -> list[str]:
    """The 222 photos of voc_animals/val in an order of seed 0."""
    names = (bench.data / "voc_animals" / "val.txt").read_text().split()
    return [names[index] for index in np.random.default_rng(0).permutation(len(names))]


class Tally:
    """Confusion matrices of each photo, of all pixels and of those near edges."""

    def __init__(self, bench: Workbench, classes: int) -> None:
        self.folder, self.classes = bench.data / "voc_animals" / "labels", classes
        self.confusions: list[Tensor] = []

    def add(self, photo: str, predicted: np.ndarray) -> None:
        from crfrnn.evaluation import confusion_matrix, edge_band

        labels = torch.from_numpy(np.array(Image.open(self.folder / f"{photo}.png"))).long()
        near_edges = torch.where(edge_band(labels), labels, VOID)
        ids = torch.from_numpy(predicted)
        self.confusions.append(
            torch.stack([confusion_matrix(ids, each, self.classes) for each in (labels, near_edges)])
        )

    def scores(self) -> dict[str, float]:
        from crfrnn.evaluation import scores_of

        scores = scores_of(*torch.stack(self.confusions).sum(0))
        return {"mean_iou": scores.mean_iou, "edge_mean_iou": scores.edge_mean_iou}

    def gain(self, before: Tally) -> tuple[float, float]:
        """The 95 % interval of the gain in mean IoU over `before`."""
        from crfrnn.evaluation.bootstrap import gain_interval

        whole = [torch.stack(tally.confusions)[:, 0] for tally in (before, self)]
        return gain_interval(*whole)


def quality(case: Case, bench: Workbench) -> list[dict]:
    """Mean IoU of each method and its seconds a photo on one core and on `case.cores`."""
    photos = shuffled_photos(bench)[MEASURED][: 2 if bench.quick else None]
    methods = [method for method in METHODS if method.side in bench.pythons]
    before, tallies = Tally(bench, case.classes), [Tally(bench, case.classes) for _ in methods]
    taken: list[dict[int, list[float]]] = [{cores: [] for cores in (1, case.cores)} for _ in methods]
    for cores in (1, case.cores):
        with ExitStack() as stack:
            children = [stack.enter_context(bench.child(method.side, cores)) for method in methods]
            for photo in photos:
                inputs = bench.inputs(photo, case.classes)
                for method, child, tally in zip(methods, children, tallies, strict=True):
                    result = child.result(inputs, method.settings)  # warms up as well
                    if cores == 1:
                        tally.add(photo, result.argmax(0))
                if cores == 1:
                    before.add(photo, np.load(inputs)["logits"].argmax(0))
                for _ in range(case.repeats):
                    for method, child, seconds in zip(methods, children, taken, strict=True):
                        seconds[cores].append(child.ask("time_call", inputs, method.settings))
    rows: list[dict] = [{"method": "the scores alone", "settings": "", "photos": len(photos), **before.scores()}]
    for method, tally, seconds in zip(methods, tallies, taken, strict=True):
        row = {"method": method.name, "settings": method.text, "photos": len(photos), **tally.scores()}
        row["gain"] = tally.gain(before)
        rows.append(row | {"seconds": {str(cores): statistics.median(each) for cores, each in seconds.items()}})
    return rows


def candidates(case: Case, bench: Workbench) -> list[dict]:
    """Mean IoU with every setting tried, on other photos than `quality` measures on."""
    photos = shuffled_photos(bench)[CHOSEN_ON][: 1 if bench.quick else None]
    rows = []
    for side in bench.found(case.sides):
        tried = [method for method in CANDIDATES if method.side == side]
        tallies = [Tally(bench, case.classes) for _ in tried]
        with bench.child(side, case.cores) as child:
            for photo in photos:
                inputs = bench.inputs(photo, case.classes)
                for method, tally in zip(tried, tallies, strict=True):
                    tally.add(photo, child.result(inputs, method.settings).argmax(0))
        for method, tally in zip(tried, tallies, strict=True):
            rows.append({"method": method.name, "settings": method.text, "photos": len(photos), **tally.scores()})
    return rows
