"""Search for the parameters with the highest worth: Optuna's TPE sampler, with a pruner."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

from crfrnn.files.progress import progress
from crfrnn.interrupts import Terminated
from crfrnn.parameters import CRFParameters
from crfrnn.tuning.measure import Bench
from crfrnn.tuning.trials import TrialFile

SPAN = 5.0
"""Each value is searched from a fifth to five times that at the start, on a logarithmic scale."""
DIGITS = 4
"""Significant digits of what is found."""
SEARCH_THRESHOLD = 0.01
"""Smallest `class_threshold` in the search: it saves time and changes hardly any labels (docs/benchmarks.md)."""

COMPLETE, PRUNED = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED


class Tried(NamedTuple):
    """Parameters with their worth, the start first; how many others were given up, and how many an earlier run left.

    It was cut short if Ctrl-C ended it.
    """

    complete: list[tuple[CRFParameters, float]]
    given_up: int = 0
    continued: int = 0
    cut_short: bool = False


def search(
    bench: Bench, start: CRFParameters, names: Sequence[str], trials: int, seed: int, path: Path | None
) -> Tried:
    """Trials of the parameters named, multiplied by factors.

    Each trial draws from a generator of its own, so that a search that goes on tries what it would have tried.

    Args:
        path: A file for finished trials; it stays if the search is interrupted.
    Raises: KeyboardInterrupt: if it was interrupted before a trial was complete.
    """
    leaves_out = any(each.name == "class_threshold" for each in fields(start.crf.solver))
    faster = replace(start, class_threshold=max(start.class_threshold, SEARCH_THRESHOLD)) if leaves_out else start
    factors: dict[str, BaseDistribution] = dict.fromkeys(names, FloatDistribution(1 / SPAN, SPAN, log=True))
    kept = TrialFile(path, _identity(bench, start, seed), factors)
    study = _quietly(optuna.create_study, direction="maximize", pruner=optuna.pruners.MedianPruner())
    study.add_trials(kept.trials[:trials])
    continued = len(study.trials)
    if not continued:
        study.enqueue_trial(dict.fromkeys(names, 1.0))
    cut_short = False
    try:
        for number in progress(range(continued, trials), "tune"):
            study.sampler = optuna.samplers.TPESampler(seed=_seed(seed, number))
            trial = study.ask(factors)
            value = _tried(trial, bench, scaled(faster, trial.params))
            kept.add(study.tell(trial, value, state=PRUNED if value is None else COMPLETE))
        kept.remove()
    except KeyboardInterrupt as asked:
        if isinstance(asked, Terminated) or not study.get_trials(states=(COMPLETE,)):
            raise
        cut_short = True
    finally:
        kept.close()
    complete = [(scaled(start, trial.params), trial.values[0]) for trial in study.get_trials(states=(COMPLETE,))]
    return Tried(complete, len(study.get_trials(states=(PRUNED,))), continued, cut_short)


def scaled(start: CRFParameters, factors: Mapping[str, float]) -> CRFParameters:
    """Parameters with some of them multiplied, to four significant digits."""
    return replace(start, **{name: _times(getattr(start, name), factor) for name, factor in factors.items()})


def rounded(value: Any) -> Any:
    """To four significant digits."""
    return tuple(map(rounded, value)) if isinstance(value, tuple) else float(f"{value:.{DIGITS}g}")


def _tried(trial: optuna.Trial, bench: Bench, parameters: CRFParameters) -> float | None:
    """The worth of these parameters; None if the trial was given up, being worse than half of those before."""
    value = math.nan
    for step, (value, is_last) in enumerate(bench.values(parameters), 1):
        if not math.isnan(value):
            trial.report(value, step)
            if not is_last and trial.should_prune():
                return None
    return value


def _identity(bench: Bench, start: CRFParameters, seed: int) -> dict[str, Any]:
    """What trials have to have in common to be of the same search: photos, scores as they are, start and seed."""
    photos = bench.photos
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in photos.files]
    files = hashlib.sha256(repr((states, list(bench.indices))).encode()).hexdigest()
    reading = {"input": photos.input, "array": photos.array, "square": photos.square}
    classes = list(photos.data.classes.names)
    return {"start": repr(asdict(start)), "seed": seed, "files": files, "classes": classes, **reading}


def _seed(seed: int, number: int) -> int:
    """The seed of a trial."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")


def _quietly(create: Any, **options: Any) -> optuna.Study:
    """Without Optuna's message that there is a study now."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study: optuna.Study = create(**options)
        return study
    finally:
        optuna.logging.set_verbosity(verbosity)


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, tuple):
        return tuple(_times(each, factor) for each in value)
    return value if factor == 1 else rounded(value * factor)
