"""Files of volumes for the tests, and the command on them."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from crfrnn.cli import main
from crfrnn.parameters import CRFParameters

nibabel = pytest.importorskip("nibabel")

SHAPE = (6, 9, 11)
"""(Z, Y, X); in a NIfTI file it is turned round."""
ZOOMS = (0.5, 0.75, 3.0)
SHORT = CRFParameters(theta_alpha=4, theta_beta=20, theta_gamma=1.5, iterations=3)
OPTIONS = "--preset crfrnn --theta-alpha 4 --theta-beta 20 --theta-gamma 1.5 --iterations 3"
# Oblique, off the origin.
AFFINE = np.array([[0.5, 0.1, 0, -7], [-0.05, 0.75, 0.2, 11], [0, 0, 3, 2.5], [0, 0, 0, 1.0]])


def two_halves(rng):
    """(Z, Y, X) with noise, int16 as MRI is stored."""
    return (100 + 80 * (np.arange(SHAPE[2]) > 5) + rng.normal(0, 8, SHAPE)).astype(np.int16)


def save(name, voxels, affine=AFFINE, zooms=None, unit="mm", kind=nibabel.Nifti1Image):
    """Write (Z, Y, X) or (C, Z, Y, X) voxels."""
    volume = kind(voxels.T, affine)
    volume.header.set_xyzt_units(unit)
    if zooms is not None:
        volume.header.set_zooms(zooms + (1.0,) * (voxels.ndim - 3))
    nibabel.save(volume, name)


def load(name):
    """The voxels of a file as (Z, Y, X) or (C, Z, Y, X), and nibabel's image of it."""
    volume = nibabel.load(name)
    return np.asarray(volume.dataobj).T, volume


def run(command: str) -> int:
    try:
        return main(shlex.split(f"refine {command} {OPTIONS}"))
    except SystemExit as end:
        return int(end.code)


def failure(command: str, capsys, *facts: str, status: int = 1) -> None:
    """The command fails with that status and one line that holds the facts, and writes nothing."""
    before = sorted(Path().iterdir())
    capsys.readouterr()
    assert run(command) == status
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    missing = [fact for fact in facts if fact not in said]
    assert not missing, f"{missing} not said in: {said}"
    assert sorted(Path().iterdir()) == before
