"""Serves the page: on this machine alone unless told otherwise, with nothing fetched from and sent to elsewhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from importlib.resources import files
from tempfile import TemporaryDirectory
from typing import Any

# Gradio and what it brings read these when they are imported.
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ImportError as error:
    raise ImportError("crfrnn web needs Gradio, which is not installed: pip install 'crfrnn[web]'") from error

from crfrnn.models import Model
from crfrnn.web.guard import Guard
from crfrnn.web.notices import told
from crfrnn.web.page import Page
from crfrnn.web.visits import Visits

LOCAL = ("127.0.0.1", "localhost", "::1")
FONTS = ["system-ui", "sans-serif"]
"""Those of the reader's system."""
MOST_USERS = 100
"""Of whom Gradio keeps what their page shows, until they leave."""


def serve(model: Model, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until the process is asked to end.

    Args:
        host: The address to listen at; "127.0.0.1" is this machine alone.
        port: 0 takes any that is free.
        ready: Called with the address of the page when it is about to be served.
    Raises: ValueError: if the port is taken, or the address is none of this machine.
    """
    listener = _listener(host, port)
    shown = "127.0.0.1" if host in ("", "0.0.0.0") else f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/"
    with listener, TemporaryDirectory(prefix="crfrnn-web-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # where Gradio would put files, if the page had any
        application = guarded(Page(model, Visits()).blocks, [host, *LOCAL] if host in LOCAL else ["*"])
        ready(address)
        with told():
            uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=2)).run(
                [listener]
            )


def guarded(blocks: Any, hosts: Sequence[str]) -> Any:
    """The application of ASGI that serves a page of Gradio, to browsers that call it by one of these names."""
    blocks.state_session_capacity = MOST_USERS
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        path="/",
        server_name="127.0.0.1",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
        css_paths=[files("crfrnn.web").joinpath("page.css")],
    )
    return TrustedHostMiddleware(Guard(app), allowed_hosts=list(hosts))


def _listener(host: str, port: int) -> socket.socket:
    """A socket that listens."""
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from error
