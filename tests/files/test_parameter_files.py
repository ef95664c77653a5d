"""Parameters files: written, read again, chosen wherever parameters are, and what is said of wrong ones."""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.cli import main
from crfrnn.cli import train as train_command
from crfrnn.cli.parameter_options import add_parameter_options, chosen_parameters
from crfrnn.parameters import CRFParameters
from errors import raises_saying

MATRICES = CRFParameters(
    theta_alpha=(40.5, 20),
    theta_beta=(7, 8, 9),
    theta_gamma=1 / 3,
    spatial_weight=(1, 2),
    bilateral_weight=((1, 0), (-0.25, 2)),
    compatibility=-2,
    normalization="symmetric",
    iterations=4,
    spatial="lattice",
    damping=0.5,
    neighbour_rounds=1,
    class_threshold=0.01,
    tolerance=0.001,
)


@pytest.mark.parametrize("parameters", [MATRICES, *crfrnn.PRESETS.values()])
def test_what_is_written_is_read_again(tmp_path: Path, parameters):
    path = tmp_path / "new" / "parameters.json"
    crfrnn.save_parameters(path, parameters, {"data": "größer"})
    assert crfrnn.load_parameters(path) == parameters
    content = json.loads(path.read_text(encoding="utf-8"))
    assert list(content) == [*(field.name for field in fields(CRFParameters)), "notes"]
    assert content["notes"] == {"data": "größer"}
    assert [each.name for each in path.parent.iterdir()] == ["parameters.json"]


def test_people_can_read_it(tmp_path: Path):
    """A line for each field, matrices too, and letters as they are."""
    crfrnn.save_parameters(tmp_path / "p.json", MATRICES, {"data": "größer"})
    lines = (tmp_path / "p.json").read_text(encoding="utf-8").splitlines()
    assert '  "bilateral_weight": [[1.0, 0.0], [-0.25, 2.0]],' in lines
    assert '    "data": "größer"' in lines


def test_what_is_left_out_has_its_default(tmp_path: Path):
    (tmp_path / "p.json").write_text('{"theta_beta": 13, "notes": "by hand"}')
    assert crfrnn.load_parameters(tmp_path / "p.json") == CRFParameters(theta_beta=13)


def test_a_file_is_chosen_like_a_preset(tmp_path: Path, rng):
    scores, image = rng.normal(size=(2, 8, 9)), rng.uniform(0, 255, (8, 9, 3))
    crfrnn.save_parameters(tmp_path / "p.json", MATRICES)
    expected = crfrnn.refine(scores, image, MATRICES)
    for given in (tmp_path / "p.json", str(tmp_path / "p.json")):
        np.testing.assert_array_equal(crfrnn.refine(scores, image, given), expected)


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("", ["no complete JSON"]),
        ('{"theta_alpha": 80', ["no complete JSON", "line 1"]),
        (b'{"theta_alpha": 8\xff}', ["no complete JSON"]),
        ("[" * 100_000, ["no complete JSON"]),
        ("[80, 3, 3]", ["holds no parameters", '{"theta_alpha": 80}']),
        ('{"theta_delta": 3}', ["unknown key 'theta_delta'", "theta_gamma", "notes"]),
        ('{"theta_alpha": "80"}', ['theta_alpha="80"', "a number"]),
        ('{"damping": "0.5"}', ['damping="0.5"', "a number"]),
        ('{"tolerance": 1}', ["tolerance=1.0", "below 1"]),
        ('{"theta_beta": true}', ["theta_beta=true", "a number"]),
        ('{"theta_beta": null}', ["theta_beta=null", "a number"]),
        ('{"spatial_weight": [1, [2, "x"]]}', ["spatial_weight=", "a list of numbers"]),
        ('{"spatial_weight": [[1, 2], [3]]}', ["spatial_weight"]),
        ('{"spatial_weight": {"a": 1}}', ["spatial_weight=", "a list of numbers"]),
        ('{"normalization": 2}', ["normalization=2", "text such as"]),
        ('{"normalization": "both"}', ["normalization='both' is unknown"]),
        ('{"iterations": 2.5}', ["iterations=2.5 must be an integer"]),
        ('{"theta_gamma": -1}', ["theta_gamma"]),
        ('{"theta_gamma": NaN}', ["theta_gamma"]),
        (f'{{"damping": 1{"0" * 400}}}', ["damping=inf", "below 1"]),
    ],
)
def test_wrong_files(tmp_path: Path, content, facts):
    path = tmp_path / "wrong.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with raises_saying(ValueError, str(path), *facts):
        crfrnn.load_parameters(path)


