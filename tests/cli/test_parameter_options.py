"""Parameters given on the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import crfrnn
from crfrnn.cli.parameter_options import HELP, add_parameter_options, chosen_parameters
from crfrnn.cli.usage import UsageError
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
        f"--bilateral-weight 1,2 --compatibility {tmp_path / 'matrix.npy'}".split()
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
    )
    assert parsed([]) == crfrnn.preset("crfrnn")


def test_wrong_parameters_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="theta_alpha"):
        parsed(["--theta-alpha=-3"])
