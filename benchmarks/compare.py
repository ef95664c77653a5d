"""The whole call of each side: same answer first, then time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from .case import Case
from .measure import Child, Workbench, interleaved, medians, ratio

TOLERANCE = 1e-3
# Sides whose result is the model's answer; crfseg has another model, a backward pass gives gradients.
ANSWERS = ("crfrnn", "pydensecrf", "simplecrf", "layer", "layer_dense")


def compare(case: Case, bench: Workbench) -> list[dict]:
    """Photos: time of each side, and its distance to exact filters."""
    rows = []
    for photo, theta, settings in case.rows(bench):
        row: dict = {"photo": photo, "thetas": theta}
        rows.append(row)
        with timed(case, bench, bench.inputs(photo, case.classes, case.size), settings, row) as children:
            if "seconds" in row:
                answering = [child for side, child in children.items() if side in ANSWERS]
                row["errors"] = bench.against_exact(answering, photo, case.classes, settings, case.options)
    return rows


def compare_volumes(case: Case, bench: Workbench) -> list[dict]:
    """Volumes: time of each side. Exact filters would take hours."""
    rows = []
    for volume, theta, settings in case.rows(bench):
        row: dict = {"photo": volume, "thetas": theta, "errors": {}}
        rows.append(row)
        with timed(case, bench, bench.volume(volume), settings, row):
            pass
    return rows


@contextmanager
def timed(case: Case, bench: Workbench, inputs: Path, settings: dict, row: dict) -> Iterator[dict[str, Child]]:
    """The sides' processes, after they were timed into the row, unless the answers differ."""
    chosen = settings | case.options
    with ExitStack() as stack:
        children = {side: stack.enter_context(bench.child(side, case.cores)) for side in bench.found(case.sides)}
        ours = next(iter(children.values()))
        agree = True
        if case.agrees_with in bench.pythons:
            other = stack.enter_context(bench.child(case.agrees_with, case.cores))
            same_filter = settings | ({"spatial": "lattice"} if case.agrees_with.startswith("pydensecrf") else {})
            difference = np.abs(ours.result(inputs, same_filter) - other.result(inputs, settings))
            row["difference"] = float(difference.max())
            row["outside"] = int(np.count_nonzero(difference > TOLERANCE))
            agree = row["difference"] <= TOLERANCE
        if agree:
            if case.options:
                changed = ours.result(inputs, settings).argmax(0) != ours.result(inputs, chosen).argmax(0)
                row["changed"] = float(changed.mean())
            seconds = interleaved(children, inputs, chosen, case.rounds(bench))
            row["seconds"] = medians(seconds)
            row["ratios"] = {side: ratio(seconds, side, case.sides[0]) for side in list(children)[1:]}
        yield children
