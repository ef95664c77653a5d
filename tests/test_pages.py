"""The pages that show users what to write: their Python runs in its order, and their commands are understood."""

import json
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.cli.main import command_parser, main
from crfrnn.data.score_files import Teacher
from crfrnn.files.classes import class_set
from crfrnn.files.frames import write_video
from repository import ROOT

PAGES = (
    "clusters",
    "command-line",
    "distillation",
    "filters",
    "first-refinement",
    "pictures",
    "solvers",
    "training",
    "tuning",
    "weak-supervision",
    "web",
)


def text_of(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")


def commands_of(page: str) -> list[list[str]]:
    """The arguments of each command that a page shows."""
    lines = re.findall(r"^```sh\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    commands = [line for line in "".join(lines).replace("\\\n", "").splitlines() if line.startswith("crfrnn ")]
    return [shlex.split(command, comments=True)[1:] for command in commands]


def run_python(page: str) -> dict[str, Any]:
    """What the Python of a page defines, run in the order of the page; blocks for Keras are left to its own tests."""
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL):
        if "import keras" not in block:
            exec(compile(block, f"docs/{page}.md", "exec"), found)
    return found


@pytest.fixture
def names(request: pytest.FixtureRequest, tmp_path: Path, rng: np.random.Generator, monkeypatch: Any) -> dict[str, Any]:
    """What a page defines, run beside a small photo and scores."""
    pytest.importorskip("torch", reason="needs the torch extra")
    if request.param == "pictures":
        pytest.importorskip("matplotlib", reason="needs the plots extra").use("Agg")
    monkeypatch.chdir(tmp_path)
    np.save("scores.npy", rng.normal(size=(21, 20, 30)))
    np.save("scores33.npy", rng.normal(size=(21, 5, 6)))
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save("photo.jpg")
    return run_python(request.param)


def test_first_refinement(tmp_path: Path, monkeypatch: Any) -> None:
    """The page's Python, its commands, and the share of pixels that it names."""
    monkeypatch.chdir(tmp_path)
    names = run_python("first-refinement")
    assert names["probabilities"].shape == names["refined"].shape == (21, 300, 451)
    for arguments in commands_of("first-refinement"):
        assert main(arguments) == 0
    alone, labels = (np.asarray(Image.open(f"{name}.png")) for name in ("alone", "labels"))
    assert (labels == names["labels"]).mean() > 0.999
    assert f"{100 * (alone != labels).mean():.1f} % of the pixels changed" in text_of("first-refinement")


def test_questions() -> None:
    """The answers of the page do what it says, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = run_python("faq")
    for name in ("right", "right_too", "same_again"):
        np.testing.assert_array_equal(names[name], names["same"])
    np.testing.assert_array_equal(names["unary"].argmax(axis=0)[:100], names["labels"][:100])
    np.testing.assert_array_equal(names["default"], names["labels"])
    assert 0.015 < (names["for_labels"] != names["labels"]).mean() < 0.025
    np.testing.assert_allclose(names["ours"], names["theirs"], atol=1e-6)
    scores, photo, text = names["scores"], names["photo"], text_of("faq")
    by_iterations = {number: crfrnn.refine(scores, photo, iterations=number) for number in (5, 10, 50)}
    for number in (5, 10):
        off = (by_iterations[number].argmax(axis=0) != by_iterations[50].argmax(axis=0)).mean()
        assert f"{100 * off:.1f} %" in text
    for probabilities in (names["probabilities"], by_iterations[10]):
        assert f"{probabilities.max(axis=0).mean():.2f}" in text
    filled = crfrnn.refine(scores, photo, bilateral_weight=50, theta_alpha=200, theta_beta=60, return_labels=True)
    assert len(np.unique(filled)) == 1


def test_numbers_of_the_presets() -> None:
    """The table of docs/choosing-parameters.md is `PRESETS`."""
    rows = re.findall(r"^\| (`[^|]+`) \| ([\d.]+(?: \| [\d.\w]+){6}) \|$", text_of("choosing-parameters"), re.MULTILINE)
    found = {}
    for names, numbers in rows:
        alpha, beta, bilateral, gamma, spatial, normalization, iterations = numbers.split(" | ")
        weights = {"spatial_weight": float(spatial), "bilateral_weight": float(bilateral)}
        parameters = crfrnn.CRFParameters(
            float(alpha), float(beta), float(gamma), **weights, normalization=normalization, iterations=int(iterations)
        )
        found |= dict.fromkeys(re.findall(r"`([\w-]+)`", names), parameters)
    assert found == crfrnn.PRESETS


@pytest.mark.torch
@pytest.mark.parametrize("names", ["torch"], indirect=True)
def test_layer(names: dict[str, Any]) -> None:
    assert names["layer"].compatibility_matrix.grad.abs().sum() > 0
    assert names["logits"].shape == (2, 21, 48, 64)


def test_a_job_of_kuberay() -> None:
    """Its command is one that is understood."""
    yaml = pytest.importorskip("yaml", reason="needs the train extra")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text_of("clusters"), re.MULTILINE | re.DOTALL)
    job = yaml.safe_load(block)
    assert job["kind"] == "RayJob"
    pytest.importorskip("upath", reason="needs the cluster extra")
    words = shlex.split(job["spec"]["entrypoint"])
    assert command_parser().parse_args(words[1:]).ray == "auto"


def test_training_settings() -> None:
    assert run_python("training")["config"].classes == "msrc21"


@pytest.mark.torch
@pytest.mark.parametrize("names", ["filters"], indirect=True)
def test_filters(names: dict[str, Any]) -> None:
    assert names["refined"].shape == names["larger"].shape == (21, 20, 30)
    inside = names["filled"][4:8, 4:8]
    assert inside.min() > np.nanmin(names["depth"])
    assert inside.max() < np.nanmax(names["depth"])
    assert {name for name, sigma in names["denoise"].named_parameters() if sigma.grad} == {
        "sigma_x",
        "sigma_y",
        "sigma_color",
    }
    assert names["probabilities"].shape == (1, 21, 48, 48)


@pytest.mark.torch
@pytest.mark.parametrize("names", ["pictures"], indirect=True)
def test_pictures(names: dict[str, Any]) -> None:
    assert names["pixels"][:20].shape[0] == 20
    assert Path("compared.png").is_file()
    assert len(names["axes"].lines[0].get_ydata()) == 6


@pytest.mark.torch
@pytest.mark.parametrize("names", ["solvers"], indirect=True)
def test_solvers(names: dict[str, Any]) -> None:
    np.testing.assert_allclose(names["probabilities"].sum(axis=0), 1, atol=1e-5)
    assert names["layer"].crf.solver.gradient == "implicit"


@pytest.mark.torch
@pytest.mark.parametrize("names", ["tuning"], indirect=True)
@pytest.mark.parametrize("kind", ["full", "per-class", "scalar"])
def test_a_trained_layer_as_parameters(names: dict[str, Any], kind: str) -> None:
    """What the page writes of a layer gives the layer's own results."""
    import torch

    assert {len(group["params"]) for group in names["optimizer"].param_groups} == {3}
    torch.manual_seed(0)
    layer = names["CrfRnn"](21, theta_alpha=9, theta_beta=50, weights=kind, compatibility=kind, learn_theta=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    (block,) = re.findall(r"^trained = .*?^\)$", text_of("tuning"), re.MULTILINE | re.DOTALL)
    exec(compile(block, "docs/tuning.md", "exec"), names | {"layer": layer}, trained := {})
    logits, image = torch.tensor(names["scores"])[None], torch.tensor(names["photo"]).movedim(-1, 0)[None]
    expected = layer(logits, image).softmax(dim=1)[0].detach()
    np.testing.assert_allclose(crfrnn.refine(names["scores"], names["photo"], trained["trained"]), expected, atol=1e-3)


@pytest.mark.torch
@pytest.mark.parametrize("names", ["weak-supervision"], indirect=True)
def test_weak_supervision(names: dict[str, Any]) -> None:
    assert (names["logits"].grad.abs().sum(dim=1) > 0).all()  # where there is no label too


@pytest.mark.torch
@pytest.mark.parametrize("names", ["distillation"], indirect=True)
def test_distillation(names: dict[str, Any]) -> None:
    """What the page saves is read as what it was."""
    found = Teacher(Path()).probabilities(Path("photo.npz"), class_set("voc"))
    np.testing.assert_allclose(found, names["probabilities"], atol=2e-3)


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page: str) -> None:
    assert commands_of(page)
    for arguments in commands_of(page):
        assert command_parser().parse_args(arguments).command == arguments[0]


def test_commands_of_the_shell(tmp_path: Path, rng: np.random.Generator, monkeypatch: Any) -> None:
    """Those of docs/command-line.md run, but for those that take minutes, models, a cluster, or no end."""
    nibabel, tifffile = (
        pytest.importorskip(name, reason="needs the volumes extra") for name in ("nibabel", "tifffile")
    )
    for name, extra in (("pycocotools", "coco"), ("av", "video")):
        pytest.importorskip(name, reason=f"needs the {extra} extra")
    monkeypatch.chdir(tmp_path)
    write_files_of_the_shell(rng, nibabel, tifffile)
    for arguments in commands_of("command-line"):
        if arguments[0] not in ("segment", "tune", "web") and "--ray" not in arguments:
            assert main(arguments) == 0
    assert {"labels.png", "overlay.png", "refined.png", "refined.json", "refined.mp4"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert (tmp_path / "refined" / "a.npz").exists()
    assert nibabel.load("refined.nii.gz").shape == (6, 5, 4)
    assert tifffile.imread("labels.tif").shape == (20, 30)


def write_files_of_the_shell(rng: np.random.Generator, nibabel: Any, tifffile: Any) -> None:
    """The files that docs/command-line.md names, into the current folder."""
    scores = rng.normal(size=(3, 20, 30)).astype(np.float32)
    photo = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
    for folder in ("scores", "photos"):
        Path(folder).mkdir()
    for path in ("scores.npy", "scores/a.npy", "huge.npy"):
        np.save(path, scores)
    for path in ("photo.jpg", "photos/a.jpg"):
        photo.save(path)
    for name, high in (("labels", 2), ("scan", 256), ("case_0000", 256), ("case_0001", 256)):
        values = rng.integers(0, high, (6, 5, 4)).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 2, 1])), f"{name}.nii.gz")
    np.savez("case.npz", probabilities=np.full((2, 4, 5, 6), 0.5))
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:25] = 255
    Image.fromarray(mask).save("mask.png")
    Image.fromarray(mask // 2).save("soft.png")
    polygon = [[5, 5, 25, 5, 25, 15, 5, 15]]
    Path("annotations.json").write_text(json.dumps([{"image_id": "a", "category_id": 1, "segmentation": polygon}]))
    write_video(Path("clip.mp4"), rng.integers(0, 256, (1, 20, 30, 3), np.uint8), 25)
    tifffile.imwrite("huge.tif", np.asarray(photo))
    crfrnn.save_parameters(Path("parameters.json"), crfrnn.CRFParameters(iterations=3))
