"""What reaches users besides the package: workflows, the build's own errors, make.py, the recipe and the citation."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from repository import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read_yaml(path: Path) -> Any:
    return pytest.importorskip("yaml", reason="needs the train extra").safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def make_py() -> ModuleType:
    specification = importlib.util.spec_from_file_location("make_py", ROOT / "make.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def steps_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_do_little_and_call_what_exists(path: Path) -> None:
    workflow = read_yaml(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert {"group", "cancel-in-progress"} == set(workflow["concurrency"])
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = {"demo", "test", "wheel", "install"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120
    for step in steps_of(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)", step["uses"])
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
            assert target in targets
        for command in re.findall(r"\bmake\.py ([a-z-]+)", step.get("run", "")):
            assert command in commands


def test_only_a_release_publishes_and_without_a_password() -> None:
    workflow = read_yaml(ROOT / ".github" / "workflows" / "wheels.yml")
    publish = workflow["jobs"]["publish"]
    assert publish["if"] == "github.event_name == 'release'"
    assert publish["permissions"]["id-token"] == "write"
    assert publish["environment"]["name"] == "pypi"
    assert set(publish["needs"]) == set(workflow["jobs"]) - {"publish"}
    assert "secrets." not in "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)


def test_tools_of_the_build_are_those_of_the_project(make_py: ModuleType) -> None:
    required = {re.split("[<>=]", name)[0] for name in PROJECT["build-system"]["requires"]}
    assert required <= set(make_py.TOOLS["build"])


def test_make_py_says_what_it_can_do(make_py: ModuleType) -> None:
    for arguments in ([], ["tset"], ["demo", "test"], ["install"]):
        with pytest.raises(SystemExit) as ended:
            make_py.main(arguments)
        assert "python make.py demo" in ended.value.code


def test_make_py_sets_up_only_what_changed(make_py: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(make_py, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(make_py, "PYTHON", tmp_path / ".venv" / "python")

    def run(*command: object, **environment: str) -> None:
        ran.append([str(each) for each in command])
        make_py.PYTHON.parent.mkdir(exist_ok=True)
        make_py.PYTHON.touch()

    monkeypatch.setattr(make_py, "run", run)
    make_py.main(["demo"])
    environment, *installs, demo = ran
    assert environment[1:3] == ["-m", "venv"]
    assert [command[-1] for command in installs] == ["ninja", ".", "crfrnn[models]"]
    assert demo[1:4] == ["-m", "crfrnn", "demo"]
    ran.clear()
    make_py.main(["test", "-k", "refine"])
    assert [command[-1] for command in ran] == ["crfrnn[dev]", "refine"]
    ran.clear()
    os.utime(tmp_path / ".venv" / ".base-stamp", (0, 0))  # as if sources had changed since
    make_py.main(["install", "dev"])
    assert [command[-1] for command in ran] == ["."]


@pytest.mark.skipif(sys.platform == "win32", reason="compilers are found in another way there")
@pytest.mark.parametrize(
    ("compiler", "words"),
    [(None, "There is no C++ compiler"), ("missing", "There is no C++ compiler"), ("old", "has no C++20")],
)
def test_a_build_says_which_compiler_it_lacks(tmp_path: Path, compiler: str | None, words: str) -> None:
    folder = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake, ninja = (shutil.which(name, path=folder) for name in ("cmake", "ninja"))
    if cmake is None or ninja is None:
        pytest.skip("needs cmake and ninja, which make.py installs")
    environment = {"PATH": str(tmp_path)}
    if compiler == "old":
        found = shutil.which("g++") or shutil.which("clang++")
        if found is None:
            pytest.skip("needs a compiler")
        path = tmp_path / "old-c++"  # a compiler that knows C++17 only
        path.write_text(f'#!/bin/sh\nfor each; do case "$each" in *++2*) exit 1;; esac; done\nexec {found} "$@"\n')
        path.chmod(0o755)
        environment = {"PATH": os.environ["PATH"], "CXX": str(path)}
    elif compiler is not None:
        environment["CXX"] = str(tmp_path / compiler)
    settings = [f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DCRFRNN_NATIVE_TESTS=ON"]
    command = [cmake, "-G", "Ninja", *settings, "-S", ROOT, "-B", tmp_path / "build"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert words in " ".join(process.stderr.split())
    assert process.stderr.count("CMake Error") == 1


@pytest.mark.parametrize(
    "file", [*sorted(path.stem for path in (ROOT / "native").glob("*loops.cpp")), "class_major", "softmax"]
)
def test_loops_are_standard_c_plus_plus_where_there_are_no_vector_types(file: str) -> None:
    """As MSVC compiles them, and GCC before version 12."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs GCC or Clang")
    options = [
        "-std=c++20",
        "-fsyntax-only",
        "-pedantic-errors",
        "-Werror=all",
        "-DCRFRNN_PLAIN",
        "-DCRFRNN_TARGET=baseline",
    ]
    command = [compiler, *options, ROOT / "native" / f"{file}.cpp"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_the_recipe_agrees_with_the_project() -> None:
    recipe = read_yaml(ROOT / "packaging" / "conda-forge" / "recipe.yaml")
    project = PROJECT["project"]
    assert recipe["context"]["version"] == project["version"]
    plain = {name.replace(" ", "") for name in recipe["requirements"]["run"]}
    assert plain == {"python", *project["dependencies"]}
    assert set(PROJECT["build-system"]["requires"]) <= {
        name.replace(" ", "") for name in recipe["requirements"]["host"]
    }
    assert recipe["build"]["python"]["entry_points"] == [f"crfrnn = {project['scripts']['crfrnn']}"]


def test_the_citation_agrees_with_the_project() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    project = PROJECT["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == project["urls"]["Source"]
    assert [paper["year"] for paper in citation["references"]] == [2015, 2011, 2010]


def test_files_name_one_address() -> None:
    source = PROJECT["project"]["urls"]["Source"]
    for path in (*(ROOT / ".github").rglob("*.*"), ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", ROOT / "CITATION.cff"):
        if path.is_file():
            for found in re.findall(r"https://github\.com/[\w-]+/crfrnn\b", path.read_text(encoding="utf-8")):
                assert found == source, path
