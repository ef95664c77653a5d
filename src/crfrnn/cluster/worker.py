"""What runs on the machines of a cluster: a worker loads what a job needs once, and does items."""

from __future__ import annotations

import os
import pickle
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crfrnn.cluster.connection import ray_module
from crfrnn.files.locks import waiting_lock
from crfrnn.files.replacement import leave_alone
from crfrnn.jobs import Job, Work
from crfrnn.memory import half_of_memory
from crfrnn.threads import thread_count

Warned = tuple[str, type[Warning], str, int]
"""Words, kind, and the file and line that warned."""


MOST_DEATHS = 3
"""So many workers of a machine may be killed while at work on an item."""
KILLED = OSError(f"its worker was killed {MOST_DEATHS} times while at work on it, maybe for lack of memory")


@dataclass(frozen=True)
class Ended:
    """What came of an item.

    Attributes:
        number: Of the item.
        name: What it is called in warnings.
        outcome: Its result, or the error why there is none.
        warnings: What was warned of.
        worker: Machine and process.
        restarted: Whether the worker took the place of one that was lost.
    """

    number: int
    name: str
    outcome: Any
    warnings: tuple[Warned, ...]
    worker: tuple[str, int]
    restarted: bool


@dataclass(frozen=True)
class Startup:
    """Why a worker could not begin."""

    error: Exception


class Worker:
    """Does the items of a job, a chunk of them at a time. Ray makes one for each process.

    Args:
        job: Pickled.
        folder: The folder that relative paths begin in.
        run: A name of this run alone.
    """

    def __init__(self, job: bytes, folder: str, run: str) -> None:
        ray = ray_module()
        with suppress(OSError):  # it need not be there if no path begins in it
            os.chdir(folder)
        context = ray.get_runtime_context()
        self.restarted = bool(context.was_current_actor_reconstructed)
        self.run = own_folder() / run
        self.place = str(context.get_node_id()), os.getpid()
        self.work: Work[Any, Any] | None = None
        self.error: Exception | None = None
        try:
            self.job: Job[Any, Any] = pickle.loads(job)
            if isinstance(self.job.shared, Path):
                leave_alone(self.job.shared)
            self.work = self.job.worker(NodeMemory(workers_here(ray, self.job), self.job.threads))
        except Exception as error:
            self.error = told(error, f"the worker on {ray.util.get_node_ip_address()}: ")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"ended": [pickle.dumps(self.ended(pickle.loads(chunk))) for chunk in batch["chunk"]]}

    def ended(self, numbered: Sequence[tuple[int, Any]]) -> list[Ended | Startup]:
        """What comes of items that are given with their numbers.

        What was under way when a worker was killed is done alone: what kills its worker, such as a photo that takes
        more memory than there is, is not tried forever, and takes nothing with it.
        """
        if self.work is None or self.error is not None:
            return [Startup(self.error or RuntimeError("the worker has not begun"))]
        together, found = [], list[Ended | Startup]()
        for number, item in numbered:
            deaths = self.deaths(number)
            if deaths == 0:
                together.append((number, item))
            elif deaths < MOST_DEATHS:
                found += self.done(self.work, [(number, item)])
            else:
                self.begun(number).unlink(missing_ok=True)
                found.append(Ended(number, self.job.name(item), KILLED, (), self.place, self.restarted))
        return found + self.done(self.work, together)

    def done(self, work: Work[Any, Any], numbered: Sequence[tuple[int, Any]]) -> list[Ended]:
        """What comes of items that are under way together, with what was warned of before each of them had ended."""
        found: list[Ended] = []

        def take(place: int, outcome: Any) -> None:
            number, item = numbered[place]
            warned = tuple((str(each.message), each.category, each.filename, each.lineno) for each in caught)
            caught.clear()
            outcome = told(outcome) if isinstance(outcome, Exception) else outcome
            found.append(Ended(number, self.job.name(item), outcome, warned, self.place, self.restarted))
            # Another worker may be at it too, after a machine was out of reach.
            self.begun(number).unlink(missing_ok=True)

        for number, _ in numbered:
            with self.begun(number).open("ab") as handle:
                handle.write(b".")
        with warnings.catch_warnings(record=True) as caught:
            work([item for _, item in numbered], take)
        return found

    def begun(self, number: int) -> Path:
        """Tells the workers of this machine that an item is under way. It is there longer only if its worker died."""
        return self.run.with_name(f"{self.run.name}-{number}")

    def deaths(self, number: int) -> int:
        """How many workers have died while an item was under way, a byte for each."""
        try:
            return self.begun(number).stat().st_size
        except FileNotFoundError:
            return 0


def told(error: Exception, where: str = "") -> Exception:
    """An error as it can be sent, with its traceback as a note, which --debug prints."""
    trace = "".join(traceback.format_exception(error))
    if where and error.args and isinstance(error.args[0], str):
        error.args = (where + error.args[0], *error.args[1:])
    try:
        sent: Exception = pickle.loads(pickle.dumps(error))
        sent.__cause__ = None
    except Exception:  # whatever a library's error does when it is pickled
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(trace)
    return sent


def gpus(job: Job[Any, Any]) -> int:
    """How many GPUs each worker of a job takes."""
    return int(job.accelerated)


def workers_on(resources: dict[str, float], job: Job[Any, Any]) -> int:
    """How many workers of a job fit on a machine, or into a cluster, of these resources."""
    by_cpu = int(resources.get("CPU", 0) // (job.threads or 1))
    return min(by_cpu, int(resources.get("GPU", 0))) if gpus(job) else by_cpu


def workers_here(ray: Any, job: Job[Any, Any]) -> int:
    """How many workers of a job share this machine."""
    here = ray.get_runtime_context().get_node_id()
    resources: dict[str, float] = next((node["Resources"] for node in ray.nodes() if node["NodeID"] == here), {})
    return max(1, workers_on(resources, job))


def own_folder() -> Path:
    """A folder of this machine and this user for what its workers tell each other."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"crfrnn-workers-{user}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


class NodeMemory:
    """Memory that the workers of a machine share, which are processes: what is larger than a worker's part is alone.

    Args:
        workers: How many there are.
        threads: Of each; None is one.
        folder: Holds the locks.
    """

    def __init__(self, workers: int, threads: int | None, folder: Path | None = None) -> None:
        self.part = half_of_memory() // workers
        self.threads = thread_count(threads or 1)
        self.folder = folder or own_folder()

    @contextmanager
    def taken(self, needed: int) -> Iterator[int]:
        alone = needed > self.part
        # Whoever waits holds the gate: others that begin later would keep a large item waiting forever.
        with waiting_lock(self.folder / "gate", alone=True):
            memory = waiting_lock(self.folder / "memory", alone)
            memory.__enter__()
        try:
            yield self.threads
        finally:
            memory.__exit__(None, None, None)
