"""Files read ahead, worked out in batches and written, and what happens to those that fail."""

import threading
from collections.abc import Sequence

import pytest

from crfrnn.cli.stages import Read, Stages

BROKEN, UNFIT, UNWRITABLE = 3, 7, 11
FAILING = {BROKEN: "broken", UNFIT: "unfit", UNWRITABLE: "unwritable"}


class Work:
    """Numbers that become their squares, where some fail; batches are of the numbers of one remainder."""

    def __init__(self, batch: int = 4, memory: int = 1000) -> None:
        self.batches: list[list[int]] = []
        self.squares: dict[int, int] = {}
        self.held, self.most, self.lock = 0, 0, threading.Lock()
        self.stages = Stages(self.read, self.compute, self.write, batch, 2, memory)

    def read(self, number: int) -> Read:
        if number == BROKEN:
            raise ValueError("broken")
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        return Read(number, number % 2, 10)

    def compute(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        if UNFIT in numbers:
            raise ValueError("unfit")
        return [number**2 for number in numbers]

    def write(self, number: int, square: int) -> None:
        with self.lock:
            self.held -= 1
        if number == UNWRITABLE:
            raise OSError("unwritable")
        self.squares[number] = square


def test_every_file_ends_once_and_those_that_fail_say_why():
    work, numbers = Work(), range(30)
    ended = list(work.stages.run(numbers))
    assert sorted(number for number, _ in ended) == list(numbers)
    assert {number: str(error) for number, error in ended if error} == FAILING
    assert work.squares == {number: number**2 for number in numbers if number not in FAILING}
    assert all(len(batch) <= 4 and len({number % 2 for number in batch}) == 1 for batch in work.batches)
    assert max(map(len, work.batches)) == 4
    assert [UNFIT] in work.batches  # alone, once it had failed with others


@pytest.mark.parametrize(("memory", "most"), [(1, 2), (30, 4), (1000, 16)])
def test_few_are_on_their_way_where_memory_is_short(memory: int, most: int):
    """At first as many as there are threads, as no size is known."""
    work = Work(memory=memory)
    assert len(list(work.stages.run(range(40)))) == 40
    assert work.most <= most


def test_no_files():
    assert list(Work().stages.run([])) == []


def test_an_interruption_ends_it(monkeypatch: pytest.MonkeyPatch):
    work, threads = Work(), threading.active_count()

    def interrupted(numbers: Sequence[int]) -> list[int]:
        raise KeyboardInterrupt

    ended = Stages(work.read, interrupted, work.write, 4, 2, 1000).run(range(100))
    with pytest.raises(KeyboardInterrupt):
        list(ended)
    assert threading.active_count() == threads
    assert not work.squares
