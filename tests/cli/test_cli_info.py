"""`crfrnn info`, `crfrnn --version` and `python -m crfrnn`."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import crfrnn
from crfrnn.cli import main


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert facts["crfrnn"] == crfrnn.__version__
    assert facts["numpy"] == np.__version__
    assert {"python", "pillow", "torch", "compiler", "simd", "default-threads"} <= set(facts)


def test_info_names_the_extra_that_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)
    assert main(["info"]) == 0
    assert "pip install 'crfrnn[torch]'" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"crfrnn {crfrnn.__version__}\n"


def test_as_a_module(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.zeros((2, 3, 4), np.float32))
    command = [sys.executable, "-m", "crfrnn", "refine", "scores.npy", "missing.png", "-o", "out.png"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert process.stderr == "crfrnn refine: error: cannot read missing.png: there is no such file\n"
