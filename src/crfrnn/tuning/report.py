"""What `tune` found, and what it means: whether the CRF helps, harms, or neither can be told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from crfrnn.evaluation.metrics import EDGE_RADIUS
from crfrnn.files.table import Table
from crfrnn.parameters import CRFParameters

KERNELS = {"bilateral_weight": ("theta_alpha", "theta_beta"), "spatial_weight": ("theta_gamma",)}
"""What is searched: the weights of the kernels, and their deviations."""

RULE_OF_THUMB = (
    "As a rule a CRF adds up to two points, and near edges three to five if labels go up to the borders: it sharpens "
    "what a network nearly knows."
)
"""What was measured for docs/when-it-helps.md."""

Finding: TypeAlias = Literal["helps", "harms", "mixed", "inconclusive", "no CRF"]


@dataclass(frozen=True)
class Gain:
    """Mean IoU over the classes that occur in the labels of the held-out photos, from 0 to 1.

    Attributes:
        scores: For the scores without a CRF.
        start: With the CRF that the search began with.
        tuned: With the one it found.
        interval: 95 % bootstrap interval of tuned - scores: `crfrnn.evaluation.bootstrap.gain_interval`.
    """

    scores: float
    start: float
    tuned: float
    interval: tuple[float, float]

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is above or below 0, else 0: it may be chance."""
        low, high = self.interval
        return int(low > 0) - int(high < 0)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * (self.tuned - self.scores):+.2f} (95 % interval {100 * low:+.2f} to {100 * high:+.2f})"


@dataclass(frozen=True)
class Tuning:
    """What `tune` found.

    Attributes:
        start: The parameters that the search began with.
        parameters: The best ones; with weights of 0 if the scores alone were best.
        tuned_on: How many photos they were chosen on.
        held_out: How many others the gain was measured on.
        trials: How many sets of parameters were measured on them, including those given up early.
        given_up: How many of the trials were given up early.
        continued: How many of the trials an earlier run had left.
        searched: What the photos tuned on were compared by, with the scores alone, the start and the best parameters:
            the mean of mean IoU over all pixels and near label edges.
        mean_iou: The gain, counting all pixels.
        edge_mean_iou: The gain, counting only pixels near label edges: `crfrnn.evaluation.edge_band`.
        cut_short: Whether Ctrl-C ended the search.
    """

    start: CRFParameters
    parameters: CRFParameters
    tuned_on: int
    held_out: int
    trials: int
    given_up: int
    continued: int
    searched: tuple[float, float, float]
    mean_iou: Gain
    edge_mean_iou: Gain
    cut_short: bool = False

    @property
    def finding(self) -> Finding:
        """What the photos held out say of all pixels and of those near edges, beyond chance.

        "mixed" is better in one and worse in the other, "no CRF" that the photos tuned on are best without one.
        """
        if not searched_fields(self.parameters):
            return "no CRF"
        signs = {self.mean_iou.sign, self.edge_mean_iou.sign} - {0}
        if len(signs) == 2:
            return "mixed"
        if not signs:
            return "inconclusive"
        return "helps" if signs == {1} else "harms"

    def verdict(self) -> str:
        """In a few words and numbers, whether the CRF helps; if it does not for sure, what to expect."""
        return self._found() + ("" if self.finding == "helps" else f" {RULE_OF_THUMB}")

    def _found(self) -> str:
        everywhere, edges = self.mean_iou.sign, self.edge_mean_iou.sign
        photos = f"{self.held_out} photos held out"
        if self.finding == "no CRF":
            return (
                f"No CRF: on the {self.tuned_on} photos tuned on, nothing that was tried was better than the scores "
                "alone, so the weights found are 0."
            )
        meaning = {
            "helps": "The CRF helps on this data" + ("" if everywhere else ", near edges"),
            "harms": "The CRF harms on this data" + ("" if everywhere else ", near edges") + ": leave it out",
            "mixed": "The CRF is better "
            + ("overall and worse near edges" if everywhere > edges else "near edges and worse overall"),
            "inconclusive": f"Inconclusive: {photos} do not tell whether the CRF helps on this data; give more photos",
        }[self.finding]
        return f"{meaning}. Points of mean IoU on {photos}: {self.mean_iou}, near edges {self.edge_mean_iou}."

    def tables(self) -> tuple[Table, Table]:
        """The measures in per cent, and the values that were searched."""
        measures = (("mean IoU", self.mean_iou), (f"mean IoU within {EDGE_RADIUS} px of edges", self.edge_mean_iou))
        gains = [
            [
                name,
                *(f"{100 * each:.2f}" for each in (found.scores, found.start, found.tuned)),
                f"{100 * (found.tuned - found.scores):+.2f}",
                f"{100 * found.interval[0]:+.2f} to {100 * found.interval[1]:+.2f}",
            ]
            for name, found in measures
        ]
        values = [
            [name, *(_shown(getattr(each, name)) for each in (self.start, self.parameters))]
            for name in searched_fields(self.start)
        ]
        return Table(("", "no CRF", "start", "tuned", "gain", "95 % interval"), gains), Table(
            ("", "start", "tuned"), values
        )

    def notes(self) -> dict[str, Any]:
        """Everything but the parameters found, for `save_parameters`."""
        return {
            "finding": self.finding,
            "verdict": self.verdict(),
            "mean_iou": asdict(self.mean_iou),
            "edge_mean_iou": {"radius": EDGE_RADIUS, **asdict(self.edge_mean_iou)},
            "held_out": self.held_out,
            "tuned_on": self.tuned_on,
            "searched": dict(zip(("scores", "start", "tuned"), self.searched, strict=True)),
            "trials": self.trials,
            "given_up": self.given_up,
            "start": asdict(self.start),
        }


def searched_fields(start: CRFParameters) -> list[str]:
    """The parameters that are searched: those of the kernels whose weight is not 0."""
    names: list[str] = []
    for weight, deviations in KERNELS.items():
        if np.any(getattr(start, weight)):
            names += [*deviations, weight]
    return names


def _shown(value: Any) -> str:
    """A number, or the first of several."""
    if not isinstance(value, tuple):
        return f"{value:g}"
    return f"{_shown(value[0])}, …"
