"""Finds a CRF's parameters on labelled photos with scores, and measures their gain on photos held out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

try:
    import optuna
    import torch
    import torchmetrics as _torchmetrics  # noqa: F401
except ImportError as error:
    raise ImportError(f"tuning needs {error.name}, which is not installed: pip install 'crfrnn[tune]'") from error

from torch import Tensor

from crfrnn.data.scored import ScoredPhotos
from crfrnn.descent import descend
from crfrnn.evaluation.bootstrap import gain_interval
from crfrnn.evaluation.metrics import EDGE_RADIUS, confusion_matrix, edge_band, iou_of_classes
from crfrnn.files.classes import VOID
from crfrnn.files.progress import progress
from crfrnn.numbers import finite_number, one_of, whole_number
from crfrnn.parameters import CRFParameters
from crfrnn.refine import refine
from crfrnn.threads import thread_count

KERNELS = {"bilateral_weight": ("theta_alpha", "theta_beta"), "spatial_weight": ("theta_gamma",)}
"""What is searched: the weights of the kernels, and their deviations."""
SPAN = 5.0
"""Each of them is searched from a fifth to five times its value at the start, on a logarithmic scale."""
DIGITS = 4
"""Significant digits of what is found."""
SEARCH_THRESHOLD = 0.01
"""Smallest `class_threshold` in the search: it saves time and changes hardly any labels (docs/benchmarks.md)."""
CHUNKS = 5
"""Parts of the photos. After each part, a trial that is worse than half of the earlier trials is given up."""
TRIALS = 40
FEWEST_PHOTOS = 2
"""The fewest photos to tune on, and to hold out: a single photo says nothing about others."""

Method: TypeAlias = Literal["search", "gradient"]

COMPLETE, PRUNED = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
ALL, NEAR_EDGES = 0, 1
"""Kinds of pixels."""


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


@dataclass(frozen=True)
class Tuning:
    """What `tune` found.

    Attributes:
        start: The parameters that the search began with.
        parameters: The best ones.
        tuned_on: How many photos they were chosen on.
        held_out: How many others the gain was measured on.
        trials: How many sets of parameters were measured on them, including those given up early.
        given_up: How many of the trials were given up early.
        searched: Mean IoU on the photos tuned on, with the start and with the best parameters.
        mean_iou: The gain, counting all pixels.
        edge_mean_iou: The gain, counting only pixels near label edges: `crfrnn.evaluation.edge_band`.
    """

    start: CRFParameters
    parameters: CRFParameters
    tuned_on: int
    held_out: int
    trials: int
    given_up: int
    searched: tuple[float, float]
    mean_iou: Gain
    edge_mean_iou: Gain

    @property
    def helps(self) -> bool:
        """Whether the gain in mean IoU is more than chance: whether its interval lies above 0."""
        return self.mean_iou.interval[0] > 0

    def verdict(self) -> str:
        """In one sentence, whether the CRF helps."""
        gain = self.mean_iou.tuned - self.mean_iou.scores
        low, high = self.mean_iou.interval
        measured = (
            f"{100 * gain:+.2f} points of mean IoU on {self.held_out} photos held out, 95 % interval {100 * low:+.2f} "
            f"to {100 * high:+.2f}"
        )
        if self.helps:
            return f"The CRF helps on this data: {measured}."
        why = "the scores are better without it" if high < 0 else "what it gains may be chance"
        return f"The CRF does not help on this data, {why}: {measured}."

    def table(self) -> str:
        """The measures in per cent, and the values that were searched."""
        measures = (("mean IoU", self.mean_iou), (f"mean IoU within {EDGE_RADIUS} px of edges", self.edge_mean_iou))
        width = max(len(name) for name, _ in measures)
        lines = [f"{'':{width}}  no CRF   start   tuned    gain   95 % interval"]
        for name, found in measures:
            low, high = found.interval
            lines.append(
                f"{name:{width}}  {100 * found.scores:6.2f}  {100 * found.start:6.2f}  {100 * found.tuned:6.2f}  "
                f"{100 * (found.tuned - found.scores):+6.2f}  {100 * low:+6.2f} to {100 * high:+.2f}"
            )
        lines += ["", f"{'':{width}}  {'start':>14}  {'tuned':>14}"]
        for name in searched_fields(self.start):
            before, after = getattr(self.start, name), getattr(self.parameters, name)
            lines.append(f"{name:{width}}  {_shown(before):>14}  {_shown(after):>14}")
        return "\n".join(lines)

    def notes(self) -> dict[str, Any]:
        """Everything but the parameters found, for `save_parameters`."""
        return {
            "verdict": self.verdict(),
            "helps": self.helps,
            "mean_iou": asdict(self.mean_iou),
            "edge_mean_iou": {"radius": EDGE_RADIUS, **asdict(self.edge_mean_iou)},
            "held_out": self.held_out,
            "tuned_on": self.tuned_on,
            "mean_iou_tuned_on": {"start": self.searched[0], "tuned": self.searched[1]},
            "trials": self.trials,
            "given_up": self.given_up,
            "start": asdict(self.start),
        }


def tune(
    photos: ScoredPhotos,
    start: CRFParameters | None = None,
    *,
    method: Method = "search",
    trials: int = TRIALS,
    holdout: float = 0.5,
    seed: int = 0,
    threads: int | None = None,
) -> Tuning:
    """Find the deviations and weights with the highest mean IoU on some photos, and measure them on the others.

    These are θ_α, θ_β, θ_γ and the weights of both kernels, without those of a kernel of weight 0. Normalisation,
    iterations and everything else stay as they are.

    "search" tries values from a fifth to five times those at the start. If one has a number for each class, axis or
    channel, all its numbers are multiplied by the same factor. The start is the first trial. "gradient" goes downhill
    in the cross-entropy of the refined scores, with every number on its own, and takes the best of the start and four
    places on the way.

    Ctrl-C ends the search, and the best parameters so far are measured. A second Ctrl-C ends everything.

    Args:
        photos: Photos with scores and labels.
        start: Where it begins; `CRFParameters()` when not given.
        method: "search" or "gradient".
        trials: How many sets of parameters the search tries, at least 1.
        holdout: Share of the photos that the gain is measured on, above 0 and below 1.
        seed: Seed of the choice of these photos, of the search and of the bootstrap.
        threads: Photos refined at a time; None is `default_threads()`. No result depends on it.
    Raises:
        ValueError: if there are too few photos, nothing to search, or no pixel with a label; or what reading a photo
            or refining it raises.
        KeyboardInterrupt: if it was interrupted before the first trial ended, or twice.
    Cost: The search refines the photos tuned on up to `trials` times. The gradient refines 200 photos forward and back,
        and the photos tuned on five times.
    """
    one_of(method, get_args(Method), "method")
    begin = CRFParameters() if start is None else start
    if whole_number(trials, "trials") < 1:
        raise ValueError(f"trials={trials} must be at least 1")
    names = searched_fields(begin)
    if not names:
        raise ValueError("both weights are 0 at the start, so that there is no CRF to tune: raise one of them")
    tuned_on, held_out = split_photos(len(photos), holdout, whole_number(seed, "seed"))
    pool = ThreadPoolExecutor(thread_count(threads))
    try:
        before = _measured(photos, pool, held_out, [None, begin])
        if not before.any():
            raise ValueError(f"all pixels of the {len(held_out)} photos held out are void ({VOID}); there is no truth")
        tried, given_up = (
            _search(photos, pool, tuned_on, begin, names, trials, seed)
            if method == "search"
            else _descent(photos, pool, tuned_on, begin, names, seed)
        )
        best, _ = max(tried, key=lambda pair: pair[1])
        after = _measured(photos, pool, held_out, [best])
    finally:
        pool.shutdown(cancel_futures=True)
    return Tuning(
        start=begin,
        parameters=best,
        tuned_on=len(tuned_on),
        held_out=len(held_out),
        trials=len(tried) + given_up,
        given_up=given_up,
        searched=(tried[0][1], max(value for _, value in tried)),
        mean_iou=_gain(before[:, :, ALL], after[:, :, ALL], seed),
        edge_mean_iou=_gain(before[:, :, NEAR_EDGES], after[:, :, NEAR_EDGES], seed),
    )


def split_photos(count: int, holdout: float, seed: int) -> tuple[list[int], list[int]]:
    """Photos to tune on and photos held out, drawn by the seed.

    Raises: ValueError: if the share is not above 0 and below 1, or leaves fewer than two photos in either part.
    """
    if not 0 < finite_number(holdout, "holdout") < 1:
        raise ValueError(f"holdout={holdout} must be above 0 and below 1")
    held_out = round(holdout * count)
    if min(held_out, count - held_out) < FEWEST_PHOTOS:
        raise ValueError(
            f"of {count} photos, holdout={holdout} leaves {count - held_out} to tune on and {held_out} to measure on; "
            f"there must be {FEWEST_PHOTOS} of each: give more photos or another share"
        )
    order = np.random.default_rng(seed).permutation(count).tolist()
    return order[held_out:], order[:held_out]


def searched_fields(start: CRFParameters) -> list[str]:
    """The parameters that are searched: those of the kernels whose weight is not 0."""
    names: list[str] = []
    for weight, deviations in KERNELS.items():
        if np.any(getattr(start, weight)):
            names += [*deviations, weight]
    return names


def scaled(start: CRFParameters, factors: Mapping[str, float]) -> CRFParameters:
    """Parameters with some of them multiplied, to four significant digits."""
    return replace(start, **{name: _times(getattr(start, name), factor) for name, factor in factors.items()})


def photo_confusions(photos: ScoredPhotos, crfs: Sequence[CRFParameters | None], edges: bool, index: int) -> Tensor:
    """Confusion matrices (crfs, kinds, C, C) of a photo, from its scores alone (None) or with a CRF.

    The first kind counts all pixels. The second, if `edges`, counts those near label edges.
    """
    sample, logits = photos[index]
    truth = torch.from_numpy(sample.labels.astype(np.int64))
    kinds = [truth, torch.where(edge_band(truth), truth, VOID)] if edges else [truth]
    found = []
    for crf in crfs:
        ids = logits.argmax(axis=0) if crf is None else refine(logits, sample.image, crf, return_labels=True, threads=1)
        labels = torch.from_numpy(ids.astype(np.int64))
        found.append(torch.stack([confusion_matrix(labels, kind, len(logits)) for kind in kinds]))
    return torch.stack(found)


def _measured(
    photos: ScoredPhotos, pool: Executor, indices: Sequence[int], crfs: Sequence[CRFParameters | None]
) -> Tensor:
    """Confusion matrices (photos, crfs, 2, C, C) of all pixels and of those near label edges."""
    found = pool.map(partial(photo_confusions, photos, crfs, True), indices)
    return torch.stack([each for _, each in zip(progress(indices, "measure"), found, strict=True)])


def _search(
    photos: ScoredPhotos,
    pool: Executor,
    indices: Sequence[int],
    start: CRFParameters,
    names: Sequence[str],
    trials: int,
    seed: int,
) -> tuple[list[tuple[CRFParameters, float]], int]:
    """What was tried with its mean IoU, the start first, and how many others were given up."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed), pruner=optuna.pruners.MedianPruner()
        )
    finally:
        optuna.logging.set_verbosity(verbosity)
    leaves_out = any(each.name == "class_threshold" for each in fields(start.crf.solver))
    faster = replace(start, class_threshold=max(start.class_threshold, SEARCH_THRESHOLD)) if leaves_out else start
    factor: optuna.distributions.BaseDistribution = optuna.distributions.FloatDistribution(1 / SPAN, SPAN, log=True)
    study.enqueue_trial(dict.fromkeys(names, 1.0))
    try:
        for _ in progress(range(trials), "tune"):
            trial = study.ask(dict.fromkeys(names, factor))
            value = _tried(trial, photos, pool, indices, scaled(faster, trial.params))
            study.tell(trial, value, state=PRUNED if value is None else COMPLETE)
    except KeyboardInterrupt:
        if not study.get_trials(states=(COMPLETE,)):
            raise
    complete = study.get_trials(states=(COMPLETE,))
    given_up = len(study.get_trials(states=(PRUNED,)))
    return [(scaled(start, trial.params), trial.values[0]) for trial in complete], given_up


