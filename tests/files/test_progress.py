"""Progress on stderr as callers in Python see it."""

import io
import sys

import pytest

from crfrnn.files.progress import Bar, Display, progress, shown_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_counter_shows_once_work_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("crfrnn.files.progress.time.monotonic", iter([0.0, 0.5, 2.0, 3.0]).__next__)
    assert list(progress("abc", "work")) == ["a", "b", "c"]
    assert terminal.getvalue() == "\rwork 1/3\rwork 2/3\r        \r"


def test_nothing_is_shown_elsewhere(monkeypatch, capsys):
    monkeypatch.setattr("crfrnn.files.progress.QUIET_SECONDS", -1)
    assert list(progress("abc", "work")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_another_display():
    class Recorded(Bar):
        def reach(self, done: int, words: str = "") -> None:
            said.append(done)

        def close(self) -> None:
            said.append("closed")

    class Recorder(Display):
        def bar(self, total: int, description: str) -> Bar:
            said.append((total, description))
            return Recorded()

    said: list[object] = []
    with shown_on(Recorder()):
        for item in progress("abc", "work"):
            if item == "b":
                break
    assert said == [(3, "work"), 0, 1, "closed"]