def test_missing_files(tmp_path: Path):
    with raises_saying(ValueError, "none.json", "there is no such file"):
        crfrnn.refine(np.zeros((2, 3)), None, "none.json")
    with raises_saying(ValueError, str(tmp_path), "there is no such file"):
        crfrnn.load_parameters(tmp_path)


def test_what_cannot_be_written(tmp_path: Path):
    with raises_saying(TypeError, "must be CRFParameters", "dict"):
        crfrnn.save_parameters(tmp_path / "p.json", {"theta_alpha": 3})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="JSON"):
        crfrnn.save_parameters(tmp_path / "p.json", CRFParameters(), {"mean IoU": float("nan")})
    assert not list(tmp_path.iterdir())


# On the command line.


def parsed(arguments: list[str]) -> CRFParameters:
    parser = argparse.ArgumentParser()
    add_parameter_options(parser)
    return chosen_parameters(parser.parse_args(arguments))


def test_options_replace_values_of_the_file(tmp_path: Path):
    crfrnn.save_parameters(tmp_path / "p.json", CRFParameters(theta_beta=13, iterations=4))
    given = parsed(["--parameters", str(tmp_path / "p.json"), "--iterations", "2"])
    assert given == CRFParameters(theta_beta=13, iterations=2)


@pytest.mark.parametrize("name", ["crfrnn", "deeplab"])
def test_a_file_and_a_preset_exclude_each_other(name, capsys):
    with pytest.raises(SystemExit):
        parsed(["--parameters", "p.json", "--preset", name])
    assert "not allowed with" in capsys.readouterr().err


def test_refine_takes_it(tmp_path: Path, rng, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photo = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(photo).save("photo.png")
    np.save("scores.npy", rng.normal(size=(2, 8, 9)).astype(np.float32))
    crfrnn.save_parameters("p.json", MATRICES)
    assert main(["refine", "scores.npy", "photo.png", "-o", "out.npy", "--parameters", "p.json"]) == 0
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(np.load("scores.npy"), photo, MATRICES))
    assert main(["refine", "scores.npy", "photo.png", "-o", "out.npy", "--parameters", "q.json"]) == 1
    assert "q.json: there is no such file" in capsys.readouterr().err


def settings_seen(arguments: list[str], monkeypatch) -> argparse.Namespace:
    """The settings that `crfrnn train` would train with."""
    parser = argparse.ArgumentParser()
    train_command.add_train(parser.add_subparsers(dest="command"))
    seen: list[argparse.Namespace] = []
    stand_in = argparse.Namespace(train=lambda config, **_: seen.append(config), is_first_process=bool)
    monkeypatch.setitem(sys.modules, "crfrnn.training.train", stand_in)
    assert train_command.run_train(parser.parse_args(["train", *arguments])) == 0
    return seen[0]


def test_training_starts_with_it(tmp_path: Path, monkeypatch):
    pytest.importorskip("yaml", reason="needs the train extra")
    crfrnn.save_parameters(
        tmp_path / "p.json",
        CRFParameters(theta_alpha=61, theta_beta=7, bilateral_weight=2, normalization="symmetric", iterations=6),
    )
    (tmp_path / "config.yaml").write_text("data: photos\noutput: out\ntheta_alpha: 50\nseed: 4\n")
    config = settings_seen(
        [str(tmp_path / "config.yaml"), "--parameters", str(tmp_path / "p.json"), "--theta-beta", "9"], monkeypatch
    )
    assert (config.theta_alpha, config.theta_beta, config.theta_gamma, config.seed) == (61, 9, 3, 4)
    assert (config.spatial_weight, config.bilateral_weight, config.normalization) == (3, 2, "symmetric")
    assert (config.test_iterations, config.train_iterations) == (6, 5)


@pytest.mark.parametrize(
    ("parameters", "facts"),
    [
        (CRFParameters(theta_alpha=(4, 5)), ["theta_alpha holds several numbers"]),
        (CRFParameters(bilateral_weight=(4, 5)), ["bilateral_weight holds several numbers"]),
        (CRFParameters(compatibility=-1), ["compatibility=-1.0", "training has no compatibility", "set it to null"]),
        (CRFParameters(spatial="lattice"), ["spatial='lattice'", 'set it to "grid"']),
        (CRFParameters(class_threshold=0.01), ["class_threshold=0.01", "set it to 0.0"]),
    ],
)
def test_what_training_cannot_start_with(tmp_path: Path, parameters, facts, monkeypatch):
    crfrnn.save_parameters(tmp_path / "p.json", parameters)
    with raises_saying(ValueError, str(tmp_path / "p.json"), *facts):
        settings_seen(
            ["--data", "photos", "--output", "out", "--parameters", str(tmp_path / "p.json")],
            monkeypatch,
        )
