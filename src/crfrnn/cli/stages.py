"""Many files in three stages: read ahead in threads, worked out in batches in this thread, written in threads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from crfrnn.interrupts import raise_asked

File = TypeVar("File", bound=Hashable)
WINDOW = 4
"""So many batches of files are on their way at a time."""


class Read(NamedTuple):
    """A file that has been read.

    Attributes:
        content: What `compute` takes.
        kind: Batches are of one kind.
        bytes: How much memory the content takes.
    """

    content: Any
    kind: Hashable
    bytes: int


@dataclass(frozen=True)
class Stages(Generic[File]):
    """What is done with each file.

    Attributes:
        read: In threads.
        compute: A batch of contents to as many results, in the thread of the caller.
        write: A result, in threads.
        batch: Most files of a batch.
        threads: How many read and write.
        memory: About how many bytes all contents may take; one file at a time may take more.
    """

    read: Callable[[File], Read]
    compute: Callable[[Sequence[Any]], Sequence[Any]]
    write: Callable[[File, Any], None]
    batch: int
    threads: int
    memory: int

    def run(self, files: Sequence[File]) -> Generator[tuple[File, Exception | None]]:
        """Each file when it has been written, or with the error that it ended in, in any order.

        What has ended comes through a queue: the locks of futures stay taken if Ctrl-C comes while one is being taken,
        and their threads then wait forever.
        """
        ended: SimpleQueue[tuple[File, Any]] = SimpleQueue()
        waiting: dict[Hashable, list[tuple[File, Any]]] = {}
        held: dict[File, int] = {}  # bytes of the files on their way; 0 of those that are being read
        todo, largest, reading = list(reversed(files)), 0, 0

        def attempt(file: File, work: Callable[..., Any], *arguments: Any) -> None:
            try:
                ended.put((file, work(file, *arguments)))
            except BaseException as error:
                ended.put((file, error))

        with ThreadPoolExecutor(self.threads) as pool:
            try:
                while todo or held:
                    while todo and len(held) < self._most(largest):
                        file = todo.pop()
                        held[file], reading = 0, reading + 1
                        pool.submit(attempt, file, self.read)
                    chosen = self._chosen(waiting, reading == 0)
                    if chosen:
                        for file, outcome in self._computed(chosen):
                            if isinstance(outcome, Exception):
                                del held[file]
                                yield file, outcome
                            else:
                                pool.submit(attempt, file, self.write, outcome)
                        continue
                    file, outcome = ended.get()
                    if isinstance(outcome, Read):
                        reading, largest = reading - 1, max(largest, outcome.bytes)
                        held[file] = outcome.bytes
                        waiting.setdefault(outcome.kind, []).append((file, outcome.content))
                        continue
                    if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
                        raise outcome
                    reading -= held[file] == 0
                    del held[file]
                    yield file, outcome
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _most(self, largest: int) -> int:
        """How many files may be on their way: few until the size of one is known."""
        most = WINDOW * self.batch
        return min(most, self.threads) if largest == 0 else max(1, min(most, self.memory // largest))

    def _chosen(self, waiting: dict[Hashable, list[tuple[File, Any]]], nothing_comes: bool) -> list[tuple[File, Any]]:
        """A batch taken from those that wait: a full one, or the fullest where nothing else comes."""
        if not waiting:
            return []
        kind = max(waiting, key=lambda each: len(waiting[each]))
        found = waiting[kind]
        if len(found) < self.batch and not nothing_comes:
            return []
        waiting[kind] = found[self.batch :]
        if not waiting[kind]:
            del waiting[kind]
        return found[: self.batch]

    def _computed(self, chosen: list[tuple[File, Any]]) -> Iterator[tuple[File, Any]]:
        """Each file with its result or error. A batch that fails is worked out file by file."""
        try:
            results = self.compute([content for _, content in chosen])
        except Exception as error:
            raise_asked(error)
            if len(chosen) == 1:
                yield chosen[0][0], error
                return
            for each in chosen:
                yield from self._computed([each])
            return
        yield from zip((file for file, _ in chosen), results, strict=True)
