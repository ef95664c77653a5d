"""The scripts in examples/ do what they say."""

import re
import runpy
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the models extra")
pytest.importorskip("safetensors", reason="needs the models extra")

pytestmark = pytest.mark.torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def one_thread():
    """Small layers on several threads mostly wait for each other where other work is going on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_segformer_learns_with_its_crf(capsys, one_thread):
    pytest.importorskip("transformers", reason="needs transformers")
    script = runpy.run_path(str(EXAMPLES / "segformer.py"))
    script["main"](steps=8)
    before, after = map(float, re.findall(r"loss (\S+) before, (\S+) after 8 steps", capsys.readouterr().out)[0])
    assert after < 0.8 * before
