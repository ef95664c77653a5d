"""`train`: both stages, interrupted anywhere and resumed, crashed, repeated, in two processes, and wrongly called."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("lightning", reason="needs the train extra")
pytest.importorskip("kornia", reason="needs the train extra")
from crfrnn.cli.main import main  # noqa: E402
from crfrnn.files.classes import class_set  # noqa: E402
from crfrnn.files.progress import Bar, Display, shown_on  # noqa: E402
from crfrnn.models import NETWORKS, Segmenter, load_model, save_model  # noqa: E402
from crfrnn.training import TrainingConfig, config_from, read_settings, write_config  # noqa: E402
from crfrnn.training.task import SegmentationTask  # noqa: E402
from crfrnn.training.train import train  # noqa: E402
from errors import raises_saying  # noqa: E402
from toy_data import CLASSES, write_toy_data  # noqa: E402
from toy_network import Toy, mean_iou  # noqa: E402

pytestmark = pytest.mark.torch

EPOCHS, STEPS = 2, 3
"""Of each stage, and of each epoch: 7 photos in batches of 2, the last one left out."""


@pytest.fixture(autouse=True)
def toy_network(monkeypatch):
    monkeypatch.setitem(NETWORKS, "Toy", Toy)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(data, tmp_path):
    return TrainingConfig(
        data=str(data),
        output=str(tmp_path / "run"),
        classes=str(CLASSES),
        network="Toy",
        init=None,
        crop=(16, 16),
        batch_size=2,
        network_epochs=EPOCHS,
        crf_epochs=EPOCHS,
        network_rate=0.05,
        crf_network_rate=0.01,
        crf_weight_rate=0.1,
        theta_alpha=10,
        theta_beta=50,
        accelerator="cpu",
        threads=1,
    )


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """The result of a run that nothing happens to, and the bytes of its model."""
    kept = {}

    def result_of(config):
        if not kept:
            result = train(replace(config, output=str(tmp_path_factory.mktemp("undisturbed"))))
            kept["run"] = result.stages, result.model.read_bytes()
        return kept["run"]

    return result_of


class CrashError(Exception):
    pass


@contextmanager
def at(kind, number, action):
    """Do something in the step of this kind and number, counted from 1; yields the list of steps."""
    name = f"{kind}_step"
    original = getattr(SegmentationTask, name)
    steps = []

    def step(task, batch):
        steps.append(task.global_step)
        if len(steps) == number:
            action()
        return original(task, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentationTask, name, step)
        yield steps


def ask_to_stop(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def crash():
    raise CrashError


def test_both_stages(config, data, capsys):
    result = train(config)
    output = Path(config.output)
    assert result.model == output / "model.safetensors"
    assert list(result.stages) == ["network", "crf"]
    model = load_model(result.model)
    assert model.classes.num_classes == CLASSES
    assert model.segmenter.crf.num_iterations == config.test_iterations
    assert model.segmenter.crf.crf.kernels[1].features.theta_beta == 50
    assert mean_iou(model, data) == pytest.approx(result.stages["crf"].val_miou, abs=1e-6)
    assert result.stages["crf"].val_miou > 0.4
    assert "crf" in " ".join(model.notes)
    assert config_from(read_settings(output / "config.yaml")) == config
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [
        f"{stage}, epoch {epoch} of 2" for stage in ("network", "crf") for epoch in (1, 2)
    ]
    for stage in ("network", "crf"):
        assert any((output / "logs" / stage).rglob("events.out.tfevents*"))
        table = (output / "logs" / stage / "version_0" / "metrics.csv").read_text()
        assert "val_miou" in table
        assert "train_loss" in table


def test_learned_thetas_are_those_of_the_finished_model(config, tmp_path, capsys):
    result = train(replace(config, learn_theta=True, network_epochs=1, crf_epochs=1, theta_rate=0.1))
    crf = load_model(result.model).segmenter.crf
    assert crf.theta_beta > 0
    assert crf.theta_beta != pytest.approx(50, rel=1e-3)
    assert crf.crf.thetas["theta_beta"] == crf.theta_beta
    network, refined = capsys.readouterr().out.splitlines()
    assert "theta" not in network
    assert f"theta_alpha {crf.theta_alpha:.4g}, theta_beta {crf.theta_beta:.4g}, theta_gamma" in refined
    table = (result.model.parent / "logs" / "crf" / "version_0" / "metrics.csv").read_text()
    assert "theta_beta" in table.splitlines()[0]
    again = load_model(save_again(result.model, tmp_path)).segmenter.crf
    assert again.crf == crf.crf


def test_finished_runs_are_not_done_again(config):
    first = train(config)
    with at("training", 0, crash) as steps:
        assert train(config) == first
    assert not steps


def test_same_seed_same_bits(config, undisturbed):
    stages, model = undisturbed(config)
    again = train(config)
    assert again.stages == stages
    assert again.model.read_bytes() == model
    other = train(replace(config, seed=1, output=config.output + "-other"))
    assert other.model.read_bytes() != model


@pytest.mark.parametrize("step", [1, STEPS, STEPS + 2, 2 * STEPS, 2 * STEPS + 1, 3 * STEPS + 1])
def test_interrupted_by_the_user_and_resumed(config, undisturbed, step, capsys):
    """Ctrl-C in any step of any epoch and stage: no step is lost, none done twice, the result is the same bits."""
    with at("training", step, ask_to_stop) as before, pytest.raises(KeyboardInterrupt):
        train(config)
    assert len(before) == step
    assert "stopping where training can go on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with at("training", 0, crash) as after:
        result = train(config)
    assert len(before) + len(after) == 2 * EPOCHS * STEPS
    assert (result.stages, result.model.read_bytes()) == undisturbed(config)


def test_asked_twice_stops_at_once(config, undisturbed):
    """Without saving: it goes on from the last epoch that ended."""

    def ask_twice():
        ask_to_stop()
        ask_to_stop()

    with at("training", STEPS + 2, ask_twice), pytest.raises(KeyboardInterrupt):
        train(config)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with at("training", 0, crash) as after:
        result = train(config)
    assert len(after) == (2 * EPOCHS - 1) * STEPS
    assert (result.stages, result.model.read_bytes()) == undisturbed(config)


def test_interrupted_again_and_again_while_workers_read_ahead(config):
    """SIGTERM after every step but the last of an epoch, which the epoch's end includes."""
    config = replace(config, workers=2, crf_epochs=1, network_epochs=1)
    expected = train(replace(config, workers=0, output=config.output + "-expected"))
    steps, result = 0, None
    while result is None:
        with at("training", 1, lambda: ask_to_stop(signal.SIGTERM)) as done, suppress(KeyboardInterrupt):
            result = train(config)
        steps += len(done)
        assert steps <= 2 * STEPS
    assert result.model.read_bytes() == expected.model.read_bytes()


