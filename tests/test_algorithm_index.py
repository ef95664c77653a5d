"""The index of docs/algorithm.md: every equation has a row, and every file and function named there exists."""

import ast
import re
from pathlib import Path

import pytest

from repository import ROOT

TEXT = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
BEFORE, INDEX = TEXT.split("## Index", 1)
EQUATIONS = [int(number) for number in re.findall(r"\\tag\{(\d+)\}$", BEFORE, re.MULTILINE)]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in INDEX.splitlines() if line.startswith("|")]
FOLDERS = [re.search(r"`(.*)`", cell)[1] for cell in ROWS[0][1:]]
NAMED = sorted(
    {
        (folder, *entry.split(": "))
        for row in ROWS[2:]
        for folder, cell in zip(FOLDERS, row[1:], strict=True)
        for entry in re.findall(r"`([^`]+)`", cell)
    }
)


def test_every_equation_has_a_row() -> None:
    numbers = list(range(1, len(EQUATIONS) + 1))
    assert sorted(EQUATIONS) == numbers
    assert [row[0] for row in ROWS[2:]] == [f"({number})" for number in numbers]


@pytest.mark.parametrize(("folder", "path", "name"), NAMED)
def test_what_the_index_names_is_there(folder: str, path: str, name: str) -> None:
    file = ROOT / folder / path
    assert file.is_file(), f"docs/algorithm.md names {folder}{path}, which does not exist"
    defined = python_names(file) if file.suffix == ".py" else native_names(file)
    assert name in defined, f"docs/algorithm.md names {name} of {folder}{path}, which does not define it"


def python_names(file: Path) -> set[str]:
    """Functions and classes, and methods as Class.method."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return names


def native_names(file: Path) -> set[str]:
    """Classes, and functions that the file declares or defines, also as a pointer."""
    text = file.read_text(encoding="utf-8")
    return {
        *re.findall(r"^(?:class|struct) (\w+)", text, re.M),
        *re.findall(r"^ *(?:inline )?[\w:<>*]+ \(?\*?(\w+)\)?\(", text, re.M),
    }


def test_cited_equations_exist() -> None:
    for file in [*(ROOT / "src").rglob("*.py"), *(ROOT / "native").iterdir()]:
        if file.suffix not in (".py", ".cpp", ".h"):
            continue
        for cited in re.findall(r"algorithm\.md, eq\. ([\d ,and-]+)", file.read_text(encoding="utf-8")):
            assert {int(number) for number in re.findall(r"\d+", cited)} <= set(EQUATIONS), f"{file}: eq. {cited}"
