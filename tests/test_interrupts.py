"""Signals where an exception would do harm, or would be lost, and errors that libraries make of interruptions."""

import os
import signal
import time
from types import SimpleNamespace

import pytest

from crfrnn import interrupts
from crfrnn.interrupts import Terminated, orderly_end, patient_interrupts, raise_asked

pytestmark = pytest.mark.skipif(os.name != "posix", reason="has other signals")


def interrupt(number: int) -> None:
    """Send this process a signal, and wait until it has come."""
    os.kill(os.getpid(), number)
    wait()


def wait() -> None:
    """For a signal that is to come."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        time.sleep(0.01)


def test_a_signal_within_the_import_system_comes_a_moment_later():
    frame = SimpleNamespace(f_code=SimpleNamespace(co_filename=interrupts.IMPORT_SYSTEM))
    with orderly_end():
        signal.getsignal(signal.SIGTERM)(signal.SIGTERM, frame)
        with pytest.raises(Terminated) as caught:
            wait()
    assert caught.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class Destroyed:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)


def test_a_signal_in_a_destructor_comes_again(monkeypatch):
    monkeypatch.setattr(interrupts, "GRACE", 0.05)
    with orderly_end():
        destroyed = [Destroyed()]
        destroyed.clear()
        with pytest.raises(Terminated):
            wait()


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_an_interruption_that_became_another_error(number: int, kind: type):
    def mistaken() -> None:
        try:
            interrupt(number)
        except KeyboardInterrupt:
            raise_asked(RuntimeError("a library has made this of it"))

    with orderly_end(), pytest.raises(kind) as caught:
        mistaken()
    assert type(caught.value) is kind


def test_no_interruption_is_invented():
    with orderly_end():
        raise_asked(RuntimeError("an error of its own"))


def test_an_interruption_ends_with_what_it_interrupted():
    """A program that goes on, and meets an error at once, gets that error."""
    with pytest.raises(KeyboardInterrupt), orderly_end():
        interrupt(signal.SIGINT)
    raise_asked(RuntimeError("an error of its own"))


def test_two_in_a_row_are_one(monkeypatch):
    with patient_interrupts():
        with pytest.raises(KeyboardInterrupt):
            interrupt(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        monkeypatch.setattr(interrupts, "GRACE", 0)
        with pytest.raises(KeyboardInterrupt):
            interrupt(signal.SIGINT)
