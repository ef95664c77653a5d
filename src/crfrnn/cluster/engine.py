"""The engine that does jobs on a Ray cluster, by Ray Data: names of files go out, and what is to be told comes back.

Photos and results do not pass through Ray. Each worker reads and writes them itself, one or a few at a time, so that
memory does not grow with how many there are.
"""

from __future__ import annotations

import math
import os
import pickle
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from crfrnn.cluster.connection import connected, quiet, ray_module, watched
from crfrnn.cluster.machines import alive, require_machines
from crfrnn.cluster.worker import Ended, Startup, Worker, gpus
from crfrnn.files.progress import display
from crfrnn.files.replacement import beacon
from crfrnn.jobs import SUBJECT, EngineError, Item, Job, Result
from crfrnn.plausibility import InputWarning

MOST_TOGETHER = 64
"""Items that a worker is given at once, at most: what is done again after it was lost."""
ROUNDS = 3
"""How often what did not come back is tried. Ray itself does again what was on a worker or a machine that is lost."""


LOST = f"the cluster has lost it {ROUNDS} times"


class RayCluster:
    """Does jobs on all machines of a Ray cluster: a worker for every CPU, or for every GPU.

    What was at work on a worker or a machine that is lost is done again. An item whose workers are lost every time, as
    one that takes more memory than there is, fails alone.

    Args:
        address: Of the cluster, as `ray.init` takes it; None is that of RAY_ADDRESS or of this machine, which is
            started if there is none. A process that is connected to one already stays so.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        self.remarks: list[str] = []

    def run(
        self,
        job: Job[Item, Result],
        items: Sequence[Item],
        take: Callable[[int, Result | Exception], None],
        description: str,
    ) -> None:
        """See `crfrnn.jobs.Engine`.

        Raises: EngineError: if there is no cluster, or its machines do not fit: another version of this package, no GPU
            for a device, or another disk where files are or results go.
        """
        self.remarks = []
        if not items:
            return
        missing = dict.fromkeys(range(len(items)))
        lost: set[tuple[str, int]] = set()
        warned = Warned()
        with ExitStack() as stack:
            ray_module()  # it sets up what it prints
            stack.enter_context(quiet())
            ray = stack.enter_context(connected(self.address))
            stack.enter_context(watched(ray))
            with beacon(job.shared) if isinstance(job.shared, Path) else nullcontext() as seen:
                workers = require_machines(ray, job, seen)
            machines = alive(ray)
            bar = display().bar(len(items), description)
            stack.callback(bar.close)
            bar.reach(0)
            failure: Exception | None = None
            for _ in range(ROUNDS):
                together = chosen_size(len(missing), workers)
                try:
                    for ended in _ended(ray, job, items, list(missing), together, workers):
                        if isinstance(ended, Startup):
                            raise ended.error
                        if ended.restarted:
                            lost.add(ended.worker)
                        if ended.number in missing:
                            del missing[ended.number]
                            warned.again(ended)
                            take(ended.number, ended.outcome)
                        bar.reach(len(items) - len(missing))
                except ray.exceptions.RayError as error:
                    failure = error
                if not missing:
                    break
            gone = len(machines - alive(ray))
        if len(missing) == len(items) and failure is not None:
            raise EngineError(
                f"the cluster has done nothing of it: {str(failure).strip().splitlines()[-1]}"
            ) from failure
        for number in missing:
            take(number, OSError(f"{LOST}: {failure}" if failure else LOST))
        self.remarks = [*_lost(len(lost), "worker", "died"), *_lost(gone, "machine", "left the cluster")]


def chosen_size(items: int, workers: int) -> int:
    """How many items a worker is given at once.

    Each time costs Ray about a tenth of what a photo of 500×375 takes, and at the end each worker waits for others for
    half of that many items: the root of a fifth of the items of a worker costs least. Many workers need more, as this
    process takes as long for each time, one after the other: it keeps ten busy for each photo that they are given.
    """
    least = min(workers // 10, items // workers)
    return max(1, min(MOST_TOGETHER, max(least, math.isqrt(items // (5 * workers)))))


def _ended(
    ray: Any, job: Job[Item, Result], items: Sequence[Item], numbers: Sequence[int], together: int, workers: int
) -> Iterator[Any]:
    """What came of the items of these numbers, in the order in which they are done."""
    chunks = [numbers[start : start + together] for start in range(0, len(numbers), together)]
    rows = [{"chunk": pickle.dumps([(number, items[number]) for number in chunk])} for chunk in chunks]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's, of its own settings
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        dataset.context.enable_progress_bars = False
        dataset.context.max_errored_blocks = -1  # what does not come back is tried again
        done = dataset.map_batches(
            Worker,
            fn_constructor_args=(ray.cloudpickle.dumps(job), os.getcwd(), secrets.token_hex(8)),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=min(workers, len(rows)), max_size=len(rows)),
            num_cpus=job.threads or 1,
            num_gpus=gpus(job),
        )
    for row in done.iter_rows():
        yield from pickle.loads(row["ended"])


class Warned:
    """Warns here of what workers warned of, as often as this process would: of inputs, once for each line of code."""

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()
        self.registry: dict[Any, Any] = {}

    def again(self, ended: Ended) -> None:
        """Warn of what was warned of at an item."""
        SUBJECT.set(ended.name)
        for message, category, filename, line in ended.warnings:
            if issubclass(category, InputWarning):
                if (filename, line) in self.lines:
                    continue
                self.lines.add((filename, line))
            warnings.warn_explicit(message, category, filename, line, registry=self.registry)


def _lost(count: int, what: str, verb: str) -> list[str]:
    if not count:
        return []
    return [f"{count} {what}{'s' if count > 1 else ''} {verb}; what was at work there was done again"]
