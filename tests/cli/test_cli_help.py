"""What the command line says of itself: options that were meant, help, completion; and when it is quiet."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import status
from crfrnn.cli import main
from crfrnn.cli.parameter_options import PRESET_PURPOSES
from crfrnn.parameters import PRESETS

QUIET = ("refine", "segment", "train", "tune", "evaluate", "accuracy", "convert", "demo")
COMMANDS = ("refine", "segment", "train", "tune", "evaluate", "accuracy", "convert", "completion")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("refine s.npy p.png --outptu o.png", "there is no option --outptu; did you mean --output?"),
        ("refine s.npy p.png -o o.png --theta_beta 3", "there is no option --theta_beta; did you mean --theta-beta?"),
        ("refine s.npy p.png -o o.png --theta-bta=3", "there is no option --theta-bta; did you mean --theta-beta?"),
        ("refine s.npy p.png -output o.png", "there is no option -output; did you mean --output?"),
        ("refine s.npy p.png -o o.png --xyz 3", "there is no option --xyz (see"),
        ("refine s.npy p.png -o o.png --preset deplab", "did you mean deeplab?"),
        ("refine s.npy p.png -o o.png --input logit", "did you mean logits?"),
        ("segment p.png --overwite", "there is no option --overwite; did you mean --overwrite?"),
        ("tune data --seeds 3 -o o.json", "there is no option --seeds; did you mean --seed?"),
        ("refin s.npy p.png -o o.png", "did you mean refine?"),
        ("evaluate builtin data --devices cpu", "there is no option --devices; did you mean --device?"),
        ("--quiet refine s.npy p.png -o o.png", "options such as --quiet come after the command"),
    ],
)
def test_what_was_meant(command, said, capsys):
    assert status(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_abbreviations_and_words_after_two_dashes_still_work(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 6)).save("--photo.png")
    np.save("scores.npy", np.zeros((2, 6, 8)))
    assert status("refine --iter 1 -o out.png -- scores.npy --photo.png") == 0


def test_what_messages_advise_can_be_typed(tmp_path: Path, monkeypatch, capsys):
    """Arguments of functions are options, and ranges may begin below 0."""
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).normal(0, 1, (8, 9, 3))
    np.save("image.npy", image)
    np.save("scores.npy", np.random.default_rng(1).normal(0, 1, (2, 8, 9)))
    command = "refine scores.npy image.npy -o out.png"
    assert status(command) == 0
    warned = capsys.readouterr().err
    assert "--theta-beta 10" in warned
    assert status(command + " --overwrite") == 0
    assert capsys.readouterr().err == warned  # every command warns, also in one process
    (advice,) = re.findall(r"--image-range -[\d.]+,[\d.]+", warned)
    assert status(f"{command} {advice}") == 0
    assert "warning" not in capsys.readouterr().err
    assert status(f"{command} --image-range 3") == 2
    assert "--image-range 3.0 must be two finite numbers, low,high, such as 0,1" in capsys.readouterr().err
    assert status("refine scores.npy image.npy -o out.png --array scores") == 1
    assert "it holds one array, which has no name such as 'scores'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_are_understood(command, capsys, monkeypatch):
    if command == "train":
        pytest.importorskip("yaml", reason="needs the train extra")
    assert status(f"{command} --help") == 0
    examples = capsys.readouterr().out.split("examples:\n")[1].strip().splitlines()
    assert examples
    known = main.__globals__["command_parser"]()
    for line in examples:
        words = shlex.split(line.split(">")[0], comments=True)
        assert words[0] == "crfrnn"
        known.parse_args(words[1:])


def test_every_preset_says_what_it_is_for(capsys):
    assert set(PRESET_PURPOSES) == set(PRESETS)
    status("refine --help")
    said = capsys.readouterr().out
    for name, purpose in PRESET_PURPOSES.items():
        assert re.search(rf"\n +{name} +{' +'.join(map(re.escape, purpose.split()))}".replace(" +", r"\s+"), said), name


def test_common_options_come_first(capsys):
    status("refine --help")
    said = capsys.readouterr().out
    places = [said.index(f"\n  {option}") for option in ("-o OUT", "--input", "--preset", "--iterations", "--format")]
    assert places == sorted(places)
    assert places[-1] < said.index("--tile PIXELS") < said.index("--neighbour-rounds")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell, capsys):
    pytest.importorskip("shtab")
    assert status(f"completion {shell}") == 0
    script = capsys.readouterr().out
    for word in ("refine", "segment", "theta-beta" if shell == "tcsh" else "--theta-beta", "deeplab"):
        assert word in script


def test_completion_without_its_package(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert status("completion bash") == 1
    assert "pip install 'crfrnn[completion]'" in capsys.readouterr().err


@pytest.mark.parametrize("command", QUIET)
def test_every_command_that_prints_by_the_way_can_be_quiet(command, capsys):
    assert status(f"{command} --help") == 0
    assert "-q, --quiet" in capsys.readouterr().out


@pytest.mark.parametrize("folder", [False, True])
def test_quiet(tmp_path: Path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)
    Path("s").mkdir()
    Path("p").mkdir()
    Image.new("RGB", (8, 6)).save("p/a.png")
    np.save("s/a.npy", np.zeros((2, 6, 8)))
    command = "refine s p -o out" if folder else "refine s/a.npy p/a.png -o out.png"
    assert status(f"{command} --quiet") == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""
    assert status("refine s/b.npy p/a.png -o out.png -q") == 1
    assert "s/b.npy" in capsys.readouterr().err
