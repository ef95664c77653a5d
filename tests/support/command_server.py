"""Runs commands in processes of their own, forked from one that has imported everything, so that each starts at once.

`CommandServer` is what tests hold; as a program this file is the process that forks. It computes nothing itself: what
it forks would inherit threads that are gone.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

IMPORTED = (
    "crfrnn.segment",
    "crfrnn.evaluation",
    "crfrnn.tuning",
    "crfrnn.training.train",
    "kornia.augmentation",
    "torch._dynamo",
    "torch.utils.tensorboard",
)
"""What the commands import, and what torch and lightning import when they are first used."""
WITHOUT_TENSORFLOW = "tensorboard.compat.notf"
"""TensorBoard leaves TensorFlow alone, which takes seconds to import, where there is a module of this name."""
HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that new processes get once they run a command."""
HANG = 120.0
"""Seconds after which a command is taken to hang, and is killed."""


class Ended(NamedTuple):
    """How a command ended: its exit status, or the negative number of the signal that killed it; what it printed."""

    status: int
    printed: str
    seconds: float


class Running:
    """A command at work."""

    def __init__(self, server: "CommandServer", pid: int, printed: int) -> None:
        self.server, self.pid, self.printed, self.start = server, pid, printed, time.monotonic()

    def send(self, number: int) -> None:
        """Send it a signal; it may have ended already, and is then waited for still."""
        os.kill(self.pid, number)

    def ended(self) -> Ended:
        """Wait for its end."""
        killer = threading.Timer(HANG, lambda: os.kill(self.pid, 9))
        killer.start()
        status = self.server.ask({"wait": self.pid})
        killer.cancel()
        seconds = time.monotonic() - self.start
        with os.fdopen(self.printed) as pipe:
            printed = pipe.read()
        assert seconds < HANG, f"{printed}\nhangs"
        return Ended(status, printed, seconds)


class CommandServer:
    def __enter__(self) -> "CommandServer":
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self.process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def start(self, arguments: Sequence[str], folder: Path, file_bytes: int | None = None) -> Running:
        """Start `crfrnn` with these arguments in a folder.

        Args:
            file_bytes: No file grows larger, as on a full disk.
        """
        printed = folder.parent / f"{folder.name}.{time.monotonic_ns()}"
        os.mkfifo(printed)  # which the bound on files does not concern
        reader = os.open(printed, os.O_RDONLY | os.O_NONBLOCK)
        job = {"arguments": list(arguments), "folder": str(folder), "printed": str(printed), "bytes": file_bytes}
        return Running(self, self.ask(job), reader)

    def ask(self, question: dict) -> int:
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def _run(job: dict) -> int:
    """In the new process."""
    from crfrnn.cli.main import main

    os.chdir(job["folder"])
    output = os.open(job["printed"], os.O_WRONLY)
    for number in (1, 2):
        os.dup2(output, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    if job["bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["bytes"], job["bytes"]))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        status = main(job["arguments"])
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        return status
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:  # before `main` listens, where the package's own hook would say so
        print("crfrnn: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BaseException:  # what Python would do
        traceback.print_exc()
        return 1


def _serve() -> None:
    sys.modules[WITHOUT_TENSORFLOW] = types.ModuleType(WITHOUT_TENSORFLOW)
    for module in IMPORTED:
        importlib.import_module(module)
    from crfrnn.models import NETWORKS
    from toy_network import Toy

    NETWORKS["Toy"] = Toy
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if "wait" in question:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
        elif not (answer := os.fork()):
            status = _run(question)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    _serve()
