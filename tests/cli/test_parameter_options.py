"""Parameters given on the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest

import crfrnn
from crfrnn import crf as crf_module
from crfrnn.cli.parameter_options import HELP, add_parameter_options, chosen_parameters
from crfrnn.cli.usage import UsageError
from crfrnn.crf import CRF, FrankWolfe, Kernel, MeanField, Spatial
from crfrnn.parameters import CRFParameters


def test_every_parameter_is_an_option() -> None:
    assert list(HELP) == [field.name for field in fields(CRFParameters)]


def parsed(arguments: Sequence[str]) -> CRFParameters:
    parser = argparse.ArgumentParser()
    add_parameter_options(parser)
    return chosen_parameters(parser.parse_args(arguments))


def test_options_replace_values_of_the_preset(tmp_path: Path) -> None:
    np.save(tmp_path / "matrix.npy", np.eye(2))
    parameters = parsed(
        f"--preset deeplab --theta-alpha 40,20 --theta-beta 7 --iterations 2 --spatial lattice --damping 0.5 "
        f"--tolerance 0.01 --bilateral-weight 1,2 --compatibility {tmp_path / 'matrix.npy'}".split()
    )
    assert parameters == CRFParameters(
        theta_alpha=(40, 20),
        theta_beta=7,
        theta_gamma=1,
        spatial_weight=3,
        bilateral_weight=(1, 2),
        compatibility=((1, 0), (0, 1)),
        normalization="symmetric",
        iterations=2,
        spatial="lattice",
        damping=0.5,
        tolerance=0.01,
    )
    assert parsed([]) == crfrnn.preset("photos")


def test_an_option_that_a_solver_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crf_module, "_SOLVERS", (MeanField, Plain))
    monkeypatch.setitem(crf_module._TYPES, "Plain", Plain)
    crfrnn.save_parameters(tmp_path / "crf.json", CRF([Kernel(Spatial(3))], solver=Plain(7)))
    file = ["--parameters", str(tmp_path / "crf.json")]
    assert parsed([*file, "--iterations", "2"]).solver == Plain(2)
    with pytest.raises(UsageError, match="--damping: this solver has no damping"):
        parsed([*file, "--damping", "0.5"])
    with pytest.raises(UsageError, match="--theta-beta is for a spatial and a bilateral kernel"):
        parsed([*file, "--theta-beta", "5"])


def test_a_solver_for_two_kernels() -> None:
    parameters = parsed(
        ["--solver", "frank-wolfe", "--regularization", "euclidean", "--strength", "5", "--iterations", "20"]
    )
    assert parameters == replace(
        crfrnn.preset("photos"),
        solver="frank-wolfe",
        regularization="euclidean",
        strength=5,
        iterations=20,
        tolerance=1e-3,
    )
    assert parameters.crf.solver == FrankWolfe(20, "euclidean", 5.0)
    assert parsed(["--solver", "mean-field"]) == crfrnn.preset("photos")
    for options, error in (
        (["--solver", "newton"], r"solver='newton' is unknown; use 'mean-field', 'frank-wolfe'"),
        (["--solver", "frank-wolfe", "--damping", "0.5"], r"damping=0\.5, but solver='frank-wolfe' has no damping"),
        (["--strength", "3"], r"strength=3\.0, but solver='mean-field' has no strength: set it to 1\.0"),
        (["--solver", "frank-wolfe", "--strength", "1,2"], r"strength has shape \(2,\)"),
        (["--solver", "frank-wolfe", "--step", "2"], r"step='2' is unknown"),
    ):
        with pytest.raises(UsageError, match=error):
            parsed(options)


def test_a_solver_for_the_kernels_of_a_file(tmp_path: Path) -> None:
    """Numbers that both solvers have stay those of the file."""
    crfrnn.save_parameters(tmp_path / "crf.json", CRF([Kernel(Spatial(3))], solver=MeanField(7, 0.5, tolerance=0.25)))
    file = ["--parameters", str(tmp_path / "crf.json")]
    assert parsed([*file, "--solver", "frank-wolfe"]).solver == FrankWolfe(7, tolerance=0.25)
    assert parsed([*file, "--solver", "mean-field"]).solver == MeanField(7, 0.5, tolerance=0.25)
    assert parsed([*file, "--solver", "frank-wolfe", "--strength", "2"]).solver == FrankWolfe(
        7, strength=2, tolerance=0.25
    )
    with pytest.raises(UsageError, match="--strength: this solver has no strength"):
        parsed([*file, "--strength", "2"])
    with pytest.raises(UsageError, match="solver='newton' is unknown"):
        parsed([*file, "--solver", "newton"])


@dataclass(frozen=True)
class Plain:
    """A solver without any number but its iterations."""

    iterations: int = 10


def test_wrong_parameters_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="theta_alpha"):
        parsed(["--theta-alpha=-3"])
    with pytest.raises(UsageError, match=r"tolerance=1\.0 must be at least 0 and below 1"):
        parsed(["--tolerance", "1"])
