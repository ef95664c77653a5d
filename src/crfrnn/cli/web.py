"""`crfrnn web`: the page on which the CRF's parameters move and the picture changes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from crfrnn.cli.parameter_options import chosen_model
from crfrnn.cli.parser import add_command
from crfrnn.cli.printing import say

WEB_HELP = """\
Serve a page for the browser: a photo, the network in the package, or that of --model, and its CRF with a control for
every parameter. One can also load scores, or scribble.

The page is for this machine alone, unless --host says otherwise; then anyone who reaches the address can use it. Photos
stay in memory, and are gone when their page is closed. Nothing is fetched from other addresses, or sent there. Ctrl-C
ends it.
"""
EXAMPLES = """\
  crfrnn web
  crfrnn web --model run/model.safetensors
  crfrnn web --host 0.0.0.0 --port 8080          # for others on the network
"""


def add_web(commands: Any) -> None:
    """Add the command `web`."""
    parser = add_command(commands, "web", "a page with a photo, a network and the CRF, live", WEB_HELP, EXAMPLES)
    parser.add_argument("--model", type=Path, metavar="FILE", help="a trained model (default: that of the package)")
    parser.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen at (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=port_number, metavar="N", default=7860, help="port; 0 is any free one (default: %(default)s)"
    )
    parser.set_defaults(run=run_web)


def run_web(options: argparse.Namespace) -> int:
    """Serve the page. Returns the exit status."""
    from crfrnn.web.server import serve

    model = chosen_model(options.model, None)
    serve(model, options.host, options.port, lambda address: say(f"open {address} in a browser", flush=True))
    return 0


def port_number(text: str) -> int:
    """A port, from 0 to 65535."""
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: expected 0 to 65535")
    return int(text)
