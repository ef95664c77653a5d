"""What stands between the network and the page: limits, and no way to and from other addresses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

from crfrnn.web.uploads import MOST_BYTES

MOST_REQUEST_BYTES = MOST_BYTES * 4 // 3 + 1_000_000
"""Of a request: a file in base64, and the rest."""
TOO_LARGE = f"a request may have {MOST_REQUEST_BYTES} bytes"
API = "/gradio_api/"
OPEN = ("run/predict", "heartbeat/", "startup-events", "theme.css", "info", "app_id")
"""What the page needs of what Gradio has there; more would take files, fetch other addresses, and run programs."""
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; form-action 'self'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""Browsers get nothing from other addresses, whatever a page asks for."""

_faults: ContextVar[list[str]] = ContextVar("faults")
"""What is wrong with the request that is being answered."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def note_fault(words: str) -> None:
    """Say that the request is wrong: the error with which Gradio answers is then of status 400, not the server's."""
    _faults.get([]).append(words)


class Guard:
    """Stands before Gradio's application: refuses what is too large or not needed, and keeps browsers here."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """A request of ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, total = False, 0
        faults: list[str] = []
        _faults.set(faults)

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["status"] = 400 if faults else message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > MOST_REQUEST_BYTES:
                raise _TooLargeError
            return message

        _, is_api, path = scope["path"].partition(API)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if is_api and not path.startswith(OPEN):
            await _refuse(answer, 404, "there is no such page")
        elif not length.isdigit() or int(length) > MOST_REQUEST_BYTES:
            await _refuse(answer, 413, TOO_LARGE)
        else:
            try:
                await self.app(scope, counted, answer)
            except _TooLargeError:
                if not started:
                    await _refuse(answer, 413, TOO_LARGE)


class _TooLargeError(Exception):
    """A request that did not say how long it is, and is too long."""


async def _refuse(send: Send, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})
