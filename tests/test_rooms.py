"""The order of rooms in CONTRIBUTING.md's table: modules import from their own room and those above, in no circle."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from repository import ROOT

PACKAGES = {"crfrnn": ROOT / "src", "benchmarks": ROOT, "experiments": ROOT}
NATIVE = "crfrnn._native"
KNOW_NATIVE = "crfrnn.kernels"


def modules_of(package: str) -> dict[str, Path]:
    """Every module of a package by its name; that of a folder is its __init__.py."""
    root = PACKAGES[package]
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((root / package).rglob("*.py"))
    }


def syntax(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of the package that a module imports, in functions and under TYPE_CHECKING too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    named: set[str] = set()
    for node in syntax(path):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            inside = {f"{source}.{alias.name}" for alias in node.names}
            found = {each for each in inside if each in modules or each == NATIVE}
            named |= found or {source}
            named |= {source} if len(found) < len(inside) else set()
    return {each for each in named if each in modules or each == NATIVE}


def rooms() -> list[list[str]]:
    """The names of files and folders in each row of the table, top to bottom."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("| room | holds |") :].split("\n\n")[0].splitlines()[2:]
    return [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in table]


MODULES = modules_of("crfrnn")
ROOMS = rooms()


def room_of(path: Path) -> int:
    """The row of a module: that which names its file, or the folder it lies in."""
    inside = path.relative_to(ROOT / "src" / "crfrnn").as_posix()
    found = [
        row
        for row, names in enumerate(ROOMS)
        if any(inside == name or (name.endswith("/") and inside.startswith(name)) for name in names)
    ]
    assert len(found) == 1, f"{inside} is in {len(found)} rows of CONTRIBUTING.md's table of rooms; expected one"
    return found[0]


def test_every_module_has_one_room() -> None:
    for path in MODULES.values():
        room_of(path)


def test_every_room_is_there() -> None:
    for name in (name for names in ROOMS for name in names):
        base = ROOT if name in ("native/", "wasm/") else ROOT / "src" / "crfrnn"
        assert (base / name).exists(), f"CONTRIBUTING.md's table of rooms names {name}, which does not exist"


@pytest.mark.parametrize("name", MODULES)
def test_imports_come_from_rooms_above(name: str) -> None:
    path = MODULES[name]
    for imported in imports(name, path, MODULES) - {NATIVE}:
        assert room_of(MODULES[imported]) <= room_of(path), f"{name} imports {imported}, which is in a room below"


def test_imports_are_found() -> None:
    """Also inside functions, of modules through their package, and of names in a package."""
    assert "crfrnn.torch.arrays" in imports("crfrnn.refine", MODULES["crfrnn.refine"], MODULES)
    assert "crfrnn.inference.batch" in imports("crfrnn.torch.ops", MODULES["crfrnn.torch.ops"], MODULES)
    assert "crfrnn.models" in imports("crfrnn", MODULES["crfrnn"], MODULES)
    benchmarks = modules_of("benchmarks")
    assert "benchmarks.measure" in imports("benchmarks.gpu", benchmarks["benchmarks.gpu"], benchmarks)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle(package: str) -> None:
    modules = modules_of(package)
    graph = {name: imports(name, path, modules) - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' → '.join(error.args[1])}")


def test_programs_are_not_imported() -> None:
    """What runs as `python -m package` is no module for others."""
    for package in PACKAGES:
        modules = modules_of(package)
        for name, path in modules.items():
            assert f"{package}.__main__" not in imports(name, path, modules), name


@pytest.mark.parametrize("package", PACKAGES)
def test_only_kernels_know_the_native_core(package: str) -> None:
    modules = modules_of(package)
    for name, path in modules.items():
        if name == "crfrnn" or name.startswith(f"{KNOW_NATIVE}."):
            continue
        assert NATIVE not in imports(name, path, modules), f"{name} imports the native core"
        assert "_native" not in touched(path), f"{name} reaches for _native"


def touched(path: Path) -> Iterator[str]:
    """Attributes, and texts by which `getattr` may ask for them."""
    for node in syntax(path):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