def test_interrupted_in_validation(config, undisturbed):
    with at("validation", 2, ask_to_stop), pytest.raises(KeyboardInterrupt):
        train(config)
    with at("training", 0, crash) as after:
        result = train(config)
    assert len(after) == (2 * EPOCHS - 1) * STEPS
    assert (result.stages, result.model.read_bytes()) == undisturbed(config)


@pytest.mark.parametrize(("kind", "step"), [("training", 2), ("training", STEPS + 2), ("validation", 4)])
def test_crashed_and_resumed(config, undisturbed, kind, step):
    """Nothing can be saved in a crash: the last epoch that ended is where it goes on."""
    with at(kind, step, crash), pytest.raises(CrashError):
        train(config)
    result = train(config)
    assert (result.stages, result.model.read_bytes()) == undisturbed(config)


def test_crash_while_a_checkpoint_is_written_leaves_the_one_before(config, undisturbed, monkeypatch):
    """As if the disk were full in the second epoch: half of the new file is written, the old one stays whole."""
    save, saved = torch.save, []

    def half(checkpoint, handle):
        save(checkpoint, handle)
        saved.append(checkpoint["epoch"])
        if checkpoint["epoch"] == 1:
            handle.truncate(200)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with raises_saying(OSError, "best.ckpt", "No space left"):
        train(config)
    monkeypatch.undo()
    monkeypatch.setitem(NETWORKS, "Toy", Toy)
    folder = Path(config.output) / "network"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert all(torch.load(path, weights_only=True)["epoch"] == 0 for path in folder.iterdir())
    result = train(config)
    assert (result.stages, result.model.read_bytes()) == undisturbed(config)


def test_logs_of_before_the_interruption_stay(config):
    with at("training", STEPS + 2, ask_to_stop), pytest.raises(KeyboardInterrupt):
        train(replace(config, crf_epochs=0))
    train(replace(config, crf_epochs=0))
    tables = sorted((Path(config.output) / "logs" / "network").glob("*/metrics.csv"))
    epochs = [line.split(",")[0] for path in tables for line in path.read_text().splitlines()[1:]]
    assert len(tables) == 2
    assert set(epochs) == {"0", "1"}


