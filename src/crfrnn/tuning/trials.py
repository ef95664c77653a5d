"""Finished trials of a search in a file, so that one that was cut off goes on where it was.

The first line says which search it is, each other line is a trial. A line that was cut off with the process is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from crfrnn.files.locks import lock


class TrialFile:
    """The trials of one search, in the order in which they ended; none if there is no path.

    Args:
        search: What makes trials comparable, as JSON holds it. A file of another search is begun anew.
        distributions: Those of the values that are searched.
    Raises:
        OSError: if it cannot be written; it names the file.
        ValueError: if another process is writing to it.
    """

    def __init__(
        self, path: Path | None, search: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
    ) -> None:
        self.path, self.distributions = path, dict(distributions)
        self.trials: list[FrozenTrial] = []
        self._handle: IO[bytes] | None = None
        if path is None:
            return
        with self._naming_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = path.open("a+b")
        if lock(self._handle.fileno()) is False:
            raise ValueError(f"another search is keeping its trials in {path}: wait for it, or name another file")
        self._handle.seek(0)
        lines = self._handle.read().splitlines(keepends=True)
        header = _line({"search": search})
        size = len(header) if lines[:1] == [header] else 0
        for line in lines[1:] if size else []:
            trial = self._read(line)
            if trial is None:
                break
            self.trials.append(trial)
            size += len(line)
        with self._naming_file():
            self._handle.truncate(size)
        if not size:
            self._write(header)

    def add(self, trial: FrozenTrial) -> None:
        """Write down a trial that ended."""
        if self.path is not None:
            content = {
                "params": trial.params,
                "state": trial.state.name,
                "value": trial.value if trial.state == TrialState.COMPLETE else None,
                "values": {str(step): value for step, value in trial.intermediate_values.items()},
            }
            self._write(_line(content))

    def remove(self) -> None:
        if self.path is not None:
            self.close()
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let other searches have the file."""
        if self._handle is not None:
            self._handle.close()

    def _read(self, line: bytes) -> FrozenTrial | None:
        if not line.endswith(b"\n"):
            return None
        try:
            content = json.loads(line)
            return create_trial(
                state=TrialState[content["state"]],
                params=content["params"],
                distributions=self.distributions,
                value=content["value"],
                intermediate_values={int(step): value for step, value in content["values"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def _write(self, content: bytes) -> None:
        assert self._handle is not None
        with self._naming_file():
            self._handle.write(content)
            self._handle.flush()
            os.fsync(self._handle.fileno())

    @contextmanager
    def _naming_file(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(f"cannot write {self.path}: {error.strerror or error}") from error


def _line(content: object) -> bytes:
    return json.dumps(content, sort_keys=True).encode() + b"\n"
