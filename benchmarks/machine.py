"""What the figures belong to: the machine, the versions and the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from .measure import ROOT


def cpu_model() -> str:
    try:
        return re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def commit() -> str:
    """The commit measured, marked where the working tree differs from it; unknown without git."""
    command = ["git", "describe", "--always", "--dirty=+changes", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return answer.stdout.strip() or "unknown"


def machine(versions: dict[str, str]) -> dict[str, object]:
    from crfrnn import native_info

    return {
        "processor": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        **native_info(),
        "Python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "torch")},
        **versions,
    }
