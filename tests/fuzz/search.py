"""Searches for examples that are faults, and makes them small."""

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky, HypothesisException
from worker import Verdict, Worker

CHECKS = list(HealthCheck)


class Found(Exception):  # noqa: N818  (no error, for hypothesis)
    """A fault that was not known."""


def search(
    name: str, strategy: Any, worker: Worker, examples: int, counts: Counter, known: set[str], chance: int | None = None
) -> tuple[Any, Verdict] | None:
    """The smallest example found of a fault that is not known; None if there was none among as many examples.

    Args:
        counts: Takes the number of each outcome.
        known: Signatures of faults that are counted and passed over.
        chance: The seed; None tries the same examples every time.
    """
    last: list[tuple[Any, Verdict]] = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=chance is None,
        suppress_health_check=CHECKS,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(strategy)
    def attempt(example: Any) -> None:
        verdict = worker.verdict(name, example)
        counts[verdict.outcome] += 1
        if verdict.outcome == "fault" and f"{name}: {verdict.signature}" not in known:
            last.append((example, verdict))
            raise Found

    try:
        (attempt if chance is None else seed(chance)(attempt))()
    except (Found, Flaky, HypothesisException):
        if not last:
            raise
        return last[-1]
    return None
