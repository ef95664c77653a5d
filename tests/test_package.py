"""The package as a whole: what importing costs, what is shipped, and that the README's lines work."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.cli import main
from crfrnn.cli.main import command_parser
from crfrnn.files.frames import write_video

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for line in README.splitlines() if line.startswith("crfrnn ")]


@pytest.fixture
def readme_files(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the README names."""
    scores = rng.normal(size=(3, 20, 30)).astype(np.float32)
    photo = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
    for folder in ("scores", "photos"):
        (tmp_path / folder).mkdir()
    for path in ("scores.npy", "scores/a.npy"):
        np.save(tmp_path / path, scores)
    for path in ("photo.jpg", "photos/a.jpg"):
        photo.save(tmp_path / path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_of_the_readme(readme_files: Path) -> None:
    names: dict[str, object] = {}
    ran = 0
    for snippet in SNIPPETS:
        if "torch" not in snippet:
            exec(compile(snippet, "README.md", "exec"), names)
            ran += 1
    assert ran == 3
    assert names["labels"].shape == (20, 30)
    np.testing.assert_allclose(names["q"].sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(names["probabilities"].sum(axis=0), 1, atol=1e-5)
    assert len(names["crf"].kernels) == 3


@pytest.mark.torch
def test_torch_of_the_readme() -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    names: dict[str, object] = {}
    (snippet,) = (snippet for snippet in SNIPPETS if "torch" in snippet)
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["logits"].grad.abs().sum() > 0
    assert names["layer"].compatibility_matrix.grad.abs().sum() > 0


def test_commands_of_the_readme(readme_files: Path, rng: np.random.Generator) -> None:
    nibabel, tifffile = (
        pytest.importorskip(name, reason="needs the volumes extra") for name in ("nibabel", "tifffile")
    )
    for name, extra in (("pycocotools", "coco"), ("av", "video")):
        pytest.importorskip(name, reason=f"needs the {extra} extra")
    volumes = ("labels", 2), ("scan", 256), ("case_0000", 256), ("case_0001", 256)
    for name, values in ((name, rng.integers(0, high, (6, 5, 4))) for name, high in volumes):
        nibabel.save(nibabel.Nifti1Image(values.astype(np.uint8), np.diag([1, 1, 2, 1])), f"{name}.nii.gz")
    np.savez("case.npz", probabilities=np.full((2, 4, 5, 6), 0.5))
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:25] = 255
    Image.fromarray(mask).save("mask.png")
    Image.fromarray(mask // 2).save("soft.png")
    polygon = [[5, 5, 25, 5, 25, 15, 5, 15]]
    Path("annotations.json").write_text(json.dumps([{"image_id": "a", "category_id": 1, "segmentation": polygon}]))
    write_video(Path("clip.mp4"), rng.integers(0, 256, (1, 20, 30, 3), np.uint8), 25)
    np.save("huge.npy", np.load("scores.npy"))
    tifffile.imwrite("huge.tif", np.asarray(Image.open("photo.jpg")))
    crfrnn.save_parameters(Path("parameters.json"), crfrnn.CRFParameters(iterations=3))
    assert len(COMMANDS) == 21
    for command in COMMANDS:
        arguments = shlex.split(command, comments=True)[1:]
        if arguments[0] in ("refine", "info", "accuracy"):
            assert main(arguments) == 0
        else:  # minutes and larger data: that they are understood must do
            assert command_parser().parse_args(arguments).command == arguments[0]
    assert {"labels.png", "overlay.png", "refined.png", "refined.json", "refined.mp4"} <= {
        path.name for path in readme_files.iterdir()
    }
    assert (readme_files / "refined" / "a.npz").exists()
    assert nibabel.load("refined.nii.gz").shape == (6, 5, 4)
    assert tifffile.imread("labels.tif").shape == (20, 30)


def test_files_that_the_documents_name_exist() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / target).exists(), f"{document} names {target}"


def test_importing_leaves_frameworks_alone() -> None:
    program = "import sys, crfrnn, crfrnn.cli; print(sorted({'torch', 'matplotlib', 'scipy'} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_a_missing_extra_is_named() -> None:
    program = "import sys; sys.modules['torch'] = None; import crfrnn.torch"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "pip install 'crfrnn[torch]'" in process.stderr


def test_everything_is_shipped() -> None:
    package = resources.files("crfrnn")
    assert package.joinpath("py.typed").is_file()
    examples = package.joinpath("data", "examples")
    assert {f"{name}{end}" for name in ("astronaut", "chelsea", "coffee") for end in (".png", "_logits33.npz")} | {
        "README.md"
    } == {path.name for path in examples.iterdir()}


def test_versions_agree() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert crfrnn.__version__ == metadata.version("crfrnn") == declared
    assert f"## [{declared}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_public_names_exist() -> None:
    for name in crfrnn.__all__:
        assert hasattr(crfrnn, name)
    with pytest.raises(AttributeError, match="no attribute 'detach'"):
        crfrnn.detach  # noqa: B018


SUB_PACKAGES = {"compat", "data", "evaluation", "keras", "models", "torch", "training", "tuning"}


def said_by(program: str) -> str:
    """What a program prints in a Python of its own, the end of its errors included."""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return process.stdout + process.stderr[-400:]


def test_dir_shows_what_users_type() -> None:
    """And nothing else, whatever modules were imported."""
    shown = {name for name in dir(crfrnn) if not name.startswith("__")}
    assert shown == set(crfrnn.__all__) | SUB_PACKAGES | {"attach"}
    assert "__version__" in dir(crfrnn)
    assert len(crfrnn.__all__) == len(set(crfrnn.__all__)) > 40


@pytest.mark.parametrize("name", ["compat", "data"])
def test_sub_packages_are_there_when_they_are_used(name: str) -> None:
    program = f"import sys, crfrnn; before = 'crfrnn.{name}' in sys.modules; print(before, crfrnn.{name}.__name__)"
    assert said_by(program) == f"False crfrnn.{name}\n"


@pytest.mark.torch
def test_frameworks_are_there_when_they_are_used() -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    assert said_by(
        "import crfrnn; print(crfrnn.torch.CrfRnn.__name__, crfrnn.torch is __import__('crfrnn').torch)"
    ) == ("CrfRnn True\n")


@pytest.mark.parametrize(("name", "extra"), [("torch", "torch"), ("attach", "models"), ("evaluation", "train")])
def test_a_missing_extra_is_named_when_it_is_used(name: str, extra: str) -> None:
    said = said_by(
        f"import sys; sys.modules['torch'] = sys.modules['torchmetrics'] = None; import crfrnn; crfrnn.{name}"
    )
    assert "ImportError" in said
    assert f"pip install 'crfrnn[{extra}]'" in said


def test_star_leaves_frameworks_and_their_names_alone() -> None:
    program = "torch = 'mine'; import sys; from crfrnn import *; print(torch, 'torch' in sys.modules, compare.__name__)"
    assert said_by(program) == "mine False compare\n"


def test_refine_is_a_function_and_a_module() -> None:
    program = (
        "import crfrnn.refine, sys; import crfrnn; print(callable(crfrnn.refine), sys.modules['crfrnn.refine'].refine)"
    )
    assert said_by(program).startswith("True <function refine")


@pytest.mark.torch
def test_attach_is_the_one_of_the_models() -> None:
    pytest.importorskip("safetensors", reason="needs the models extra")
    from crfrnn.models import attach

    assert crfrnn.attach is attach


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lists_its_targets() -> None:
    help_text = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"demo", "test", "lint", "bench", "sanitize", "clean", "help"} <= {
        line.split()[0] for line in help_text.splitlines()
    }
