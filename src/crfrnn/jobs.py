"""Jobs of many parts, such as the photos of a folder, each done on its own; and the threads that do them here.

A command says what is to be done as a `Job`. An `Engine` does it: `ThisMachine` here, `crfrnn.cluster` on others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from queue import SimpleQueue
from threading import Condition
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from crfrnn.files.places import Place
from crfrnn.files.progress import progress
from crfrnn.interrupts import raise_asked
from crfrnn.memory import half_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

SUBJECT: ContextVar[str] = ContextVar("SUBJECT", default="")
"""Which of several items a thread is at work on, named in warnings."""


class EngineError(ValueError):
    """What does the jobs cannot work, whatever they are about: no cluster, or one that does not fit."""


class Share(Protocol):
    """What the workers of a machine take of it together."""

    @contextmanager
    def taken(self, needed: int) -> Iterator[int]:
        """Wait until so many bytes are free, and hold them. Gives the threads that may compute meanwhile."""
        ...


class Job(ABC, Generic[Item, Result]):
    """What is to be done with each item. It is sent to other processes: it names files, and holds no model.

    Attributes:
        at_once: How many items are at work at the same time on a machine without other workers, each on a thread. None
            is one, in the thread that asks for it: Ctrl-C ends it at once, and does not wait for its end.
        threads: Threads of each worker, where there are several on a machine; None is one.
        device: The device of torch that a worker computes on; None is the CPU.
        shared: A folder that all workers have to see as this process does: that of the results. None if they are
            returned.
        inputs: Folders that all workers read from.
    """

    at_once: int | None = None
    threads: int | None = None
    device: str | None = None
    shared: Place | None = None
    inputs: Sequence[Place] = ()

    @abstractmethod
    def worker(self, share: Share) -> Callable[[Item], Result]:
        """What does an item. What it needs for all of them, such as a model, is loaded here, once."""

    def name(self, item: Item) -> str:
        """What an item is called in warnings."""
        return ""


class Engine(Protocol):
    """What does jobs."""

    @property
    def remarks(self) -> Sequence[str]:
        """What is worth telling of the last run."""
        ...

    def run(
        self,
        job: Job[Item, Result],
        items: Sequence[Item],
        take: Callable[[int, Result | Exception], None],
        description: str,
    ) -> None:
        """Do all items, in any order, with a progress bar.

        Args:
            take: Is called in this thread with the number of each item, and its result or why there is none.
        Raises:
            EngineError: if the engine cannot work at all.
            Exception: if a worker cannot begin, such as for a model that cannot be read.
        """
        ...


class ThisMachine:
    """Threads of this process."""

    remarks: ClassVar[Sequence[str]] = ()

    def run(
        self,
        job: Job[Item, Result],
        items: Sequence[Item],
        take: Callable[[int, Result | Exception], None],
        description: str,
    ) -> None:
        work = job.worker(Memory(half_of_memory(), job.at_once or 1))
        shown = progress(range(len(items)), description)  # it imports: no thread is to be at work then
        if job.at_once is None:
            for number in shown:
                outcome = attempt(job, work, items[number])
                take(number, outcome)
            return
        # Results come through a queue: the locks of futures stay taken if Ctrl-C comes while one is being taken, and
        # their threads then wait forever.
        ended: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        left = list(reversed(range(len(items))))

        def drain() -> None:
            while left:
                try:
                    number = left.pop()
                except IndexError:  # another thread took the last one
                    return
                try:
                    ended.put((number, attempt(job, work, items[number])))
                except BaseException as error:
                    ended.put((number, error))

        with ThreadPoolExecutor(job.at_once) as pool:
            try:
                for _ in range(min(job.at_once, len(items))):
                    pool.submit(drain)
                for _ in shown:
                    number, outcome = ended.get()
                    if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
                        raise outcome
                    take(number, outcome)
            except BaseException:
                left.clear()
                pool.shutdown()
                while not ended.empty():
                    number, outcome = ended.get()
                    if isinstance(outcome, Exception) or not isinstance(outcome, BaseException):
                        take(number, outcome)
                raise


def attempt(job: Job[Item, Result], work: Callable[[Item], Result], item: Item) -> Result | Exception:
    """The result of an item, or why there is none."""
    SUBJECT.set(job.name(item))
    try:
        return work(item)
    except Exception as error:
        raise_asked(error)
        return error


class Memory:
    """Memory that threads share: each thread waits until what it needs is free, or all memory if it needs more.

    An item gets the threads that are left idle because memory holds fewer of its size at a time.
    """

    def __init__(self, total: int, threads: int = 1) -> None:
        self.total = self._free = total
        self.threads = threads
        self._changed = Condition()

    @contextmanager
    def taken(self, needed: int) -> Iterator[int]:
        at_a_time = max(1, min(self.threads, self.total // max(1, needed)))
        needed = min(needed, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= needed)
            self._free -= needed
        try:
            yield self.threads // at_a_time
        finally:
            with self._changed:
                self._free += needed
                self._changed.notify_all()
