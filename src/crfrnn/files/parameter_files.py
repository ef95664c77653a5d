"""Parameters of a CRF in a JSON file: what `crfrnn tune` writes and commands take as `--parameters`.

The file is one object with the fields of `CRFParameters`, vectors and matrices as lists, and "notes" on where they come
from, of which only the finding is read. Fields left out have their default. A `CRF` of other kernels is written as the
object in its `text`: {"type": "CRF", "kernels": [{"type": "Kernel", "features": {"type": "Spatial", …}, …}], …}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from crfrnn.crf import CRF, decoded, encoded
from crfrnn.files.replacement import replacing
from crfrnn.numbers import file_path
from crfrnn.parameters import CRFParameters, preset
from crfrnn.plausibility import warn_of_input

NOTES = "notes"
SUFFIX = ".json"


def crf_of(parameters: CRFParameters | CRF | str | Path) -> CRF:
    """The CRF of any form that users give: itself, its short form, the name of a preset, or a file.

    A file is a path, or text that ends in .json.
    """
    found = parameters_of(parameters)
    return found if isinstance(found, CRF) else found.crf


def parameters_of(parameters: CRFParameters | CRF | str | Path) -> CRFParameters | CRF:
    """Parameters as they are, those of the preset of that name, or of a file."""
    if isinstance(parameters, Path) or (isinstance(parameters, str) and parameters.endswith(SUFFIX)):
        return load_parameters(parameters)
    if isinstance(parameters, str):
        return preset(parameters)
    if not isinstance(parameters, CRFParameters | CRF):
        raise TypeError(
            "parameters must be CRFParameters, a CRF, the name of a preset or a parameters file, "
            f"got {type(parameters).__name__}"
        )
    return parameters


def save_parameters(path: Path | str, parameters: CRFParameters | CRF, notes: Mapping[str, Any] | None = None) -> None:
    """Write parameters; the file appears once it is complete.

    Args:
        notes: Anything JSON can hold that is worth knowing about them.
    Raises: TypeError or ValueError: if these are not parameters, or JSON cannot hold the notes.
    """
    if not isinstance(parameters, CRFParameters | CRF):
        raise TypeError(f"parameters must be CRFParameters or a CRF, got {type(parameters).__name__}")
    values = {key: _text(value) for key, value in content_of(parameters).items()}
    path = file_path(path, "path")
    if not isinstance(notes, Mapping | None):
        raise TypeError(f"notes={notes!r} must be a mapping, such as a dict")
    if notes is not None:
        values[NOTES] = _text(dict(notes), indent=2).replace("\n", "\n  ")
    lines = ",\n".join(f'  "{key}": {value}' for key, value in values.items())
    with replacing(path) as handle:
        handle.write(f"{{\n{lines}\n}}\n".encode())


def content_of(parameters: CRFParameters | CRF) -> dict[str, Any]:
    """What JSON holds of them."""
    content: dict[str, Any] = encoded(parameters) if isinstance(parameters, CRF) else asdict(parameters)
    return content


def short_form(parameters: CRFParameters | CRF, what: str) -> CRFParameters:
    """Parameters of a spatial and a bilateral kernel, which `what` is made for.

    Raises: ValueError: if they are a CRF of any kernels.
    """
    if isinstance(parameters, CRF):
        raise ValueError(
            f"{what} takes parameters of a spatial and a bilateral kernel, with fields such as theta_beta; these hold "
            "a list of kernels"
        )
    return parameters


def load_parameters(path: Path | str) -> CRFParameters | CRF:
    """Read what `save_parameters` wrote. Warns if `crfrnn tune` found that this CRF does not help, or cannot tell.

    Raises: ValueError: if the file is missing, is not such JSON, or holds an unknown key or a wrong value; the message
        names the file and the key.
    """
    path = file_path(path, "path")
    if not path.is_file():
        raise ValueError(f"cannot read parameters from {path}: there is no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read parameters from {path}, it is no complete JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds no parameters; expected an object such as {{"theta_alpha": 80}}')
    _warn_of_finding(path, content.pop(NOTES, None))
    if "kernels" in content:
        return _load_crf(path, content)
    known = {field.name: field.default for field in fields(CRFParameters)}
    unknown = [key for key in content if key not in known]
    if unknown:
        raise ValueError(
            f"{path} has an unknown key {', '.join(map(repr, unknown))}; there are {', '.join(known)}, and {NOTES!r}"
        )
    for key, value in content.items():
        textual, absent = isinstance(known[key], str), value is None and known[key] is None
        if not (absent or (isinstance(value, str) if textual else _is_numeric(value))):
            expected = f"text such as {known[key]!r}" if textual else "a number, or a list of numbers or of such lists"
            raise ValueError(f"{path}: {key}={json.dumps(value)} must be {expected}")
    try:
        return CRFParameters(**content)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


def _warn_of_finding(path: Path, notes: Any) -> None:
    finding = notes.get("finding", "helps") if isinstance(notes, dict) else "helps"
    if finding != "helps":
        warn_of_input(f"{path}: crfrnn tune did not find that this CRF helps. {notes.get('verdict', finding)}")


def _load_crf(path: Path, content: Mapping[str, Any]) -> CRF:
    try:
        _refuse_booleans(content)
        crf = decoded({"type": CRF.__name__, **content})
        if not isinstance(crf, CRF):
            raise ValueError(f"type={content['type']!r} must be 'CRF'")
        return crf
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def _refuse_booleans(content: Any, key: str = "") -> None:
    """Python would take true for 1."""
    if isinstance(content, bool):
        raise ValueError(f"{key}={json.dumps(content)} must be a number, or a list of numbers")
    if isinstance(content, dict):
        for name, value in content.items():
            _refuse_booleans(value, name)
    elif isinstance(content, list):
        for value in content:
            _refuse_booleans(value, key)


def require_defaults(parameters: CRFParameters, known: Sequence[str], what: str) -> None:
    """Raise a ValueError if a field besides the `known` ones, which `what` does not have, is not at its default."""
    for field in fields(CRFParameters):
        value = getattr(parameters, field.name)
        if field.name not in known and value != field.default:
            raise ValueError(
                f"{field.name}={value!r}, but {what} has no {field.name}: set it to {json.dumps(field.default)}"
            )


def _text(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def _is_numeric(value: Any) -> bool:
    """Whether a JSON value is a number, or lists of numbers; true and false are not."""
    if isinstance(value, list):
        return all(map(_is_numeric, value))
    return isinstance(value, int | float) and not isinstance(value, bool)