def _descent(
    photos: ScoredPhotos,
    pool: Executor,
    indices: Sequence[int],
    start: CRFParameters,
    names: Sequence[str],
    seed: int,
) -> tuple[list[tuple[CRFParameters, float]], int]:
    """As `_search`, for places on the way downhill."""

    def measured(parameters: CRFParameters) -> tuple[CRFParameters, float]:
        *_, (value, _) = _mean_ious(photos, pool, indices, parameters)
        return parameters, value

    tried = [measured(start)]
    try:
        for found in descend(photos, indices, start, names, seed):
            tried.append(measured(replace(start, **{name: _rounded(getattr(found, name)) for name in names})))
    except KeyboardInterrupt:
        pass
    return tried, 0


def _tried(
    trial: optuna.Trial, photos: ScoredPhotos, pool: Executor, indices: Sequence[int], parameters: CRFParameters
) -> float | None:
    """Mean IoU with these parameters; None if the trial was given up."""
    value = math.nan
    for step, (value, is_last) in enumerate(_mean_ious(photos, pool, indices, parameters), 1):
        if not math.isnan(value):
            trial.report(value, step)
            if not is_last and trial.should_prune():
                return None
    return value


def _mean_ious(
    photos: ScoredPhotos, pool: Executor, indices: Sequence[int], parameters: CRFParameters
) -> Iterator[tuple[float, bool]]:
    """The mean IoU with these parameters after each part of the photos, and whether it was the last part."""
    classes = photos.data.classes.num_classes
    confusion = torch.zeros((classes, classes), dtype=torch.int64)
    chunks = np.array_split(indices, min(CHUNKS, len(indices)))
    for step, chunk in enumerate(chunks, 1):
        for found in pool.map(partial(photo_confusions, photos, [parameters], False), chunk.tolist()):
            confusion += found[0, ALL]
        yield _mean_iou(confusion), step == len(chunks)
    if not confusion.any():
        raise ValueError(f"all pixels of the {len(indices)} photos to tune on are void ({VOID}); there is no truth")


def _gain(before: Tensor, after: Tensor, seed: int) -> Gain:
    """From confusion matrices (photos, crfs, C, C): scores and start before, tuned after."""
    scores, start, tuned = before[:, 0], before[:, 1], after[:, 0]
    return Gain(
        scores=_mean_iou(scores.sum(dim=0)),
        start=_mean_iou(start.sum(dim=0)),
        tuned=_mean_iou(tuned.sum(dim=0)),
        interval=gain_interval(scores, tuned, seed),
    )


def _mean_iou(confusion: Tensor) -> float:
    return float(iou_of_classes(confusion).nanmean())


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, tuple):
        return tuple(_times(each, factor) for each in value)
    return value if factor == 1 else _rounded(value * factor)


def _rounded(value: Any) -> Any:
    return tuple(map(_rounded, value)) if isinstance(value, tuple) else float(f"{value:.{DIGITS}g}")


def _shown(value: Any) -> str:
    """A number, or the first of several."""
    if not isinstance(value, tuple):
        return f"{value:g}"
    return f"{_shown(value[0])}, …"
