"""What says which of several machines this is, and what happens to a checkpoint of another number of processes."""

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("lightning", reason="needs the train extra")
from lightning.pytorch.utilities import rank_zero_only  # noqa: E402

from crfrnn.training import TrainingConfig  # noqa: E402
from crfrnn.training.machines import join, launched, ranks  # noqa: E402
from errors import raises_saying  # noqa: E402

pytestmark = pytest.mark.torch

PLACES = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    for name in PLACES:
        monkeypatch.setenv(name, "")  # to be restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(rank_zero_only, "rank", 0)


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    return TrainingConfig(data="data", output=str(tmp_path), nodes=3, devices=2)


def test_options_say_which_machine_it_is(config):
    assert ranks(config) == 6
    join(config, 2, "10.0.0.1:1234")
    assert (os.environ["NODE_RANK"], os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("2", "10.0.0.1", "1234")
    assert rank_zero_only.rank == 4
    join(config, 0, "[::1]:1234")
    assert os.environ["MASTER_ADDR"] == "::1"
    assert rank_zero_only.rank == 0


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ((None, None), ["nodes=3", "--node-rank", "--main-address HOST:PORT", "torchrun"]),
        ((1, None), ["--main-address"]),
        ((3, "a:1"), ["--node-rank 3", "0 to 2"]),
        ((-1, "a:1"), ["--node-rank -1", "0 to 2"]),
        ((0, "10.0.0.1"), ["--main-address 10.0.0.1", "HOST:PORT"]),
    ],
)
def test_machines_that_are_not_told_apart(config, given, facts):
    with raises_saying(ValueError, *facts):
        join(config, *given)


def test_one_machine_needs_no_address(config):
    alone = TrainingConfig(data="data", output=config.output)
    join(alone)
    with raises_saying(ValueError, "--nodes"):
        join(alone, 1, "a:1")


def test_torchrun_and_slurm_say_how_many(config, monkeypatch):
    assert launched(config) == config
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert (launched(config).nodes, launched(config).devices) == (2, 4)
    with raises_saying(ValueError, "leave out --node-rank"):
        join(config, 1, None)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    for name, value in (("SLURM_NTASKS", "6"), ("SLURM_NNODES", "3"), ("SLURM_JOB_NAME", "train")):
        monkeypatch.setenv(name, value)
    assert (launched(config).nodes, launched(config).devices) == (3, 2)
