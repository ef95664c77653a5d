"""A control for every field of `CRFParameters`, made from the field: its kind, its range and its words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from crfrnn.cli.parameter_options import COMMON, HELP, numbers
from crfrnn.crf import CRF
from crfrnn.parameters import PRESETS, SOLVERS, CRFParameters, solver_named, with_values

MOST_WHOLE = 20
"""The end of the slider of a whole number that the specification does not bound before."""
STEPS = 200
"""About how many places a slider has."""
POTTS = -1.0
"""What a compatibility of None is."""


@dataclass(frozen=True)
class Control:
    """How a parameter is set on the page.

    Attributes:
        name: The field of `CRFParameters`.
        help: What it is, in the words of the command line.
        default: The value of the published CRF-RNN.
        choices: The words to choose from; empty for a number.
        low, high, step: Of a slider; a `step` of None stands for a line of text, which may be empty.
    """

    name: str
    help: str
    default: Any
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None

    @property
    def is_common(self) -> bool:
        """Whether it is among the parameters that are changed most."""
        return self.name in COMMON

    def shown(self, value: Any) -> Any:
        """A value of the specification as the control shows it."""
        if self.step is None and not self.choices:
            return "" if value is None else ",".join(f"{each:g}" for each in value)
        return self.default if value is None else value

    def read(self, value: Any) -> Any:
        """What the control shows as a value of the specification.

        Raises: ValueError: for what the control cannot show, as only a program sends it.
        """
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{self.name}={value!r:.80} is unknown; use {', '.join(self.choices)}")
            return value
        if self.step is None:
            return _line(self.name, value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError(f"{self.name}={value!r:.80} must be from {self.low:g} to {self.high:g}")
        if isinstance(self.default, int):
            if value != int(value):
                raise ValueError(f"{self.name}={value!r} must be a whole number")
            return int(value)
        return None if self.name == "compatibility" and value == POTTS else float(value)


def controls(model: CRF | None = None) -> list[Control]:
    """A control for every parameter, in the order of the specification.

    Sliders of deviations and weights reach twice as far as the presets and the CRF of the model do.
    """
    hints = get_type_hints(CRFParameters)
    return [_control(each.name, each.default, hints[each.name], model) for each in fields(CRFParameters)]


def adjusted(start: CRFParameters | CRF, shown: Mapping[str, Any], known: Mapping[str, Control]) -> CRFParameters | CRF:
    """Parameters as the controls show them.

    Args:
        start: What they started from. A CRF takes those in `adjustable` alone, and keeps its own weights.
        shown: What each of the `known` controls shows.
    Raises: TypeError or ValueError: if the specification does not take a value.
    """
    values = {name: control.read(shown[name]) for name, control in known.items()}
    if isinstance(start, CRFParameters):
        return with_values(start, values)
    free = adjustable(start)
    thetas = {name: values[name] for name in start.thetas if name in free}
    own = [each.name for each in fields(solver_named(values["solver"]))]
    others = {each.name: each.default for kind in SOLVERS.values() for each in fields(kind) if each.name not in own}
    kept = {name: values[name] for name in ["solver", *own]}
    kept |= {name: values[name] for name, default in others.items() if values[name] != default}  # which is refused
    return with_values(start.with_thetas(**thetas), kept)


def adjustable(start: CRFParameters | CRF) -> set[str]:
    """The parameters that controls may change: of a CRF with weights of its own, its deviations and its solver."""
    if isinstance(start, CRFParameters):
        return {each.name for each in fields(CRFParameters)}
    single = {name for name, theta in start.thetas.items() if not isinstance(theta, tuple)}
    return {*single, "solver", *(each.name for kind in SOLVERS.values() for each in fields(kind))}


def values_of(start: CRFParameters | CRF) -> dict[str, Any]:
    """The values of a short form, or those that a CRF has of it."""
    if isinstance(start, CRFParameters):
        return {each.name: getattr(start, each.name) for each in fields(CRFParameters)}
    found: dict[str, Any] = {each.name: getattr(start.solver, each.name) for each in fields(start.solver)}
    word = next(name for name, kind in SOLVERS.items() if isinstance(start.solver, kind))
    single = {name: theta for name, theta in start.thetas.items() if not isinstance(theta, tuple)}
    return {**found, **single, "solver": word}


def _control(name: str, default: Any, hint: Any, model: CRF | None) -> Control:
    text = _explained(name)
    if get_origin(hint) is Literal:
        return Control(name, text, default, choices=get_args(hint))
    if isinstance(default, int):
        high = max(value for value in range(MOST_WHOLE + 1) if _takes(name, value))
        return Control(name, text, default, high=high, step=1)
    if default is None:
        if not _takes(name, POTTS):
            return Control(name, text, None)
        default = POTTS
    if not _takes(name, 1.0):  # a share, below 1
        return Control(name, text, default, high=1 - 1 / STEPS, step=min(1 / STEPS, default or 1))
    presets = [getattr(each, name) for each in PRESETS.values()]
    known = [default, *(value for value in presets if value is not None)]
    if model is not None:
        known.append(values_of(model).get(name, default))
    high = 2 * max(map(abs, known))
    step = 10.0 ** math.floor(math.log10(high / STEPS))
    low = -high if default < 0 else 0.0 if _takes(name, 0.0) else step
    return Control(name, text, default, (), low, high, step)


def _takes(name: str, value: float) -> bool:
    """Whether the specification takes this value of a parameter."""
    try:
        with_values(CRFParameters(), {name: value})
    except (TypeError, ValueError):
        return False
    return True


def _explained(name: str) -> str:
    """The words of the command line, without how a value is typed there."""
    words = HELP[name].partition(":")[0]
    return re.sub(r"--([a-z-]+)", lambda option: option[1].replace("-", "_"), words)


def _line(name: str, text: Any) -> Any:
    if not isinstance(text, str) or text.strip().endswith(".npy"):
        raise ValueError(f"{name}={text!r:.80} must be numbers with a comma between them, or nothing")
    try:
        return numbers(text) if text.strip() else None
    except Exception as error:
        raise ValueError(f"{name}: {error}") from error
