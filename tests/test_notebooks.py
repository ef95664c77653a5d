"""What is committed in notebooks/: all code has been run as it stands, without an error, and fits a repository."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from repository import ROOT

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 2_000_000
"""Bytes of a notebook with its pictures."""
MACHINE = re.compile(r"/(?:home|root|tmp|usr|opt|work|Users|private|var)/|[A-Z]:\\|site-packages")


def notebook(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in notebook(path)["cells"] if cell["cell_type"] == "code"]


def text_of(output: dict[str, Any]) -> str:
    """What a reader sees of an output as text."""
    shown = [output.get("text", ""), *(output.get("data", {}).get(kind, "") for kind in ("text/plain", "text/html"))]
    return "".join("".join(each) for each in shown)


def test_there_are_notebooks() -> None:
    assert {path.stem for path in PATHS} == {
        "crf_iteration",
        "refine",
        "train_end_to_end",
        "volume",
        "weak_supervision",
        "own_features",
    }


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_outputs_are_those_of_the_code(path: Path) -> None:
    """`notebooks/execute.py` notes what code it has run: that of the file, in its order, from beginning to end."""
    cells = code_cells(path)
    code = "\0".join("".join(cell["source"]) for cell in cells)
    executed = notebook(path)["metadata"].get("executed")
    assert executed == hashlib.sha256(code.encode()).hexdigest(), "run `make notebooks INTO=notebooks` and commit it"
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_outputs(path: Path) -> None:
    outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", text_of(output)
        assert not MACHINE.search(text_of(output)), text_of(output)
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = "".join("".join(cell["source"]) for cell in notebook(path)["cells"] if cell["cell_type"] == "markdown")
    assert text.startswith("# ")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    named = re.findall(r"`(\w+\.ipynb)`", text)
    for target in [*links, *named]:
        assert (path.parent / target).exists(), f"{path.name} names {target}"
