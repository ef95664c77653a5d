"""Finished trials of a search in a file, so that one that was cut off goes on where it was.

The first line says which search it is, each other line is a trial. A line that was cut off with the process is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial


class TrialFile:
    """The trials of one search, in the order in which they ended; none if there is no path.

    Args:
        search: What makes trials comparable, as JSON holds it. A file of another search is begun anew.
        distributions: Those of the values that are searched.
    """

    def __init__(
        self, path: Path | None, search: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
    ) -> None:
        self.path, self.distributions = path, dict(distributions)
        self.trials: list[FrozenTrial] = []
        if path is None:
            return
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [_line({"search": search})]
        if lines[:1] == kept:
            for line in lines[1:]:
                trial = self._read(line)
                if trial is None:
                    break
                self.trials.append(trial)
                kept.append(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(b"".join(kept), "wb")

    def add(self, trial: FrozenTrial) -> None:
        """Write down a trial that ended."""
        if self.path is not None:
            content = {
                "params": trial.params,
                "state": trial.state.name,
                "value": trial.value if trial.state == TrialState.COMPLETE else None,
                "values": {str(step): value for step, value in trial.intermediate_values.items()},
            }
            self._write(_line(content), "ab")

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)

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

    def _write(self, content: bytes, mode: str) -> None:
        assert self.path is not None
        with self.path.open(mode) as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())


def _line(content: object) -> bytes:
    return json.dumps(content, sort_keys=True).encode() + b"\n"
