"""What the commands print on terminals of several widths, with colours and without, and elsewhere."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from commands import status
from crfrnn.cli import main
from crfrnn.cli.printing import GOOD, Screen, complain, say, say_table
from crfrnn.files.progress import progress, shown_on
from crfrnn.files.table import Table
from crfrnn.jobs import one_by_one

pytest.importorskip("termios", reason="has no such terminals")

from terminals import SEQUENCE, Terminal, lines_seen, on_terminal, plain

TABLE = Table(
    ("", "no CRF", "start", "tuned", "gain", "95 % interval"),
    [
        ["mean IoU", "52.36", "53.10", "53.92", "+1.56", "+0.80 to +2.31"],
        ["near edges", "40.00", "-", "39.00", "-1.00", "-"],
    ],
)
VERDICT = "The CRF helps on this data. Points of mean IoU on 111 photos held out: +1.59, near edges +7.06."


@pytest.fixture(autouse=True)
def environment(monkeypatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def files(tmp_path: Path, monkeypatch, rng) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in ("scores", "photos"):
        Path(folder).mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).save(f"photos/{name}.png")
        np.save(f"scores/{name}.npy", rng.normal(size=(3, 12, 16)).astype(np.float32))
    return tmp_path


def said_on(columns: int, *what, encoding: str = "utf-8") -> str:
    with on_terminal(columns, encoding) as shown:
        for each in what:
            each()
    return shown[0]


def say_all() -> None:
    say_table(TABLE)
    say(VERDICT, "parameters.json", style=GOOD)
    complain("crfrnn tune", "warning", VERDICT)


def test_elsewhere_it_is_plain_and_not_wrapped(capsys, monkeypatch):
    """Whatever the width of a terminal would be, and without Rich."""
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setitem(sys.modules, "rich", None)
    say_all()
    said = capsys.readouterr()
    assert said.out == f"{TABLE}\nparameters.json: {VERDICT}\n"
    assert said.err == f"crfrnn tune: warning: {VERDICT}\n"


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_terminals_of_any_width(columns: int):
    said = said_on(columns, say_all)
    assert SEQUENCE.search(said)
    lines = plain(said).splitlines()
    assert max(map(len, lines)) <= columns
    whole = " ".join(plain(said).split())
    assert f"parameters.json: {VERDICT}" in whole
    assert f"crfrnn tune: warning: {VERDICT}" in whole
    for cell in (cell for row in TABLE.rows for cell in row):
        assert " ".join(cell.split()) in whole
    words, numbers = VERDICT.split()[0], "+0.80 to +2.31"
    (row,) = (line for line in lines if numbers in line)
    assert ("mean IoU" in row) == (columns >= 80)  # one below the other where there is no place
    assert any(words in line for line in lines)
    continued = [line for line in lines if line.startswith("  ") and "held" in line]
    assert bool(continued) == (columns < 100)


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ],
)
def test_colours_on_a_terminal(variables: dict[str, str], coloured: bool, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = said_on(80, say_all)
    assert bool(SEQUENCE.search(said)) == coloured
    assert max(map(len, plain(said).splitlines())) <= 80


def test_colours_elsewhere(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    say(VERDICT, "parameters.json", style=GOOD)
    said = capsys.readouterr().out
    assert "\x1b[1;32mThe CRF helps" in said
    assert plain(said) == f"parameters.json: {VERDICT}\n"


def test_gains_and_kinds_have_their_colours():
    said = said_on(100, say_all)
    assert "\x1b[32m+1.56" in said
    assert "\x1b[31m-1.00" in said
    assert "\x1b[1;33mwarning:" in said
    assert "\x1b[31m-\x1b" not in said  # what could not be measured is no loss


NAMES = ["[red]x[/red]", "[/]", ":smile:", "a\x1b[31mb\x07", "\x9b31m", "long " * 30]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name: str, files: Path, capsys):
    """No markup, no emoji; what would steer the terminal is written out."""
    name = f"x{name.replace('/', '|')}y"
    Path(f"scores/{name}.npy").write_bytes(b"damaged")
    Path("photos/a.png").rename(f"photos/{name}.png")
    expected = name
    for control in ("\x1b", "\x07", "\x9b"):
        expected = expected.replace(control, repr(control)[1:-1])

    assert main(["refine", f"scores/{name}.npy", f"photos/{name}.png", "-o", "out.png"]) == 1
    assert f"error: cannot read scores/{expected}.npy as an .npy array: " in capsys.readouterr().err
    np.save(f"scores/{name}.npy", np.load("scores/b.npy"))
    with on_terminal(300) as shown:
        assert main(["refine", f"scores/{name}.npy", f"photos/{name}.png", "-o", f"{name}.png"]) == 0
        assert main(["refine", "scores", "photos", "-o", "out", "--tolerance", "0"]) == 1  # a.npy has no photo now
    said = plain(shown[0])
    assert f"{expected}.png: 16×12, 3 classes" in said
    assert "failed: a: " in said


def test_terminals_of_code_page_1252():
    said = said_on(80, lambda: say("θ_β 3 → 12×16 …", "θ"), say_all, encoding="cp1252")
    assert "theta: theta_beta 3 -> 12×16 …" in plain(said)
    assert "?" not in said


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("command", ["", "refine", "train", "tune", "completion"])
def test_help_fits_the_terminal(command: str, columns: int):
    said = said_on(columns, lambda: status(f"{command} --help"))
    assert SEQUENCE.search(said)
    lines = plain(said).splitlines()
    examples = lines.index("examples:") if command else len(lines)
    options = [line for line in lines if line.startswith("  -")]  # their choices stay together
    assert max(len(line) for line in lines[:examples] if line not in options) <= min(columns, 100)
    assert all(line.startswith("  crfrnn ") for line in lines[examples + 1 :])


def test_commands_stand_beside_what_they_do(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "\n    completion  print" in capsys.readouterr().out


def test_help_says_its_defaults_in_one_way(capsys):
    for command in ("refine", "segment", "train", "tune", "evaluate", "accuracy", "convert", "demo"):
        assert status(f"{command} --help") == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "(default: " in said
        for other in ("when not given", "if not given", "by default"):
            assert other not in said, command


def test_a_bar_comes_after_a_second_and_goes_away(monkeypatch):
    monkeypatch.setattr("crfrnn.cli.bars.QUIET_SECONDS", -1)
    monkeypatch.setattr("crfrnn.cli.bars.REDRAWN", 0)

    def work() -> None:
        with shown_on(Screen()):
            for item in progress("abc", "refine [x]"):
                if item == "b":
                    say("a line in between")

    for columns in (40, 80):
        said = said_on(columns, work)
        assert "refine [x] 2/3" in " ".join(plain(said).replace("━", "").replace("╺", "").replace("╸", "").split())
        assert ("━" in said) == (columns == 80)
        assert list(lines_seen(said)) == ["a line in between", ""]
    monkeypatch.setenv("TERM", "dumb")
    assert said_on(80, work) == "a line in between\n"


def test_rich_is_imported_for_terminals_only():
    code = "import sys, crfrnn, crfrnn.cli; crfrnn.cli.main(['info']); sys.exit('rich' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(crfrnn.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=environment).returncode == 0


SLOWLY = """
import sys, time
import crfrnn.cli.refinement as refinement
from crfrnn.cli import bars, main
bars.QUIET_SECONDS = 0
written = refinement.Refinement.write
def slowly(*given, **options):
    time.sleep(0.2)
    return written(*given, **options)