def test_early_stop_keeps_the_best_epoch(config, data, monkeypatch):
    """The second epoch is the best of those whose mean IoU is set here, and two later ones without gain end the run."""
    given = iter([0.3, 0.5, 0.4, 0.45, 0.9])
    weights = []

    def step(task, batch):
        if not hasattr(task, "seen") or task.seen != task.current_epoch:
            task.seen, task.value = task.current_epoch, next(given)
            weights.append(task.segmenter.network.layers[0].weight.clone())
        task.log("val_miou", task.value)
        task.log("val_loss", 0.0)

    monkeypatch.setattr(SegmentationTask, "validation_step", step)
    result = train(replace(config, network_epochs=9, crf_epochs=0, patience=2))
    assert result.stages["network"].epoch == 2
    assert result.stages["network"].val_miou == pytest.approx(0.5)
    assert len(weights) == 4
    kept = load_model(result.model).segmenter
    assert kept.crf is None
    assert torch.equal(kept.network.layers[0].weight, weights[1])
    (Path(config.output) / "training.json").unlink()  # as if it had ended before it could tell
    with at("training", 0, crash) as steps:
        assert train(replace(config, network_epochs=9, crf_epochs=0, patience=2)) == result
    assert not steps


def save_again(path, folder):
    """The file that a model read from a file makes."""
    model = load_model(path)
    save_model(folder / "again.safetensors", model.segmenter, model.classes)
    return folder / "again.safetensors"


def trained_model(path, network="Toy", classes=CLASSES):
    torch.manual_seed(3)
    made = NETWORKS[network](num_classes=classes)
    save_model(path, Segmenter(made, None), class_set(classes))
    return made


def test_stage_2_alone_starts_from_a_trained_network(config, tmp_path):
    made = trained_model(tmp_path / "trained.safetensors")
    config = replace(
        config, init=str(tmp_path / "trained.safetensors"), network_epochs=0, freeze_network=True, crf_weights="scalar",
        learn_compatibility=False,
    )  # fmt: skip
    result = train(config)
    assert list(result.stages) == ["crf"]
    segmenter = load_model(result.model).segmenter
    assert all(torch.equal(made.state_dict()[name], tensor) for name, tensor in segmenter.network.state_dict().items())
    assert segmenter.crf.compatibility_matrix.item() == -1
    assert segmenter.crf.bilateral_ker_weights.ndim == 0
    assert segmenter.crf.bilateral_ker_weights.item() != config.bilateral_weight


def test_sgd_balanced_classes_and_mixed_precision(config):
    config = replace(config, optimizer="sgd", class_weights="balanced", precision="bf16-mixed", crf_epochs=1)
    config = replace(config, crf_network_rate=1e-4, crf_weight_rate=1e-3, bilateral_weight=1, spatial_weight=1)
    assert train(config).stages["crf"].val_miou > 0.2


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"network": "Unet"}, ["'Unet'", "FcnLite"]),
        ({"init": "imagenet"}, ["ImageNet", "Toy", "init"]),
        ({"init": "nowhere.safetensors"}, ["nowhere.safetensors"]),
        ({"val_split": "test"}, ["'test'", "train, val"]),
        ({"classes": "2"}, ["photo 0.png", "holds 2", "0 to 1"]),
        ({"network_rate": 1e30, "optimizer": "sgd"}, ["loss is", "learning rates"]),
    ],
)
def test_what_cannot_be_trained(config, changes, facts):
    with raises_saying(ValueError, *facts):
        train(replace(config, **changes))


def test_settings_can_be_corrected_until_training_begins(config):
    with pytest.raises(ValueError, match="ImageNet"):
        train(replace(config, init="imagenet"))
    assert train(replace(config, crf_epochs=0, network_epochs=1)).stages


def test_initial_weights_must_fit(config, tmp_path):
    path = str(tmp_path / "other.safetensors")
    trained_model(path, classes=5)
    with raises_saying(ValueError, path, "other classes", "5", str(CLASSES)):
        train(replace(config, init=path))
    trained_model(path, network="FcnLite")
    with raises_saying(ValueError, path, "FcnLite", "'Toy'"):
        train(replace(config, init=path))


def test_other_settings_need_another_folder(config):
    with at("training", 2, ask_to_stop), pytest.raises(KeyboardInterrupt):
        train(config)
    with raises_saying(ValueError, config.output, "batch_size was 2, now 3", "another output"):
        train(replace(config, batch_size=3))


def test_damaged_results(config):
    train(replace(config, crf_epochs=0, network_epochs=1))
    config = replace(config, crf_epochs=0, network_epochs=1)
    best = Path(config.output) / "network" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:500])
    with raises_saying(ValueError, "best.ckpt", "damaged"):
        train(config)
    (Path(config.output) / "training.json").write_text("{")
    with raises_saying(ValueError, "training.json", "cannot read"):
        train(config)


