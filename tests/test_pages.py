"""The pages that show users what to write: their Python runs in its order, and their commands are understood."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.cli.main import command_parser
from crfrnn.data.score_files import Teacher
from crfrnn.files.classes import class_set
from repository import ROOT

PAGES = ("distillation", "filters", "pictures", "solvers", "tuning", "weak-supervision")


def text_of(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")


@pytest.fixture
def names(request: pytest.FixtureRequest, tmp_path: Path, rng: np.random.Generator, monkeypatch: Any) -> dict[str, Any]:
    """What a page defines, run beside a small photo and scores; blocks for Keras are left to its own tests."""
    pytest.importorskip("torch", reason="needs the torch extra")
    if request.param == "pictures":
        pytest.importorskip("matplotlib", reason="needs the plots extra").use("Agg")
    monkeypatch.chdir(tmp_path)
    np.save("scores.npy", rng.normal(size=(21, 20, 30)))
    np.save("scores33.npy", rng.normal(size=(21, 5, 6)))
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save("photo.jpg")
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text_of(request.param), re.MULTILINE | re.DOTALL):
        if "import keras" not in block:
            exec(compile(block, f"docs/{request.param}.md", "exec"), found)
    return found


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
def test_commands(page: str) -> None:
    lines = re.findall(r"^```sh\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    commands = [line for line in "".join(lines).replace("\\\n", "").splitlines() if line.startswith("crfrnn ")]
    assert commands
    for command in commands:
        arguments = shlex.split(command, comments=True)[1:]
        assert command_parser().parse_args(arguments).command == arguments[0]
