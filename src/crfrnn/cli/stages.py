"""A worker in three stages: items are read ahead in threads, worked out in batches in this one, written in threads."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

from crfrnn.interrupts import raise_asked
from crfrnn.jobs import SUBJECT, Item, Result, crew

WINDOW = 4
"""So many batches of items are on their way at a time."""


class Read(NamedTuple):
    """An item that has been read.

    Attributes:
        content: What `compute` takes.
        kind: Batches are of one kind.
        bytes: How much memory it takes until it is written.
    """

    content: Any
    kind: Hashable
    bytes: int


@dataclass(frozen=True)
class Stages(Generic[Item, Result]):
    """What is done with each item, as a `crfrnn.jobs.Work`.

    Attributes:
        read: In threads.
        compute: The contents of a batch to as many results, in the thread of the caller.
        write: A result, in threads.
        batch: Most items of a batch.
        threads: How many read and write.
        memory: About how many bytes all items on their way may take; one at a time may take more.
    """

    read: Callable[[Item], Read]
    compute: Callable[[Sequence[Any]], Sequence[Any]]
    write: Callable[[Item, Any], Result]
    batch: int
    threads: int
    memory: int

    def __call__(self, items: Sequence[Item], take: Callable[[int, Result | Exception], None]) -> None:
        waiting: dict[Hashable, list[tuple[int, Any]]] = {}
        todo, reading, writing = list(reversed(range(len(items)))), set[int](), set[int]()
        largest = 0

        def late(number: int, outcome: Any) -> None:
            if not isinstance(outcome, Read):
                take(number, outcome)

        SUBJECT.set("")
        with crew(self.threads, late) as threads:
            while todo or reading or waiting or writing:
                free = self._most(largest) - len(reading) - len(writing) - sum(map(len, waiting.values()))
                for _ in range(min(free, len(todo))):
                    number = todo.pop()
                    reading.add(number)
                    threads.give(number, self.read, items[number])
                if chosen := self._chosen(waiting, not reading):
                    for number, outcome in self._computed(chosen):
                        if isinstance(outcome, Exception):
                            take(number, outcome)
                        else:
                            writing.add(number)
                            threads.give(number, self.write, items[number], outcome)
                    continue
                number, outcome = threads.ended()
                if number in reading and isinstance(outcome, Read):
                    largest = max(largest, outcome.bytes)
                    waiting.setdefault(outcome.kind, []).append((number, outcome.content))
                else:
                    take(number, outcome)
                reading.discard(number)
                writing.discard(number)

    def _most(self, largest: int) -> int:
        """How many items may be on their way: few until the size of one is known."""
        most = WINDOW * self.batch
        return min(most, self.threads) if largest == 0 else max(1, min(most, self.memory // largest))

    def _chosen(self, waiting: dict[Hashable, list[tuple[int, Any]]], nothing_comes: bool) -> list[tuple[int, Any]]:
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

    def _computed(self, chosen: list[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """The number of each item with its result or error. A batch that fails is worked out item by item."""
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
        yield from zip((number for number, _ in chosen), results, strict=True)
