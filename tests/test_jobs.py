"""Jobs on threads of this machine; those on a cluster are in tests/cluster."""

import threading
import time
from pathlib import Path

import pytest

from cluster_jobs import Squares
from crfrnn.cluster.worker import NodeMemory
from crfrnn.files.progress import Bar, Display, shown_on
from crfrnn.jobs import Job, Memory, ThisMachine, one_by_one
from errors import raises_saying

NUMBERS = list(range(20, 40))


@pytest.mark.parametrize("at_once", [None, 1, 3, 50])
def test_every_item_comes_back_once(tmp_path: Path, at_once) -> None:
    shown, threads, found = [], set(), {}

    class Shown(Bar):
        def reach(self, done: int, words: str = "") -> None:
            shown.append(done)

    class Screen(Display):
        def bar(self, total: int, description: str) -> Bar:
            assert (total, description) == (len(NUMBERS), "square")
            return Shown()

    def take(number: int, outcome: int | Exception) -> None:
        threads.add(threading.current_thread())
        assert number not in found
        found[number] = str(outcome)

    with shown_on(Screen()):
        ThisMachine().run(Squares(tmp_path, bad=(23,), at_once=at_once), NUMBERS, take, "square")
    expected = {place: "23 is bad" if number == 23 else str(number**2) for place, number in enumerate(NUMBERS)}
    assert found == expected
    assert threads == {threading.current_thread()}
    assert shown == list(range(len(NUMBERS) + 1))


def test_nothing_to_do(tmp_path: Path) -> None:
    ThisMachine().run(Squares(tmp_path, at_once=2), [], lambda *_: pytest.fail("there is no item"), "square")


def test_a_worker_that_cannot_begin(tmp_path: Path) -> None:
    with raises_saying(ValueError, "no model"):
        ThisMachine().run(Squares(tmp_path, unready="no model"), NUMBERS, lambda *_: None, "square")


class Waiting(Job[int, int]):
    """Item 0 asks to stop, once item 1 is at work, which ends after that."""

    at_once = 2

    def worker(self, share):
        begun, asked = threading.Event(), threading.Event()

        def work(number: int) -> int:
            if number == 0:
                assert begun.wait(10)
                asked.set()
                raise KeyboardInterrupt
            begun.set()
            assert asked.wait(10)
            return number

        return one_by_one(work)


def test_what_was_at_work_when_it_was_interrupted_is_told() -> None:
    found = {}
    with pytest.raises(KeyboardInterrupt):
        ThisMachine().run(Waiting(), [0, 1, 2, 3, 4, 5, 6], found.__setitem__, "wait")
    assert found[1] == 1
    assert 0 not in found


def test_what_is_large_is_alone_on_a_machine(tmp_path: Path, monkeypatch) -> None:
    """Workers of a cluster are processes: locks on files stand between them, here between threads."""
    monkeypatch.setattr("crfrnn.cluster.worker.half_of_memory", lambda: 100)
    most, now, lock = {1: 0, 60: 0}, [], threading.Lock()

    def work(needed: int) -> None:
        with NodeMemory(2, None, tmp_path).taken(needed) as threads:
            assert threads == 1
            with lock:
                now.append(needed)
                most[needed] = max(most[needed], len(now))
            time.sleep(0.02)
            with lock:
                now.remove(needed)

    threads = [threading.Thread(target=work, args=(needed,)) for needed in (1, 1, 60, 1, 1, 60, 1, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert most[60] == 1
    assert most[1] > 1


def test_idle_threads_go_to_large_items() -> None:
    memory = Memory(100, threads=6)
    for needed, threads in ((1, 1), (16, 1), (30, 2), (50, 3), (51, 6), (1000, 6), (0, 1)):
        with memory.taken(needed) as given:
            assert given == threads
