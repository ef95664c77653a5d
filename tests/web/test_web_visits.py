"""Several users of the page, what is said to each, requests that are refused, and the command without its extra."""

import asyncio
import sys
import threading
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the models extra")
pytest.importorskip("safetensors", reason="needs the models extra")

from commands import status
from crfrnn import InputWarning
from crfrnn.files.classes import class_set
from crfrnn.web import guard, visits
from crfrnn.web.desk import Desk
from crfrnn.web.guard import MOST_REQUEST_BYTES, Guard
from crfrnn.web.notices import noticed, told
from crfrnn.web.turns import BusyError, Turns
from crfrnn.web.visits import NoDeskError, Visits

pytestmark = pytest.mark.torch
PHOTO = np.zeros((10, 10, 3), np.uint8)
DESK = Desk("a", PHOTO, (10, 10), class_set(2), None, "scribbles", np.zeros((10, 10), np.uint8))


def test_each_user_has_a_desk() -> None:
    kept, other = Visits(), replace(DESK, name="b")
    kept.keep("first", DESK)
    kept.keep("second", other)
    assert kept.desk("first") is DESK
    assert kept.desk("second") is other
    kept.forget("first")
    kept.forget("nobody")
    with pytest.raises(NoDeskError, match="choose a photo"):
        kept.desk("first")
    assert kept.desk("second") is other


def test_memory_is_bounded_and_the_last_one_stays() -> None:
    kept = Visits(most_bytes=3 * DESK.nbytes)
    for number in range(3):
        kept.keep(str(number), DESK)
    kept.desk("0")  # who was here just now
    kept.keep("3", DESK)
    assert len(kept) == 3
    with pytest.raises(NoDeskError):
        kept.desk("1")
    assert kept.desk("0") is DESK
    small = Visits(most_bytes=1)
    small.keep("a", DESK)
    assert small.desk("a") is DESK


def test_who_is_gone_for_long_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(visits.time, "monotonic", lambda: now)
    kept = Visits(most_seconds=10)
    kept.keep("first", DESK)
    now = 9.0
    kept.keep("second", DESK)
    now = 15.0
    assert kept.desk("second") is DESK
    assert len(kept) == 1
    now = 26.0
    with pytest.raises(NoDeskError):
        kept.desk("second")


def test_warnings_reach_the_user_they_are_about() -> None:
    def warn(words: str) -> list[str]:
        with noticed() as found:
            for _ in range(2):
                warnings.warn(words, InputWarning, stacklevel=2)
        return found

    heard: dict[str, list[str]] = {}
    with warnings.catch_warnings(record=True) as others, told():
        threads = [threading.Thread(target=lambda word=word: heard.update({word: warn(word)})) for word in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        warnings.warn("nobody listens", InputWarning, stacklevel=1)
    assert heard == {"a": ["a", "a"], "b": ["b", "b"]}
    assert [str(each.message) for each in others] == ["nobody listens"]


def test_work_is_done_in_turns() -> None:
    """That of a line in the order in which it was asked for, others' beside it; beyond a number it is refused."""
    turns, done, free = Turns(at_once=2, most_waiting=1), [], threading.Event()

    def work(name: str) -> str:
        if name == "a1":
            assert free.wait(60)
        if name == "b1":
            free.set()
        done.append(name)
        return name

    async def ask() -> list[Any]:
        wanted = [("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1")]
        asked = [turns.take(user, partial(work, name)) for user, name in wanted]
        return await asyncio.gather(*asked, return_exceptions=True)

    *found, refused = asyncio.run(ask())
    assert found == ["a1", "a2", "b1"]
    assert isinstance(refused, BusyError)
    assert done == ["b1", "a1", "a2"]
    assert asyncio.run(turns.take("c", lambda: 3)) == 3


def answered(path: str, chunks: Iterable[bytes] = (), **headers: str) -> tuple[int, int, dict[bytes, bytes]]:
    """The status of a request, how many bytes the application was given of it, and the headers of the answer."""
    received, sent = [], []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            received.append(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    parts = [*chunks] or [b""]
    bodies = iter([{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts])

    async def receive() -> Any:
        return next(bodies)

    async def send(message: Any) -> None:
        sent.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(Guard(application)({"type": "http", "path": path, "headers": named}, receive, send))
    return sent[0]["status"], sum(map(len, received)), dict(sent[0]["headers"])


def test_the_page_is_let_through_and_kept_here() -> None:
    code, size, headers = answered("/gradio_api/run/predict", [b"ab", b"c"], content_length="3")
    assert (code, size) == (200, 3)
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"referrer-policy"] == b"no-referrer"


@pytest.mark.parametrize(
    "path",
    ["upload", "upload_progress", "file=/etc/passwd", "file=http://example.com/a.png", "proxy=http://example.com/",
     "run/moved", "queue/join", "queue/data", "call/moved", "api/moved", "stream/a",
     "component_server", "vibe-edit", "custom_component/1/a/b/c"],
)  # fmt: skip
def test_what_takes_files_and_fetches_addresses_is_closed(path: str) -> None:
    assert answered(f"/gradio_api/{path}")[:2] == (404, 0)


def test_large_requests_are_refused() -> None:
    path = "/gradio_api/run/predict"
    assert answered(path, [b"x"], content_length=str(MOST_REQUEST_BYTES + 1))[:2] == (413, 0)
    assert answered(path, [b"x"], content_length="many")[:2] == (413, 0)
    code, size, _ = answered(
        path, [bytes(10_000_000 + number) for number in range(5)]
    )  # it does not say how long it is
    assert code == 413
    assert size <= MOST_REQUEST_BYTES
    assert guard.MOST_REQUEST_BYTES > 42_000_000


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in [name for name in sys.modules if name in ("crfrnn.web.server", "crfrnn.web.page")]:
        monkeypatch.delitem(sys.modules, name)
    assert status("web --port 0") == 1
    assert "crfrnn web needs Gradio, which is not installed: pip install 'crfrnn[web]'" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["-1", "65536", "http", "1e3"])
def test_a_wrong_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(f"web --port={port}") == 2
    assert "is no port: expected 0 to 65535" in capsys.readouterr().err
