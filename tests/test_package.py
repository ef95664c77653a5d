"""The package as a whole: what importing costs, what is shipped, and that the README's example works."""

import importlib.util
import re
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

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_of_the_readme(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("scores.npy", rng.normal(size=(3, 20, 30)))
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save("photo.jpg")
    (snippet,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), names := {})
    assert names["probabilities"].shape == (3, 20, 30)
    np.testing.assert_allclose(names["probabilities"].sum(axis=0), 1, atol=1e-5)


def test_files_that_the_documents_name_exist() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / target).exists(), f"{document} names {target}"


def test_importing_leaves_frameworks_alone() -> None:
    program = "import sys, crfrnn, crfrnn.cli; print(sorted({'torch', 'matplotlib', 'scipy'} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


@pytest.mark.torch
def test_segmenting_leaves_the_compiler_of_torch_alone() -> None:
    """It takes seconds to import, which every start of a program would have to wait for."""
    pytest.importorskip("torch", reason="needs the torch extra")
    pytest.importorskip("safetensors", reason="needs the models extra")
    program = (
        "import sys, numpy, torch, crfrnn.segment; from crfrnn.torch import CrfRnn; "
        "image = numpy.zeros((32, 32, 3), numpy.uint8); crfrnn.segment.segment(image); "
        "logits = torch.randn(1, 3, 8, 9, requires_grad=True); "
        "CrfRnn(3, filter='exact')(logits, torch.rand(1, 3, 8, 9)).sum().backward(); "
        "print('torch._dynamo' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "False"


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
ON_CLUSTERS = {"cluster"} if importlib.util.find_spec("ray") else set()


def said_by(program: str) -> str:
    """What a program prints in a Python of its own, the end of its errors included."""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return process.stdout + process.stderr[-400:]


def test_dir_shows_what_users_type() -> None:
    """And nothing else, whatever modules were imported; without extras, that is less."""
    for extra in ("torch", "torchmetrics", "keras", "safetensors", "optuna"):
        if importlib.util.find_spec(extra) is None:
            pytest.skip(f"needs {extra}")
    shown = {name for name in dir(crfrnn) if not name.startswith("__")}
    assert shown == set(crfrnn.__all__) | SUB_PACKAGES | ON_CLUSTERS | {"attach"}
    assert "__version__" in dir(crfrnn)
    assert len(crfrnn.__all__) == len(set(crfrnn.__all__)) > 40


@pytest.mark.parametrize("name", ["compat", "data"])
def test_sub_packages_are_there_when_they_are_used(name: str) -> None:
    program = f"import sys, crfrnn; before = 'crfrnn.{name}' in sys.modules; print(before, crfrnn.{name}.__name__)"
    assert said_by(program) == f"False crfrnn.{name}\n"


def test_other_tools_are_there_when_they_are_used() -> None:
    program = "import crfrnn; print(crfrnn.compat.pydensecrf.__name__, 'simplecrf' in dir(crfrnn.compat))"
    assert said_by(program) == "crfrnn.compat.pydensecrf True\n"
    with pytest.raises(AttributeError, match="no attribute 'convcrf'"):
        crfrnn.compat.convcrf  # noqa: B018
    program = "import sys; sys.modules['torch'] = None; import crfrnn.compat, pydoc; pydoc.render_doc(crfrnn.compat)"
    assert said_by(f"{program}; print('monai' in dir(crfrnn.compat))") == "False\n"
    program = "import sys, types; sys.modules['torch'] = types.ModuleType('torch'); import crfrnn"
    assert said_by(f"{program}; print('torch' in dir(crfrnn), 'monai' in dir(crfrnn.compat))") == "True True\n"


@pytest.mark.torch
def test_frameworks_are_there_when_they_are_used() -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    assert said_by(
        "import crfrnn; print(crfrnn.torch.CrfRnn.__name__, crfrnn.torch is __import__('crfrnn').torch)"
    ) == ("CrfRnn True\n")


@pytest.mark.torch
def test_tensorflow_and_what_compiles_for_pytorch_live_in_one_process() -> None:
    needed = ("tensorflow", "triton", "torchmetrics", "keras")
    if not all(map(importlib.util.find_spec, needed)):
        pytest.skip(f"needs {', '.join(needed)}")
    program = "import os; os.environ['KERAS_BACKEND'] = 'tensorflow'; import crfrnn"
    assert said_by(f"{program}; crfrnn.keras; crfrnn.evaluation; print('alive')").startswith("alive\n")
    assert said_by(f"{program}; import tensorflow; crfrnn.keras; print('alive')").startswith("alive\n")


@pytest.mark.parametrize(("name", "extra"), [("torch", "torch"), ("attach", "models"), ("evaluation", "train")])
def test_a_missing_extra_is_named_when_it_is_used(name: str, extra: str) -> None:
    said = said_by(
        f"import sys; sys.modules['torch'] = sys.modules['torchmetrics'] = None; import crfrnn; crfrnn.{name}"
    )
    assert "ImportError" in said
    assert f"pip install 'crfrnn[{extra}]'" in said


def test_help_and_completion_work_without_extras() -> None:
    """They ask for everything that dir() shows, and an ImportError would end them."""
    missing = ("torch", "torchmetrics", "safetensors", "optuna", "keras")
    said = said_by(
        f"import sys; sys.modules |= dict.fromkeys({missing}); import pydoc, rlcompleter, crfrnn; "
        "completed = rlcompleter.Completer({'crfrnn': crfrnn}).complete('crfrnn.refine_', 0); "
        "every = rlcompleter.Completer({'crfrnn': crfrnn}).complete('crfrnn.', 0); "
        "print(completed, bool(every), 'overlay' in pydoc.render_doc(crfrnn), 'torch' in dir(crfrnn))"
    )
    assert said == "crfrnn.refine_tiled( True True False\n"


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
    assert {"demo", "test", "lint", "docs", "bench", "sanitize", "clean", "help"} <= {
        line.split()[0] for line in help_text.splitlines()
    }
