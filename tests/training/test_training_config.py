"""`TrainingConfig`: from YAML and the command line, saved and read again, and what it says of wrong settings."""

import argparse
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="needs the train extra")
from crfrnn.cli import train as command
from crfrnn.data.annotations import Clicks
from crfrnn.data.layouts import lines_of
from crfrnn.training import TrainingConfig, config_from, read_settings, write_config
from errors import raises_saying

GIVEN = TrainingConfig(data="photos", output="out")


def options(*arguments):
    """Arguments of `crfrnn train` as the command line reads them."""
    parser = argparse.ArgumentParser()
    command.add_train(parser.add_subparsers(dest="command"))
    return parser.parse_args(["train", *arguments])


def test_every_setting_is_saved_and_read_again(tmp_path):
    path = tmp_path / "config.yaml"
    config = replace(
        GIVEN, init=None, class_weights=(1, 2.5, 0) + 18 * (1,), scale=(1e-3, 2), patience=3, flip=False, workers=2
    )
    write_config(path, config)
    assert set(read_settings(path)) == {setting.name for setting in fields(TrainingConfig)}
    assert config_from(read_settings(path)) == config


def test_yaml_and_options_are_the_same(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text(
        "data: photos\noutput: out\nclasses: 21\ncrop: [64, 96]\nnetwork_rate: 1e-3\ninit: null\nflip: no\n"
    )
    expected = replace(GIVEN, classes="21", crop=(64, 96), network_rate=0.001, init=None, flip=False)
    assert config_from(read_settings(path)) == expected
    given = options(
        *("--data", "photos", "--output", "out", "--classes", "21", "--crop", "64,96", "--network-rate", "1e-3"),
        *("--init", "null", "--flip", "false"),
    )
    seen = []
    monkeypatch.setitem(
        sys.modules,
        "crfrnn.training.train",
        argparse.Namespace(train=lambda config, **_: seen.append(config), is_first_process=bool),
    )
    assert command.run_train(given) == 0
    assert seen == [expected]


def test_options_count_more_than_the_file(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text("data: photos\noutput: out\nseed: 3\nbatch_size: 2\n")
    seen = []
    monkeypatch.setitem(
        sys.modules,
        "crfrnn.training.train",
        argparse.Namespace(train=lambda config, **_: seen.append(config), is_first_process=bool),
    )
    assert command.run_train(options(str(path), "--seed", "4", "-o", "007")) == 0
    assert seen == [replace(GIVEN, seed=4, batch_size=2, output="007")]


def test_help_tells_every_setting_and_default(capsys):
    with pytest.raises(SystemExit):
        options("--help")
    printed = " ".join(capsys.readouterr().out.split())
    for setting in fields(TrainingConfig):
        assert f"--{setting.name.replace('_', '-')}" in printed
    for default in ("FcnLite", "256,320", "null", "true", "0.0003"):
        assert f"(default: {default})" in printed


@pytest.mark.parametrize(
    ("settings", "error", "facts"),
    [
        ({"batch_size": 0}, ValueError, ["batch_size=0", "at least 1"]),
        ({"batch_size": 2.5}, TypeError, ["batch_size=2.5", "integer"]),
        ({"batch_size": True}, TypeError, ["batch_size=True", "integer"]),
        ({"seed": -1}, ValueError, ["seed=-1", "at least 0"]),
        ({"flip": "maybe"}, TypeError, ["flip='maybe'", "true or false"]),
        ({"network_rate": "fast"}, TypeError, ["network_rate='fast'", "number"]),
        ({"network_rate": 0}, ValueError, ["network_rate=0", "above 0"]),
        ({"weight_decay": -1}, ValueError, ["weight_decay=-1", "at least 0"]),
        ({"crop": 64}, ValueError, ["crop=64", "two numbers", "height and width"]),
        ({"crop": [64, 0]}, ValueError, ["crop=0", "at least 1"]),
        ({"scale": [2, 1]}, ValueError, ["scale=(2.0, 1.0)", "lesser factor first"]),
        ({"colour": 1}, ValueError, ["colour=1", "below 1"]),
        ({"optimizer": "adam"}, ValueError, ["optimizer='adam'", "'adamw'", "'sgd'"]),
        ({"crf_weights": "matrix"}, ValueError, ["crf_weights='matrix'", "'full'", "'per-class'", "'scalar'"]),
        ({"precision": "64"}, ValueError, ["precision='64'", "'32-true'"]),
        ({"theta_alpha": -3}, ValueError, ["theta_alpha=-3", "above 0"]),
        ({"class_weights": "rare"}, ValueError, ["class_weights='rare'", "balanced"]),
        ({"class_weights": 21 * [0]}, ValueError, ["class_weights are all 0", "above 0"]),
        ({"class_weights": [1, 2]}, ValueError, ["class_weights has 2", "'voc'", "21"]),
        ({"classes": "vox"}, ValueError, ["'vox'", "voc"]),
        ({"data": " "}, TypeError, ["data=' '", "folder"]),
        ({"network_epochs": 0, "crf_epochs": 0}, ValueError, ["network_epochs=0 and crf_epochs=0", "nothing to train"]),
        ({"network_epochs": 0}, ValueError, ["network_epochs=0", "init='imagenet'", "file of a model"]),
        ({"supervision": "boxes"}, ValueError, ["supervision='boxes'", "'clicks'", "'scribbles'"]),
        ({"annotations": "clicks.json"}, ValueError, ["annotations='clicks.json'", "supervision='labels'"]),
        ({"click_radius": -1}, ValueError, ["click_radius=-1", "at least 0"]),
        ({"crf_loss": "potts"}, ValueError, ["crf_loss='potts'", "'dense'", "'gated'", "'normalized-cut'"]),
        ({"crf_loss_weight": -1}, ValueError, ["crf_loss_weight=-1", "at least 0"]),
        ({"crf_loss_theta_beta": 0}, ValueError, ["crf_loss_theta_beta=0", "above 0"]),
        ({"crf_loss_weight": 0.1}, ValueError, ["crf_loss_weight=0.1", "no effect without crf_loss"]),
        ({"theta_rate": 0.1}, ValueError, ["theta_rate=0.1", "no effect without learn_theta"]),
        ({"patience": 0}, ValueError, ["patience=0", "at least 1"]),
    ],
)
def test_wrong_settings(settings, error, facts):
    with raises_saying(error, *facts):
        config_from({"data": "photos", "output": "out"} | settings)


def test_unknown_and_missing_settings():
    with raises_saying(ValueError, "'batchsize'", "batch_size"):
        config_from({"data": "photos", "output": "out", "batchsize": 8})
    with raises_saying(ValueError, "output must be given", "checkpoints"):
        config_from({"data": "photos"})


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: b: c", "", "\x00"])
def test_files_that_hold_no_settings(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with raises_saying(ValueError, str(path)):
        read_settings(path)


def test_no_file():
    with raises_saying(ValueError, "nowhere.yaml", "cannot read"):
        read_settings(Path("nowhere.yaml"))


def test_settings_need_no_torch():
    """The command line must start quickly."""
    program = (
        "import sys, crfrnn.cli.train, crfrnn.data; print(sorted({'torch', 'lightning', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(os.name != "posix", reason="there are no such devices")
def test_settings_from_what_is_no_file(tmp_path):
    """A device might have no end."""
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for path in tmp_path.iterdir():
        with raises_saying(ValueError, "cannot read settings from", path.name, "no such file"):
            read_settings(path)
        with raises_saying(ValueError, "cannot read the list", path.name, "no such file"):
            lines_of(path)
        with raises_saying(ValueError, "cannot read clicks from", path.name, "no such file"):
            Clicks(path)
