"""The name pydensecrf without a call in the program: `python -m crfrnn.compat.pydensecrf`, the second distribution."""

import os
import shutil
import subprocess
import sys

import pytest

from repository import ROOT

PROGRAM = """
import sys
import numpy as np
import pydensecrf.densecrf as dcrf
from pydensecrf.utils import unary_from_labels

d = dcrf.DenseCRF2D(6, 4, 2)
d.setUnaryEnergy(unary_from_labels(np.arange(24) % 3, 2, 0.7))
d.addPairwiseGaussian(sxy=2, compat=3)
print(dcrf.__name__, d.inference(5).shape, sys.argv[1:], __name__)
"""
SAID = "crfrnn.compat.pydensecrf.densecrf (2, 24)"


def run(*arguments, folder, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ | environment,
    )


class TestRunningAProgram:
    @pytest.fixture
    def folder(self, tmp_path):
        """Scripts with a module of their own beside them, not in the working folder."""
        scripts = tmp_path / "scripts"
        scripts.mkdir()
        (scripts / "script.py").write_text(f"import beside\n{PROGRAM}\nsys.exit(beside.CODE)")
        (scripts / "beside.py").write_text("CODE = 3")
        (scripts / "failing.py").write_text("def work():\n    raise KeyError('lost')\n\nwork()")
        (tmp_path / "whole.py").write_text(PROGRAM)
        return tmp_path

    def test_a_script_with_arguments_and_its_exit_code(self, folder):
        ended = run("-m", "crfrnn.compat.pydensecrf", "scripts/script.py", "photo.jpg", "-m", "5", folder=folder)
        assert ended.stdout == f"{SAID} ['photo.jpg', '-m', '5'] __main__\n", ended.stderr
        assert ended.returncode == 3

    def test_a_module_and_a_program(self, folder):
        ended = run("-m", "crfrnn.compat.pydensecrf", "-m", "whole", "--fast", folder=folder)
        assert ended.stdout == f"{SAID} ['--fast'] __main__\n", ended.stderr
        ended = run("-m", "crfrnn.compat.pydensecrf", "-c", PROGRAM, "a", folder=folder)
        assert ended.stdout == f"{SAID} ['a'] __main__\n", ended.stderr

    def test_errors_are_the_programs_own(self, folder):
        ended = run("-m", "crfrnn.compat.pydensecrf", "scripts/failing.py", folder=folder)
        assert ended.returncode == 1
        assert "KeyError: 'lost'" in ended.stderr
        assert 'failing.py", line 2, in work' in ended.stderr

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "expected a script, -m MODULE or -c PROGRAM"),
            (["-x"], "not '-x'"),
            (["-m"], "not '-m'"),
            (["lost.py"], "cannot run lost.py: there is no such file"),
        ],
    )
    def test_nothing_to_run(self, folder, arguments, said):
        ended = run("-m", "crfrnn.compat.pydensecrf", *arguments, folder=folder)
        assert ended.returncode == 1
        assert said in ended.stderr

    def test_help(self, folder):
        ended = run("-m", "crfrnn.compat.pydensecrf", "--help", folder=folder)
        assert ended.stdout.startswith("usage: python -m crfrnn.compat.pydensecrf")
        assert ended.returncode == 0


def test_the_second_distribution(tmp_path):
    """Built and installed into a folder of its own, it is found by name and by its metadata, in spawned workers too."""
    pytest.importorskip("setuptools", minversion="77", reason="builds with setuptools")
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(ROOT / "packaging" / "pydensecrf-crfrnn", source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    built = run("-m", "pip", "install", *options, "--target", str(target), str(source), folder=tmp_path)
    if "No module named pip" in built.stderr:
        pytest.skip("needs pip")
    assert built.returncode == 0, built.stderr
    (tmp_path / "third_party.py").write_text(
        f"import importlib.metadata, multiprocessing\n{PROGRAM}\n"
        "if __name__ == '__main__':\n"
        "    print(importlib.metadata.version('pydensecrf'))\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply(unary_from_labels, (np.array([0, 1]), 2, 0.7)).shape)\n"
    )
    path = os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])
    ended = run("third_party.py", folder=tmp_path, PYTHONPATH=path)
    assert [SAID in ended.stdout, "1.0+crfrnn\n" in ended.stdout, "(2, 2)\n" in ended.stdout] == [True] * 3, (
        ended.stderr
    )
