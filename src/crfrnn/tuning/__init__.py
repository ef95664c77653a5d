"""Finds a CRF's parameters on labelled photos with scores, and measures their gain on photos held out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

try:
    import optuna as _optuna  # noqa: F401
    import torch as _torch  # noqa: F401
    import torchmetrics as _torchmetrics  # noqa: F401
except ImportError as error:
    raise ImportError(f"tuning needs {error.name}, which is not installed: pip install 'crfrnn[tune]'") from error

from torch import Tensor

from crfrnn.data.scored import ScoredPhotos
from crfrnn.evaluation.bootstrap import gain_interval
from crfrnn.files.classes import VOID
from crfrnn.interrupts import Terminated, patient_interrupts
from crfrnn.numbers import finite_number, one_of, whole_number
from crfrnn.parameters import DEFAULT_PRESET, CRFParameters, preset
from crfrnn.threads import thread_count
from crfrnn.tuning.descent import descend
from crfrnn.tuning.measure import ALL, NEAR_EDGES, Bench, mean_iou
from crfrnn.tuning.report import Finding, Gain, Tuning, searched_fields
from crfrnn.tuning.search import Tried, rounded, search

__all__ = ["TRIALS", "Finding", "Gain", "Method", "Tuning", "searched_fields", "split_photos", "tune"]

TRIALS = 40
FEWEST_PHOTOS = 2
"""The fewest photos to tune on, and to hold out: a single photo says nothing about others."""

Method: TypeAlias = Literal["search", "gradient"]


def tune(
    photos: ScoredPhotos,
    start: CRFParameters | None = None,
    *,
    method: Method = "search",
    trials: int = TRIALS,
    holdout: float = 0.5,
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    keep: Path | None = None,
) -> Tuning:
    """Find the deviations and weights that are best on some photos, and measure them on the others.

    These are θ_α, θ_β, θ_γ and the weights of both kernels, without those of a kernel of weight 0. Normalisation,
    iterations and everything else stay as they are. Best is the highest mean of two measures, mean IoU over all pixels
    and over those near label edges. No CRF at all is a candidate, too: where it is best, the weights found are 0.

    "search" tries values from a fifth to five times those at the start. If one has a number for each class, axis or
    channel, all its numbers are multiplied by the same factor. The start is the first trial. "gradient" goes uphill
    in the mean IoU of each photo, with probabilities in the place of labels, and every number on its own. It takes the
    best of the start and four places on the way.

    Ctrl-C ends the search, and the best parameters so far are measured. Another one, two seconds later or more, ends
    everything, and so does `Terminated` at once.

    Args:
        photos: Photos with scores and labels.
        start: Where it begins; the default preset when not given.
        method: "search" or "gradient".
        trials: How many sets of parameters the search tries, at least 1.
        holdout: Share of the photos that the gain is measured on, above 0 and below 1.
        seed: Seed of the choice of these photos, of the search and of the bootstrap.
        threads: Photos refined at a time; None is `default_threads()`. No result depends on it.
        device: A device of torch to refine on, such as "cuda", one photo at a time; the CPU when not given.
        keep: A file for the trials of the search that are done. It goes away when all are; until then, the same call
            goes on with them, and finds what it would have found without a break.
    Raises:
        ValueError: if there are too few photos, nothing to search, or no pixel with a label; or what reading a photo
            or refining it raises.
        KeyboardInterrupt: if it was interrupted before the first trial ended, or twice.
    Cost: The search refines the photos tuned on up to `trials` times. The gradient refines 200 photos forward and back,
        and the photos tuned on five times.
    """
    one_of(method, get_args(Method), "method")
    begin = preset(DEFAULT_PRESET) if start is None else start
    if whole_number(trials, "trials") < 1:
        raise ValueError(f"trials={trials} must be at least 1")
    names = searched_fields(begin)
    if not names:
        raise ValueError("both weights are 0 at the start, so that there is no CRF to tune: raise one of them")
    tuned_on, held_out = split_photos(len(photos), holdout, whole_number(seed, "seed"))
    pool = ThreadPoolExecutor(1 if device is not None else thread_count(threads))
    choosing, measuring = (Bench(photos, part, pool, device) for part in (tuned_on, held_out))
    with patient_interrupts():
        try:
            before = measuring.confusions([None, begin], "measure")
            if not before.any():
                raise ValueError(
                    f"all pixels of the {len(held_out)} photos held out are void ({VOID}); there is no truth"
                )
            alone = choosing.value(None)
            tried = (
                search(choosing, begin, names, trials, seed, keep)
                if method == "search"
                else _descended(choosing, begin, names, seed)
            )
            best, most = max(tried.complete, key=lambda pair: pair[1])
            if most <= alone:
                best, most = replace(begin, bilateral_weight=0.0, spatial_weight=0.0), alone
            after = measuring.confusions([best], "measure")
        finally:
            pool.shutdown(cancel_futures=True)
    return Tuning(
        start=begin,
        parameters=best,
        tuned_on=len(tuned_on),
        held_out=len(held_out),
        trials=len(tried.complete) + tried.given_up,
        given_up=tried.given_up,
        continued=tried.continued,
        cut_short=tried.cut_short,
        searched=(alone, tried.complete[0][1], most),
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


def _descended(bench: Bench, start: CRFParameters, names: Sequence[str], seed: int) -> Tried:
    """The start, and places on the way downhill."""
    complete = [(start, bench.value(start))]
    try:
        for found in descend(bench.photos, bench.indices, start, names, seed, bench.device):
            parameters = replace(start, **{name: rounded(getattr(found, name)) for name in names})
            complete.append((parameters, bench.value(parameters)))
    except Terminated:
        raise
    except KeyboardInterrupt:
        return Tried(complete, cut_short=True)
    return Tried(complete)


def _gain(before: Tensor, after: Tensor, seed: int) -> Gain:
    """From confusion matrices (photos, crfs, C, C): scores and start before, tuned after."""
    scores, start, tuned = before[:, 0], before[:, 1], after[:, 0]
    return Gain(
        scores=mean_iou(scores.sum(dim=0)),
        start=mean_iou(start.sum(dim=0)),
        tuned=mean_iou(tuned.sum(dim=0)),
        interval=gain_interval(scores, tuned, seed),
    )