refinement.Refinement.write = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_how_to_go_on(number: int, files: Path):
    """With a bar on the terminal; what was done stays, and the same command does the rest."""
    for name in range(40):
        for path in (Path("photos/a.png"), Path("scores/a.npy")):
            (path.parent / f"{name}{path.suffix}").write_bytes(path.read_bytes())
    started: list[subprocess.Popen] = []

    def end_it(printed: bytes) -> None:
        if b"/43" in printed and started and Path("out").exists():
            started.pop().send_signal(number)

    terminal = Terminal(80, end_it)
    arguments = ["refine", "scores", "photos", "-o", "out", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(crfrnn.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *arguments], stdout=terminal.far, stderr=terminal.far, env=environment
    )
    started.append(process)
    assert process.wait(60) == 128 + number
    done = len(list(Path("out").iterdir()))
    seen = lines_seen(terminal.printed())
    words = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    expected = f"crfrnn refine: {words}: {done} of 43 refined; the same command goes on with the others"
    assert " ".join(" ".join(seen).split()) == expected
    assert status(" ".join(arguments)) == 0
    assert len(list(Path("out").iterdir())) == 43


def test_overwriting_does_not_go_on(files: Path, monkeypatch, capsys):
    assert status("refine scores photos -o out") == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crfrnn.cli.refinement.Refinement.write", interrupted)
    capsys.readouterr()
    assert status("refine scores photos -o out --overwrite") == 130
    assert "0 of 3 refined; the same command does all of them again\n" in capsys.readouterr().err


def test_everything_is_printed_in_one_place():
    """Whatever else prints says why here."""
    package = Path(crfrnn.__file__).parent
    allowed = {
        "interrupts.py",
        "files/progress.py",
        "compat/pydensecrf/__main__.py",
    }  # before, without, and beside the command line
    for path in package.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        prints = any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)
        assert not prints or path.relative_to(package).as_posix() in allowed, path


@pytest.mark.torch
@pytest.mark.parametrize(
    ("overwrite", "again"), [("", "goes on with the others"), (" --overwrite", "does all of them again")]
)
def test_segment_says_how_to_go_on(overwrite: str, again: str, files: Path, monkeypatch, capsys):
    pytest.importorskip("torch")
    calls: list[object] = []

    def segmented(photo: object) -> bool:
        calls.append(photo)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr("crfrnn.cli.segment.SegmentPhotos.worker", lambda *_: one_by_one(segmented))
    assert status(f"segment photos{overwrite}") == 130
    assert capsys.readouterr().err == f"crfrnn segment: interrupted: 2 of 3 segmented; the same command {again}\n"


def test_names_of_columns_may_take_several_lines():
    table = Table(("", "message error", "labels changed"), [["lattice, neighbour_rounds=1", "0.0062", "0.020%"]])
    said = plain(said_on(50, lambda: say_table(table)))
    assert said.splitlines() == [
        "                             message   labels",
        "                               error  changed",
        "─" * 45,
        "lattice, neighbour_rounds=1   0.0062   0.020%",
    ]
