"""The documentation site: every public name, command and option has its place, and every page a place in the order."""

import ast
import re
import sys

from repository import ROOT

sys.path.insert(0, str(ROOT / "packaging" / "site"))
from command_line import command_line_page, parsers

SOURCES = ROOT / "src"
LISTED = {
    name
    for page in (ROOT / "docs" / "reference").glob("*.md")
    for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
}
PUBLIC = sorted(
    f"{'.'.join(file.relative_to(SOURCES).with_suffix('').parts).removesuffix('.__init__')}.{name}"
    for file in SOURCES.glob("crfrnn/**/*.py")
    if file.parent.name != "cli"  # which users type in a shell
    for node in ast.parse(file.read_text(encoding="utf-8")).body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    for name in ast.literal_eval(node.value)
)


def test_public_names_are_in_the_reference() -> None:
    """By themselves, with their module, or as a module of which everything is."""
    shown = LISTED | {name.rpartition(".")[0] for name in LISTED}
    assert len(PUBLIC) > 100
    assert [name for name in PUBLIC if name not in shown and name.rpartition(".")[0] not in LISTED] == []


def test_what_the_reference_lists_is_defined() -> None:
    """Without importing it, as extras may be missing."""
    for name in LISTED:
        parts = name.split(".")
        module = next(
            path
            for length in range(len(parts), 0, -1)
            for base in [SOURCES.joinpath(*parts[:length])]
            for path in (base.with_suffix(".py"), base / "__init__.py")
            if path.is_file()
        )
        assert module.stem == parts[-1] or module.parent.name == parts[-1] or parts[-1] in module.read_text("utf-8")


def test_commands_and_options_are_in_the_reference() -> None:
    text = command_line_page().replace("&lt;", "<").replace("&gt;", ">")
    for name, (parser, _) in parsers().items():
        (section,) = re.findall(rf"^## crfrnn {name} .*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        for action in parser._actions:
            for option in action.option_strings:
                assert option in section or option in ("-h", "--help"), f"crfrnn {name} {option}"
            if not action.option_strings:
                assert str(action.metavar or action.dest) in section


def test_every_page_has_a_place() -> None:
    ordered = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(set(ordered)) == len(ordered)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert pages | notebooks <= set(ordered)


def test_pictures_are_shown() -> None:
    texts = [path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]]
    for picture in (ROOT / "docs").rglob("*.[jp][pn]g"):
        assert any(picture.name in text for text in texts), f"no page shows {picture.name}"


def test_figures_of_the_readme_are_measured() -> None:
    """Those of the README's table stand in docs/benchmarks.md, rounded."""
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    sections = {each.partition("\n")[0]: each for each in text.split("\n## ")}
    mean = r"θ 160/3/3, pydensecrf2 ÷ crfrnn: geometric mean of .*?\*\*([\d.]+)×\*\*"
    patterns = {
        "One core: 21 classes, T = 10": mean,
        "Two cores: 21 classes, T = 10": mean,
        "Two classes: T = 10, one core": mean,
        "2000×1332: 21 classes, T = 5, two cores": r"\| 160/3/3 .*?\*\*([\d.]+)×\*\*",
        "A folder of 222 photos: 21 classes, T = 10, two cores": r"\| 160/3/3 .*?, \*\*[\d.]+×.*?, \*\*([\d.]+)×\*\*",
    }
    measured = [float(re.search(pattern, sections[title])[1]) for title, pattern in patterns.items()]
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("against pydensecrf2")[2].partition("\n\n")[0]
    assert re.findall(r"([\d.]+)×(?!\d)", table) == [f"{figure:.1f}" for figure in measured]


def test_the_build_fails_for_warnings() -> None:
    """MkDocs does not count warnings that --quiet silences."""
    build = re.search(r"mkdocs build.*", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert build is not None
    assert build[0].split() == ["mkdocs", "build", "--strict"]
