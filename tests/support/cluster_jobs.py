"""Jobs that disturb their workers, for tests of engines. The workers of a cluster import this file too."""

import os
import time
import warnings
from pathlib import Path

from crfrnn.jobs import Job, Share, Work, one_by_one


class Squares(Job[int, int]):
    """Squares of numbers, of which some fail, warn, or kill their worker.

    Args:
        folder: Where a file is made for each number that is begun.
        bad: Numbers that fail.
        odd: Numbers that are warned of.
        killed: Numbers that kill their worker at the first time.
        deadly: Numbers that kill their worker every time.
        unready: Why a worker cannot begin.
        seconds: How long each takes.
    """

    def __init__(
        self,
        folder: Path,
        bad: tuple[int, ...] = (),
        odd: tuple[int, ...] = (),
        killed: tuple[int, ...] = (),
        deadly: tuple[int, ...] = (),
        unready: str = "",
        seconds: float = 0.0,
        at_once: int | None = None,
    ) -> None:
        self.folder, self.bad, self.odd, self.killed, self.deadly = folder, bad, odd, killed, deadly
        self.unready, self.seconds, self.at_once = unready, seconds, at_once

    def name(self, item: int) -> str:
        return f"number {item}"

    def worker(self, share: Share) -> Work[int, int]:
        if self.unready:
            raise ValueError(self.unready)
        (self.folder / f"worker-{os.getpid()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))

        def work(number: int) -> int:
            begun = self.folder / str(number)
            again = begun.exists()
            begun.touch()
            time.sleep(self.seconds)
            if number in self.deadly or (number in self.killed and not again):
                os.kill(os.getpid(), 9)
            if number in self.odd:
                warnings.warn("it is odd", UserWarning, stacklevel=1)
            if number in self.bad:
                raise ValueError(f"{number} is bad")
            with share.taken(1):
                return number * number

        return one_by_one(work, self.name)
