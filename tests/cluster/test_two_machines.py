"""`crfrnn train` in two processes that find each other as two machines do, by the addresses of the loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("lightning", reason="needs the train extra")
from crfrnn.models import NETWORKS, load_model  # noqa: E402
from crfrnn.training import TrainingConfig, config_from, read_settings, write_config  # noqa: E402
from toy_data import CLASSES, write_toy_data  # noqa: E402
from toy_network import Toy, mean_iou  # noqa: E402

pytestmark = pytest.mark.torch

TRAIN = """
import sys
from crfrnn.cli import main
from crfrnn.kernels.lattice import PermutohedralLattice
from crfrnn.models import NETWORKS
from toy_network import Toy

NETWORKS["Toy"] = Toy
points, made = [], PermutohedralLattice.of_rows

def counted(rows, *more):
    points.append(len(rows))
    return made(rows, *more)

PermutohedralLattice.of_rows = counted
status = main(["train", *sys.argv[1:]])
print("points of lattices:", sum(points), file=sys.stderr)
sys.exit(status)
"""
HOSTS = ("127.0.0.1", "127.0.0.2")


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    """Eight photos to train on and four to validate, which two processes share evenly."""
    return TrainingConfig(
        data=str(write_toy_data(tmp_path / "data", 8, 4)),
        output=str(tmp_path / "run"),
        classes=str(CLASSES),
        network="Toy",
        init=None,
        crop=(16, 16),
        batch_size=2,
        network_epochs=2,
        crf_epochs=1,
        network_rate=0.05,
        crf_network_rate=0.01,
        theta_alpha=10,
        theta_beta=50,
        accelerator="cpu",
        threads=1,
    )


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def trained(config: TrainingConfig, *options: list[str]) -> list[subprocess.CompletedProcess]:
    """The processes that trained, one for each list of options."""
    path = Path(config.output).parent / "config.yaml"
    write_config(path, config)
    support = Path(__file__).parents[1] / "support"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(support)]),
    }
    command = [sys.executable, "-c", TRAIN, str(path)]
    started = [
        subprocess.Popen([*command, *each], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for each in options
    ]
    printed = [process.communicate(timeout=1200) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *each)
        for process, each in zip(started, printed, strict=True)
    ]


def on_two_machines(config: TrainingConfig) -> list[subprocess.CompletedProcess]:
    port = free_port()
    return trained(
        config,
        *(["--nodes", "2", "--node-rank", str(rank), "--main-address", f"{HOSTS[rank]}:{port}"] for rank in (0, 1)),
    )


def points_of(done: subprocess.CompletedProcess) -> int:
    return int(done.stderr.split("points of lattices: ")[1].split()[0])


def test_two_machines_share_the_work(config: TrainingConfig, monkeypatch) -> None:
    """One of them writes and prints, gradients are those of both, and each builds the lattices of its own photos."""
    first, second = on_two_machines(config)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    output = Path(config.output)
    monkeypatch.setitem(NETWORKS, "Toy", Toy)
    results = json.loads((output / "training.json").read_text())
    model = load_model(output / "model.safetensors")
    assert mean_iou(model, Path(config.data)) == pytest.approx(results["crf"]["val_miou"], abs=1e-6)
    assert first.stdout.count("crf, epoch 1 of 1: loss") == 1
    assert second.stdout == ""
    assert config_from(read_settings(output / "config.yaml")).nodes == 2

    (alone,) = trained(replace(config, output=config.output + "-alone"), [])
    assert points_of(first) + points_of(second) == points_of(alone)
    assert 0.4 < points_of(first) / points_of(alone) < 0.6


def test_a_run_goes_on_with_another_number_of_machines(config: TrainingConfig) -> None:
    """From one process to two in mid-run, and it says what changes; a changed setting still ends it."""
    (begun,) = trained(replace(config, crf_epochs=0), [])
    assert begun.returncode == 0
    output = Path(config.output)
    (output / "training.json").unlink()  # as if it had ended before this was written
    last = torch.load(output / "network" / "last.ckpt", weights_only=True)
    assert last["lr_schedulers"][0]["last_epoch"] == 8
    config = replace(config, network_epochs=4)
    settings = replace(config, crf_epochs=0)
    write_config(output / "config.yaml", settings)
    first, second = on_two_machines(settings)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    words = "going on with 2 processes instead of 1: a step takes 4 photos instead of 2"
    assert first.stderr.count(words) == 1
    assert words not in second.stderr
    assert "network, epoch 3 of 4: loss" in first.stdout
    assert "network, epoch 2 of 4" not in first.stdout
    last = torch.load(output / "network" / "last.ckpt", weights_only=True)
    assert last["lr_schedulers"][0]["last_epoch"] == 4 * 2  # steps of an epoch are half as many
    assert last["global_step"] == 8 + 2 * 2
    (changed,) = trained(replace(settings, batch_size=1), [])
    assert changed.returncode == 1
    assert "batch_size was 2, now 1" in changed.stderr


def test_a_machine_that_waits_for_others_can_be_ended(config: TrainingConfig) -> None:
    path = Path(config.output).parent / "config.yaml"
    write_config(path, config)
    options = ["--nodes", "2", "--node-rank", "1", "--main-address", f"127.0.0.1:{free_port()}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "crfrnn", "train", str(path), "--network", "FcnLite", *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    while "waiting for 2 machines to meet at 127.0.0.1:" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGTERM)
    assert "interrupted before the machines have met" in process.communicate(timeout=1200)[1]
    assert process.returncode == 128 + signal.SIGTERM


def test_machines_that_do_not_begin_at_the_same_place(config: TrainingConfig) -> None:
    """As with folders that are not shared: an error on both, where each would wait for the other."""
    config = replace(config, crf_epochs=0)
    port = free_port()
    other = ["--output", config.output + "-other"]
    first, second = trained(
        config,
        ["--nodes", "2", "--node-rank", "0", "--main-address", f"{HOSTS[0]}:{port}"],
        ["--nodes", "2", "--node-rank", "1", "--main-address", f"{HOSTS[1]}:{port}", *other],
    )
    assert (first.returncode, second.returncode) == (1, 1)
    assert "settings differ from those of the first: output" in second.stderr


def test_a_machine_that_is_killed(config: TrainingConfig) -> None:
    """The other one ends, and says how to go on."""
    path = Path(config.output).parent / "config.yaml"
    write_config(path, replace(config, network="FcnLite", network_epochs=1000))
    command, port = [sys.executable, "-m", "crfrnn", "train", str(path), "--nodes", "2"], free_port()
    first, second = (
        subprocess.Popen(
            [*command, "--node-rank", str(rank), "--main-address", f"{HOSTS[rank]}:{port}"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    )
    while "network, epoch 1 " not in (line := first.stdout.readline()):
        assert line
    second.kill()
    said = first.communicate(timeout=1200)[1]
    second.communicate()
    assert first.returncode == 1
    assert "or one of them has ended: " in said
    assert "Start all of them again with the same settings: training goes on" in said
    assert "GLHF" not in said
