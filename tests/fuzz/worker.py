"""A process that tries examples: one dies, hangs or takes too much memory in it, and another takes its place.

`Worker` is what the tests hold. `python worker.py` is the process itself: it reads an example in each line, and writes
a line with what is to be said of it.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
TOLD_BYTES = 1 << 30
"""What the package is told is available: its own estimates have to refuse whatever takes more."""
MOST_BYTES = 3 << 30
"""What the process can take beyond what it had at the start."""
PRELOADED = os.environ.get("FUZZ_PRELOAD", "")
"""Libraries of sanitizers, if the native core was built with them."""
SANITIZER_OPTIONS = "detect_leaks=0:allocator_may_return_null=1:hard_rss_limit_mb=6000:handle_segv=1"
"""Python itself keeps memory until it ends."""


ENDED_FROM_OUTSIDE = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
"""Exit statuses that say nothing of an example."""


class Verdict(NamedTuple):
    """Of one example: "right", "refused" in words of our own, or "fault" of a kind, and where."""

    outcome: str
    kind: str = ""
    where: str = ""
    seen: str = ""

    @property
    def signature(self) -> str:
        """Faults of the same signature are taken to be one."""
        return f"{self.kind}: {self.where}"


class Worker:
    """Tries examples, each in at most `seconds`."""

    def __init__(self, seconds: float = 60) -> None:
        self.seconds, self.process, self.errors = seconds, None, tempfile.TemporaryFile()  # noqa: SIM115  (closed with the worker)
        self.started = 0

    def verdict(self, property_name: str, example: Any) -> Verdict:
        """What is to be said of an example."""
        process = self._running()
        called = "command_on_file" if property_name.startswith("file_") else property_name
        process.stdin.write(json.dumps([called, example]) + "\n")
        process.stdin.flush()
        line = self._answer(process)
        if line:
            return Verdict(*json.loads(line))
        if line is not None:
            process.wait()  # its end of the pipe is closed
        self.close()
        if line is None:
            return Verdict("fault", "hang", property_name, f"no answer within {self.seconds} s")
        if process.returncode in ENDED_FROM_OUTSIDE:
            return self.verdict(property_name, example)
        return Verdict("fault", "crash", f"{property_name}, {_ending(process.returncode)}", self._last_words())

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.errors.close()

    def _running(self) -> Any:
        if self.process is None:
            self.started += 1
            self.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", str(HERE / "worker.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                env=_environment(),
            )
            self._answer(self.process, 600)  # it says that it is ready
        return self.process

    def _answer(self, process: Any, seconds: float | None = None) -> str | None:
        """A line; an empty one if the process has ended, None if it does not answer in time."""
        ready, _, _ = select.select([process.stdout], [], [], seconds or self.seconds)
        return process.stdout.readline() if ready else None

    def _last_words(self) -> str:
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 20000))
        text = self.errors.read().decode(errors="replace")
        self.errors.truncate(0)
        return text[text.find("ERROR: ") :][:6000] if "ERROR: " in text else text[-3000:]


def _environment() -> dict[str, str]:
    sanitizers = {"LD_PRELOAD": PRELOADED, "ASAN_OPTIONS": SANITIZER_OPTIONS, "UBSAN_OPTIONS": "print_stacktrace=1"}
    return {**os.environ, "OMP_NUM_THREADS": "1", **(sanitizers if PRELOADED else {})}


def _ending(status: int) -> str:
    if status < 0:
        return signal.Signals(-status).name
    return f"exit status {status}"


def limit_memory() -> None:
    """Tell the package of little memory, and let the system refuse more than it may ever take.

    The limit is on data, as some libraries reserve more addresses than there is memory, and sanitizers do both.
    """
    import crfrnn.memory

    crfrnn.memory.available_memory = lambda: TOLD_BYTES
    if PRELOADED or not sys.platform.startswith("linux"):
        return
    import resource

    lines = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + MOST_BYTES, resource.RLIM_INFINITY))


def serve() -> None:
    """Answer each line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed is no answer
    import properties
    import verdicts

    limit_memory()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        name, example = json.loads(line)
        try:
            said = ("refused" if properties.PROPERTIES[name](example) else "right",)
        except verdicts.Fault as fault:
            said = ("fault", fault.kind, fault.where, fault.seen)
        except Exception as error:  # of the property itself
            trace = traceback.extract_tb(error.__traceback__)
            said = (
                "fault",
                "error in the property",
                f"{trace[-1].name}, line {trace[-1].lineno}",
                traceback.format_exc(),
            )
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    serve()
