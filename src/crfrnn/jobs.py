"""Jobs of many parts, such as the photos of a folder, each done on its own; and the threads that do them here.

A command says what is to be done as a `Job`. An `Engine` does it: `ThisMachine` here, `crfrnn.cluster` on others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from threading import Condition
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from crfrnn.files.places import Place
from crfrnn.files.progress import display
from crfrnn.interrupts import raise_asked
from crfrnn.memory import half_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

SUBJECT: ContextVar[str] = ContextVar("SUBJECT", default="")
"""Which of several items a thread is at work on, named in warnings."""


Work: TypeAlias = Callable[[Sequence[Item], Callable[[int, Result | Exception], None]], None]
"""Does items. It tells the number of each among them with its result, or with why there is none, in any order, from the
thread that calls it."""


class EngineError(ValueError):
    """What does the jobs cannot work, whatever they are about: no cluster, or one that does not fit."""


class Share(Protocol):
    """What the workers of a machine take of it together."""

    @property
    def part(self) -> int:
        """Bytes of each worker."""
        ...

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

    @property
    def accelerated(self) -> bool:
        """Whether workers compute on another device than the CPU."""
        return self.device is not None and not self.device.startswith("cpu")

    @abstractmethod
    def worker(self, share: Share) -> Work[Item, Result]:
        """What does items. What it needs for all of them, such as a model, is loaded here, once."""

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
        worker = job.worker(Memory(half_of_memory(), job.at_once or 1))
        left = len(items)

        def told(number: int, outcome: Result | Exception) -> None:
            nonlocal left
            take(number, outcome)
            left -= 1
            bar.reach(len(items) - left)

        with closing(display().bar(left, description)) as bar:  # it imports: no thread is to be at work then
            if job.at_once is None:
                bar.reach(0)
                worker(items, told)
                return
            with crew(max(1, min(job.at_once, left)), told) as threads:
                for number, item in enumerate(items):
                    threads.give(number, _done_alone, worker, item)
                bar.reach(0)
                while left:
                    told(*threads.ended())


def one_by_one(work: Callable[[Item], Result], name: Callable[[Item], str] = lambda item: "") -> Work[Item, Result]:
    """A worker that does one item after the other, each of which is called so in warnings."""

    def worker(items: Sequence[Item], take: Callable[[int, Result | Exception], None]) -> None:
        for number, item in enumerate(items):
            SUBJECT.set(name(item))
            outcome: Result | Exception
            try:
                outcome = work(item)
            except Exception as error:
                raise_asked(error)
                outcome = error
            take(number, outcome)

    return worker


class Crew:
    """Threads that do what they are given, in this order.

    What ended comes through a queue: the locks of futures stay taken if Ctrl-C comes while one is being taken, and
    their threads then wait forever.
    """

    def __init__(self) -> None:
        self._given: SimpleQueue[tuple[int, Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._ended: SimpleQueue[tuple[int, Any]] = SimpleQueue()

    def give(self, number: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Have something done, which is told by its number."""
        self._given.put((number, work, arguments))

    def ended(self) -> tuple[int, Any]:
        """Wait for the next number with its result, or its error. An error that asks to end is raised."""
        number, outcome = self._ended.get()
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
        return number, outcome

    def work(self) -> None:
        """What a thread does until `end`."""
        while (given := self._given.get()) is not None:
            number, work, arguments = given
            try:
                self._ended.put((number, work(*arguments)))
            except BaseException as error:
                self._ended.put((number, error))

    def end(self, threads: int) -> None:
        """Have so many threads end after what they are at work on."""
        with suppress(Empty):
            while True:
                self._given.get_nowait()
        for _ in range(threads):
            self._given.put(None)

    def rest(self) -> Iterator[tuple[int, Any]]:
        """What ended and was not waited for."""
        with suppress(Empty):
            while True:
                yield self._ended.get_nowait()


@contextmanager
def crew(threads: int, late: Callable[[int, Any], None]) -> Iterator[Crew]:
    """So many threads meanwhile. If it ends with an error, `late` is told what had been begun and has ended since."""
    found = Crew()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for _ in range(threads):
                pool.submit(found.work)
            yield found
            found.end(threads)
        except BaseException:
            found.end(threads)
            pool.shutdown()
            for number, outcome in found.rest():
                if isinstance(outcome, Exception) or not isinstance(outcome, BaseException):
                    late(number, outcome)
            raise


def _done_alone(worker: Work[Item, Result], item: Item) -> Result | Exception:
    """What came of an item."""
    outcomes: list[Result | Exception] = []
    worker([item], lambda _, outcome: outcomes.append(outcome))
    return outcomes[0]


class Memory:
    """Memory that threads share: each thread waits until what it needs is free, or all memory if it needs more.

    An item gets the threads that are left idle because memory holds fewer of its size at a time.
    """

    def __init__(self, total: int, threads: int = 1) -> None:
        self.total = self._free = total
        self.threads = threads
        self._changed = Condition()

    @property
    def part(self) -> int:
        return self.total // self.threads

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
