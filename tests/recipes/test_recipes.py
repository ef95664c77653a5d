"""The Python and commands of docs/recipes, run beside the libraries that they are about, where these load."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import crfrnn
from crfrnn.cli import main
from repository import ROOT

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("safetensors", reason="needs the models extra")

pytestmark = pytest.mark.torch

FOLDER = ROOT / "docs" / "recipes"
UPLOADS = ("push_to_hub(", "upload_folder(")
"""What no test may run: a block with one of them is only compiled."""


def blocks(page: str, language: str) -> list[str]:
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Runs the Python of a page in an empty folder and returns what it defines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)

    def run_page(page: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": f"recipe_{page}"}
        for block in blocks(page, "python"):
            code = compile(block, f"docs/recipes/{page}.md", "exec")
            if not any(upload in block for upload in UPLOADS):
                exec(code, names)
        return names

    yield run_page
    torch.set_num_threads(threads)


def test_every_recipe_is_run() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    pages = {path.stem for path in FOLDER.glob("*.md")}
    assert pages == set(re.findall(r'run\("([a-z-]+)"\)', source))


def test_transformers(run: Callable[[str], dict[str, Any]]) -> None:
    pytest.importorskip("transformers", reason="needs transformers")
    names = run("transformers")
    assert names["labels"].shape == (1, 96, 144)
    assert names["probabilities"].shape == (21, 96, 144)
    (labels,) = names["maps"]
    np.testing.assert_array_equal(labels, names["outputs"].logits[0].argmax(dim=0))
    names["crf"].tolerance = 0
    with torch.no_grad():
        by_layer = names["crf"](names["logits"], names["planes"]).softmax(dim=1)[0]
    expected = crfrnn.refine(names["logits"][0], names["photo"], "crfrnn", iterations=10, tolerance=0)
    np.testing.assert_allclose(by_layer, expected, atol=1e-6)
    assert np.abs(expected - names["logits"].softmax(dim=1)[0].numpy()).max() > 1e-4  # and the CRF did something
    assert all(p.grad is not None for p in names["segmenter"].crf.parameters())


class StandInNetwork(torch.nn.Module):
    """Logits at the size of the image, as models of segmentation_models.pytorch return them."""

    def __init__(self, encoder_name: str, encoder_weights: str | None = "imagenet", classes: int = 1) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, classes, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.convolution(images)


class StandInEncoder(torch.nn.Module):
    """Two feature maps, at an eighth and a sixteenth, as encoders of timm with features_only=True return them."""

    class FeatureInfo:
        def channels(self) -> list[int]:
            return [6, 8]

    feature_info = FeatureInfo()

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = torch.nn.Conv2d(3, 6, 8, stride=8), torch.nn.Conv2d(6, 8, 2, stride=2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        fine = self.fine(images)
        return [fine, self.coarse(fine)]


def create_stand_in(name: str, pretrained: bool, features_only: bool, out_indices: tuple[int, ...]) -> StandInEncoder:
    assert features_only
    assert len(out_indices) == 2
    return StandInEncoder()


# Both libraries import torchvision, whose wheels do not load beside a CPU build of torch: modules with the same
# interface stand in for them, which tests our side of the recipe and nothing of theirs.
@pytest.mark.parametrize(
    ("library", "attribute", "value"),
    [("segmentation_models_pytorch", "Unet", StandInNetwork), ("timm", "create_model", create_stand_in)],
)
def test_networks_that_users_bring(
    run: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch, library: str, attribute: str, value: Any
) -> None:
    module = ModuleType(library)
    setattr(module, attribute, value)
    monkeypatch.setitem(sys.modules, library, module)
    names = run("timm") if library == "timm" else run("segmentation-models")
    for parameter in names["segmenter"].parameters():
        assert parameter.grad is not None


def test_monai(run: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # MONAI imports it where it is, which takes ten seconds
    pytest.importorskip("monai", reason="needs monai")
    names = run("monai")
    labels, before = names["done"]["pred"], names["pred"]
    assert labels.shape == (1, 8, 24, 24)
    assert torch.equal(labels.affine, before.affine)
    # Isolated decisions are what a CRF removes from scores that are noise.
    assert agreement(labels[0]) > agreement(before.argmax(dim=0))
    assert names["logits"].grad.abs().sum() > 0
    assert names["crf"].bilateral_weight.grad != 0


def agreement(labels: torch.Tensor) -> float:
    """How many neighbours in a row have the same label."""
    return float((labels[..., 1:] == labels[..., :-1]).float().mean())


def test_lightning(run: Callable[[str], dict[str, Any]]) -> None:
    pytest.importorskip("lightning", reason="needs the train extra")
    names = run("lightning")
    measured = names["trainer"].callback_metrics
    assert {"loss", "accuracy_network", "accuracy_with_crf"} <= set(measured)
    crf = names["task"].segmenter.crf
    assert crf.num_iterations == 5
    begun = torch.eye(4)
    assert not torch.equal(-crf.compatibility_matrix, begun)  # it has been trained


def test_nnunet(run: Callable[[str], dict[str, Any]], rng: np.random.Generator) -> None:
    nibabel = pytest.importorskip("nibabel", reason="needs the volumes extra")
    for folder in ("predicted", "imagesTs", "refined"):
        Path(folder).mkdir()
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    truth = np.zeros((6, 16, 12), np.int64)  # (Z, Y, X)
    truth[2:5, 4:12, 3:9] = 1
    logits = rng.normal(size=(2, *truth.shape)) + 1.5 * np.stack([truth == 0, truth == 1])
    np.savez("predicted/case.npz", probabilities=np.exp(logits) / np.exp(logits).sum(axis=0))
    for number in range(2):
        scan = 200 * truth + rng.normal(scale=10, size=truth.shape)
        nibabel.save(nibabel.Nifti1Image(scan.T.astype(np.float32), affine), f"imagesTs/case_000{number}.nii.gz")
    commands = [line for block in blocks("nnunet", "sh") for line in block.splitlines()]
    assert len(commands) == 2
    for command in commands:
        assert main(shlex.split(command)[1:] + ["--overwrite"] * (command == commands[1])) == 0
    run("nnunet")
    by_command, by_python = (nibabel.load(f"refined/{name}.nii.gz") for name in ("case", "case_by_python"))
    np.testing.assert_array_equal(by_command.affine, affine)
    np.testing.assert_array_equal(by_command.get_fdata(), by_python.get_fdata())
    assert np.mean(truth == by_command.get_fdata().T) > np.mean(logits.argmax(axis=0) == truth)


def test_rankseg(run: Callable[[str], dict[str, Any]]) -> None:
    pytest.importorskip("rankseg", reason="needs rankseg")
    names = run("rankseg")
    torch.testing.assert_close(names["marginals"].sum(dim=1), torch.ones(2, 32, 48))
    assert names["labels"].shape == names["labels_of_softened"].shape == (2, 32, 48)
    assert names["labels_of_one"].shape == (32, 48)


def test_hugging_face_hub(run: Callable[[str], dict[str, Any]]) -> None:
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    names = run("hugging-face-hub")
    photos = 255 * torch.rand(1, 3, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(names["again"](photos), names["segmenter"](photos))
        assert names["again"].crf.theta_alpha == 20
        model, loaded = names["model"], names["loaded"]
        torch.testing.assert_close(loaded.segmenter(photos), model.segmenter(photos))
    assert loaded.classes.names == model.classes.names
    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in Path("my-segmenter").iterdir()}