def test_command(config, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    write_config(path, replace(config, crf_epochs=0, network_epochs=5))
    assert main(["train", str(path), "--network-epochs", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("network, epoch 1 of 1: loss ")
    assert printed[-1] == f"{config.output}/model.safetensors"
    assert printed[-3].split() == ["best", "epoch", "mean", "IoU", "on", "val"]
    assert printed[-2].split()[:2] == ["network", "1"]
    assert main(["train", str(path), "--batch-size", "none"]) == 1
    assert "batch_size='none' must be an integer" in capsys.readouterr().err
    with at("training", 1, ask_to_stop):
        assert main(["train", str(path), "-o", str(tmp_path / "other")]) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "stopping where training can go on later; another Ctrl-C stops at once"
    assert said[-1] == (
        f"crfrnn train: interrupted: {tmp_path / 'other'} has everything up to network, epoch 1 of 5, "
        f"step 1 of {STEPS}; "
        "with the same settings, training goes on from there"
    )


@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--nproc-per-node", "2"]])
def test_two_processes(config, data, tmp_path, launcher):
    """They agree on the gradients, share the three photos of the validation, and one of them writes."""
    path = tmp_path / "config.yaml"
    write_config(path, replace(config, network="FcnLite", network_epochs=1, crf_epochs=1, devices=2, crop=(33, 33)))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "crfrnn", "train", str(path)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "oneDNN" not in done.stderr
    results = json.loads((Path(config.output) / "training.json").read_text())
    assert mean_iou(load_model(Path(config.output) / "model.safetensors"), data) == pytest.approx(
        results["crf"]["val_miou"], abs=1e-6
    )
    for line in ("crf, epoch 1 of 1: loss", "best epoch", "model.safetensors"):
        assert done.stdout.count(line) == 1
    assert [path.name for path in (Path(config.output) / "logs" / "crf").iterdir()] == ["version_0"]


@pytest.mark.parametrize("supervision", ["clicks", "scribbles"])
def test_sparse_labels(config, data, tmp_path, supervision):
    """The training photos need no other labels; a CRF loss goes with them, and a CRF-RNN after."""
    root = tmp_path / "sparse"
    shutil.copytree(data, root)
    clicks = {}
    (root / "scribbles").mkdir()
    for path in map(Path, sorted((root / "labels").iterdir())):
        if f"{path.stem}\n" not in (root / "train.txt").read_text():
            continue
        labels = np.array(Image.open(path))
        places = [np.argwhere(labels == label)[40] for label in range(CLASSES)]
        clicks[path.stem] = [[int(x), int(y), label] for label, (y, x) in enumerate(places)]
        scribbles = np.full_like(labels, 255)
        for label, (y, x) in enumerate(places):
            scribbles[y - 1 : y + 2, x - 1 : x + 2] = label
        Image.fromarray(scribbles).save(root / "scribbles" / path.name)
        path.unlink()
    (root / "clicks.json").write_text(json.dumps(clicks))
    sparse = {"supervision": supervision, "crf_loss": "gated", "crf_loss_weight": 0.1, "click_radius": 1}
    if supervision == "scribbles":  # by name, inside the data
        sparse["annotations"] = (root / "scribbles").rename(root / "strokes").name
    result = train(replace(config, data=str(root), network_epochs=6, **sparse))
    assert result.stages["crf"].val_miou > 0.4
    with raises_saying(ValueError, "without a label image"):
        train(replace(config, data=str(root), output=config.output + "-full"))


def test_a_bar_for_each_epoch_and_its_validation(config):
    class Recorded(Bar):
        def reach(self, done, words=""):
            seen[-1][1].append((done, words))

    class Recorder(Display):
        def bar(self, total, description):
            seen.append(((description, total), []))
            return Recorded()

    seen: list[tuple] = []
    with shown_on(Recorder()):
        train(replace(config, network_epochs=2, crf_epochs=0))
    begun = dict(seen)
    names = [f"network, epoch {epoch} of 2{part}" for epoch in (1, 2) for part in ("", ", validation")]
    assert [name for (name, _) in begun if name in names] == names
    steps = [reached for (name, total), reached in seen if name == names[2] and total == STEPS][-1]
    assert [done for done, _ in steps] == list(range(1, STEPS + 1))
    assert re.fullmatch(r"loss \d\.\d{4}, mean IoU 0\.\d{4} after epoch 1", steps[-1][1])
