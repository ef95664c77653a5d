"""Progress on stderr."""

import io
import sys

import pytest

from crfrnn.files.progress import counted


def test_the_counter_shows_once_work_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("crfrnn.files.progress.time.monotonic", iter([0.0, 0.5, 2.0, 3.0]).__next__)
    assert list(counted("abc", "work")) == ["a", "b", "c"]
    assert terminal.getvalue() == "\rwork 1/3\rwork 2/3\r        \r"
