"""Items read ahead, worked out in batches and written, and what happens to those that fail."""

import threading
from collections.abc import Sequence

import pytest

from crfrnn.cli.stages import Read, Stages

BROKEN, UNFIT, UNWRITABLE = 3, 7, 11
FAILING = {BROKEN: "broken", UNFIT: "unfit", UNWRITABLE: "unwritable"}


class Squaring:
    """Numbers that become their squares, where some fail; batches are of the numbers of one remainder."""

    def __init__(self, batch: int = 4, memory: int = 1000, interrupted_at: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.interrupted_at, self.written = interrupted_at, threading.Event()
        self.held, self.most, self.lock = 0, 0, threading.Lock()
        self.work = Stages(self.read, self.compute, self.write, batch, 2, memory)
        self.outcomes: dict[int, int | Exception] = {}

    def run(self, numbers: Sequence[int]) -> None:
        """Each ends once, told from this thread."""
        here = threading.current_thread()

        def take(place: int, outcome: int | Exception) -> None:
            assert threading.current_thread() is here
            assert numbers[place] not in self.outcomes
            self.outcomes[numbers[place]] = outcome

        self.work(numbers, take)

    def read(self, number: int) -> Read:
        if number == BROKEN:
            raise ValueError("broken")
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        return Read(number, number % 2, 10)

    def compute(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        if self.interrupted_at in numbers:
            assert self.written.wait(10)
            raise KeyboardInterrupt
        if UNFIT in numbers:
            raise ValueError("unfit")
        return [number**2 for number in numbers]

    def write(self, number: int, square: int) -> int:
        with self.lock:
            self.held -= 1
        if number == UNWRITABLE:
            raise OSError("unwritable")
        self.written.set()
        return square


def test_every_item_ends_once_and_those_that_fail_say_why():
    squaring, numbers = Squaring(), range(50, 80)
    squaring.run([*range(30), *numbers])
    failed = {number: str(each) for number, each in squaring.outcomes.items() if isinstance(each, Exception)}
    assert failed == FAILING
    done = {number: each for number, each in squaring.outcomes.items() if number not in FAILING}
    assert done == {number: number**2 for number in [*range(30), *numbers] if number not in FAILING}
    assert all(len(batch) <= 4 and len({number % 2 for number in batch}) == 1 for batch in squaring.batches)
    assert max(map(len, squaring.batches)) == 4
    assert [UNFIT] in squaring.batches  # alone, once it had failed with others


@pytest.mark.parametrize(("memory", "most"), [(1, 2), (30, 4), (1000, 16)])
def test_few_are_on_their_way_where_memory_is_short(memory: int, most: int):
    """At first as many as there are threads, as no size is known."""
    squaring = Squaring(memory=memory)
    squaring.run(range(20, 60))
    assert len(squaring.outcomes) == 40
    assert squaring.most <= most


def test_no_items():
    squaring = Squaring()
    squaring.run([])
    assert squaring.outcomes == {}


def test_an_interruption_ends_it_and_what_was_written_is_told():
    squaring, threads = Squaring(batch=1, interrupted_at=20), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        squaring.run(range(19, 100))
    assert threading.active_count() == threads
    assert squaring.outcomes[19] == 19**2
    assert len(squaring.outcomes) < 10
