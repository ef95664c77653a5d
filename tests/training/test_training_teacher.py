"""`crfrnn train --teacher`: what the loss compares, photos without labels or scores, and wrong folders."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("lightning", reason="needs the train extra")
pytest.importorskip("kornia", reason="needs the train extra")
from crfrnn.cli.main import main  # noqa: E402
from crfrnn.data.annotations import Clicks, Scribbles  # noqa: E402
from crfrnn.data.augmentation import Augmentation  # noqa: E402
from crfrnn.data.batches import Draw, Examples, collate, example  # noqa: E402
from crfrnn.data.cells import CELL, means_of_coarse, means_of_pixels  # noqa: E402
from crfrnn.data.score_files import Teacher  # noqa: E402
from crfrnn.data.segmentation import Sample, SegmentationData  # noqa: E402
from crfrnn.files.classes import class_set  # noqa: E402
from crfrnn.models import NETWORKS, FcnLite, Segmenter, load_model, save_model  # noqa: E402
from crfrnn.torch import CrfRnn  # noqa: E402
from crfrnn.training import TrainingConfig  # noqa: E402
from crfrnn.training.task import SegmentationTask, cross_entropy, distance_to_teacher, log_probabilities  # noqa: E402
from crfrnn.training.train import train  # noqa: E402
from errors import raises_saying  # noqa: E402
from toy_data import CLASSES, toy_sample, write_toy_data  # noqa: E402
from toy_network import Toy, mean_iou  # noqa: E402

pytestmark = pytest.mark.torch

TRAINING = [f"photo {index}" for index in range(7)]


def shares(rng, *shape):
    """Random probabilities (C, h, w)."""
    powers = np.exp(rng.normal(size=shape)).astype(np.float32)
    return powers / powers.sum(axis=0)


def stretched(coarse, size):
    """By PyTorch, with half-pixel centres."""
    return torch.nn.functional.interpolate(torch.from_numpy(coarse)[None], size, mode="bilinear")[0].numpy()


@pytest.mark.parametrize(("stored", "size"), [((5, 7), (24, 40)), ((3, 2), (19, 21)), ((1, 1), (9, 8))])
def test_coarse_probabilities_on_cells(rng, stored, size):
    """A mirrored part with padding around the photo, against the stretched map itself."""
    coarse = shares(rng, CLASSES, *stored)
    rows = torch.tensor([-1, -1, *range(size[0])])
    columns = torch.tensor([*reversed(range(size[1])), -1])
    found = means_of_coarse(torch.from_numpy(coarse), size, rows, columns).numpy()
    fine = np.full((CLASSES, len(rows), len(columns)), np.nan, np.float32)
    fine[:, 2:, :-1] = stretched(coarse, size)[..., ::-1]
    for row, column in np.ndindex(found.shape[1:]):
        cell = fine[:, CELL * row : CELL * (row + 1), CELL * column : CELL * (column + 1)].reshape(CLASSES, -1)
        known = cell[:, ~np.isnan(cell[0])]
        expected = known.mean(axis=1) if known.size else np.zeros(CLASSES)
        np.testing.assert_allclose(found[:, row, column], expected, atol=1e-5)
    assert found.shape[1:] == (-(-len(rows) // CELL), -(-len(columns) // CELL))


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.9])
def test_teacher_follows_the_photo(scale):
    """A teacher that says what the photo's colours say: they agree on cells, wherever it was cut and mirrored."""
    ramp = np.linspace(0, 1, 64, dtype=np.float32)
    coarse = np.stack([np.tile(ramp, (48, 1)), np.tile(ramp[:48, None], (1, 64)), np.zeros((48, 64), np.float32)])
    coarse[2] = 2 - coarse[0] - coarse[1]
    photo = Image.fromarray(np.uint8(255 * np.moveaxis(coarse / 2, 0, -1))).resize(
        (256, 192), Image.Resampling.BILINEAR
    )
    sample = Sample("ramps", np.asarray(photo), np.zeros((192, 256), np.uint8), coarse / 2)
    augment = Augmentation((100, 140), (scale, scale))
    for seed in range(6):
        image, _, mask, teacher = augment(sample, seed)
        means, counted = means_of_pixels(image[None] / 255, mask[None].float())
        torch.testing.assert_close(teacher * (counted > 0), means[0], atol=0.012, rtol=0)
        assert (teacher.sum(dim=0)[counted[0] > 0] - 1).abs().max() < 1e-4


def test_without_a_teacher_the_same_is_drawn():
    sample, augment = Sample("toy", *toy_sample(0)), Augmentation((16, 16), (0.5, 2), colour=0.3)
    plain = augment(sample, 3)
    taught = augment(replace(sample, teacher=np.ones((CLASSES, 2, 2), np.float32)), 3)
    assert plain.teacher is None
    assert all(torch.equal(one, other) for one, other in zip(plain[:3], taught[:3], strict=True))


def test_photos_that_fill_a_gap_have_no_teacher():
    samples = [Sample("toy", *toy_sample(0), np.ones((CLASSES, 2, 2), np.float32))]
    examples = Examples(samples, Augmentation((16, 16)))
    assert examples[Draw(0, 0, filling=False)].teacher.any()
    assert not examples[Draw(0, 0, filling=True)].teacher.any()


def test_distance(rng):
    """Against its definition in NumPy, with padding, cells that are cut off, and a photo without a teacher."""
    logits = rng.normal(size=(2, CLASSES, 13, 17)).astype(np.float32)
    masks = np.ones((2, 13, 17), np.float32)
    masks[0, :3] = masks[1, :, 9:] = 0
    teacher = np.stack([shares(rng, CLASSES, 2, 3), np.zeros((CLASSES, 2, 3), np.float32)])
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    total = weight = 0.0
    for row, column in np.ndindex(2, 3):
        cell = np.s_[CELL * row : CELL * (row + 1), CELL * column : CELL * (column + 1)]
        counted = masks[0][cell] > 0
        mean, truth = softmax[0][(slice(None), *cell)][:, counted].mean(axis=1), teacher[0, :, row, column]
        total += counted.sum() * (truth * np.log(truth / mean)).sum()
        weight += counted.sum()
    logs = log_probabilities(torch.from_numpy(logits))
    distance = distance_to_teacher(logs, torch.from_numpy(masks), torch.from_numpy(teacher))
    assert distance.item() == pytest.approx(total / weight, rel=1e-4)


def test_the_distance_is_0_where_both_say_the_same_and_where_nothing_is_said(rng):
    logits = torch.from_numpy(rng.normal(size=(1, CLASSES, 16, 16)).astype(np.float32)).requires_grad_()
    masks = torch.ones(1, 16, 16)
    same, _ = means_of_pixels(logits.detach().softmax(dim=1), masks)
    for teacher in (same, torch.zeros_like(same)):
        distance = distance_to_teacher(log_probabilities(logits), masks, teacher)
        distance.backward()
        assert distance.item() == pytest.approx(0, abs=1e-6)
        assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("crf", [False, True])
def test_the_teacher_is_compared_with_the_networks_scores(rng, crf):
    """Beside the cross-entropy of what the CRF-RNN makes of them."""
    config = TrainingConfig(data="a", output="b", classes=str(CLASSES), teacher="c", teacher_weight=0.5)
    layer = CrfRnn(CLASSES, theta_alpha=10, theta_beta=50) if crf else None
    task = SegmentationTask(Segmenter(Toy(CLASSES), layer), config).eval()
    task.log = lambda *_, **__: None
    batch = collate([example(Sample("toy", *toy_sample(0)))])
    batch = batch._replace(teacher=torch.from_numpy(shares(rng, CLASSES, 3, 4))[None])
    logs = log_probabilities(task.segmenter.unary(batch.images))
    distance = distance_to_teacher(logs, batch.masks, batch.teacher)
    expected = cross_entropy(log_probabilities(task(batch)), batch.labels, None) + 0.5 * distance
    assert task.training_step(batch).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run on the toy data, where a teacher knows the first five photos at a quarter of their size."""
    monkeypatch.setitem(NETWORKS, "Toy", Toy)
    threads = torch.get_num_threads()
    data = write_toy_data(tmp_path / "data")
    (data / "scores").mkdir()
    for index, name in enumerate(TRAINING[:5]):
        labels = toy_sample(index)[1]
        labels[0] = labels[1]
        hard = np.eye(CLASSES, dtype=np.float32)[labels].transpose(2, 0, 1) * 0.9 + 0.1 / CLASSES
        size = (labels.shape[1] // 4, labels.shape[0] // 4)
        soft = np.stack([Image.fromarray(plane).resize(size, Image.Resampling.BOX) for plane in hard])
        np.savez(data / "scores" / f"{name}.npz", probabilities=(soft / soft.sum(axis=0)).astype(np.float16))
    yield TrainingConfig(
        data=str(data), output=str(tmp_path / "run"), classes=str(CLASSES), network="Toy", init=None, crop=(16, 16),
        batch_size=2, network_epochs=2, crf_epochs=1, network_rate=0.05, crf_network_rate=0.01, theta_alpha=10,
        theta_beta=50, accelerator="cpu", threads=1, teacher="scores",
    )  # fmt: skip
    torch.set_num_threads(threads)


def without_labels(config, names):
    for name in names:
        (Path(config.data) / "labels" / f"{name}.png").unlink()


def test_a_network_learns_from_the_teacher_alone(config):
    """No training photo has a label image; two have no scores either and are left out of the split."""
    without_labels(config, TRAINING)
    (Path(config.data) / "train.txt").write_text("\n".join(TRAINING[:5]))
    result = train(replace(config, network_epochs=12, crf_epochs=0))
    assert result.stages["network"].val_miou > 0.5
    model = load_model(result.model)
    assert mean_iou(model, config.data) == pytest.approx(result.stages["network"].val_miou, abs=1e-6)
    assert model.notes["teacher"] == "scores"


def test_both_stages_with_workers_and_interrupted(config):
    """Photos with labels alone, scores alone, and both; balanced classes; resumed to the same bits."""
    without_labels(config, TRAINING[:2])
    config = replace(config, class_weights="balanced", crf_loss="gated")
    expected = train(config)
    original, steps = SegmentationTask.training_step, []

    def stop(task, batch):
        steps.append(batch.teacher.shape)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return original(task, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentationTask, "training_step", stop)
        with pytest.raises(BaseException):  # noqa: B017, PT011  (as if the process had been killed)
            train(replace(config, output=config.output + "-again"))
    again = train(replace(config, output=config.output + "-again", workers=1))
    assert set(steps) == {(2, CLASSES, 2, 2)}
    assert again.stages == expected.stages
    assert again.model.read_bytes() == expected.model.read_bytes()


def test_photos_with_neither_labels_nor_scores(config):
    without_labels(config, [TRAINING[1], TRAINING[6]])
    with raises_saying(ValueError, "1 (photo 6) of 7", "neither labels nor scores", "scores"):
        train(config)


def test_clicks_and_scribbles_of_some_photos(config):
    data, classes = Path(config.data), class_set(CLASSES)
    teacher = Teacher(data / "scores")
    (data / "clicks.json").write_text('{"photo 5": [[1, 1, 0]], "photo 6": [[1, 1, 0]]}')
    clicked = SegmentationData(data, "train", classes, annotations=Clicks(data / "clicks.json"), teacher=teacher)
    assert [bool((sample.labels != 255).any()) for sample in clicked] == [False] * 5 + [True] * 2
    assert [bool(sample.teacher.any()) for sample in clicked] == [True] * 5 + [False] * 2
    without_labels(config, TRAINING[:5])
    drawn = SegmentationData(data, "train", classes, annotations=Scribbles(data / "labels"), teacher=teacher)
    assert drawn.pixel_counts().sum() == sum((toy_sample(index)[1] != 255).sum() for index in (5, 6))
    with raises_saying(ValueError, "5 (photo 0", "no clicks"):
        SegmentationData(data, "train", classes, annotations=Clicks(data / "clicks.json"))


@pytest.mark.parametrize(
    ("scores", "input", "expected"),
    [
        ({"logits": np.log([[[0.2]], [[0.3]], [[0.5]]]) + 4}, None, [0.2, 0.3, 0.5]),
        ({"softmax": np.array([[[0.2]], [[0.3]], [[0.5]]])}, None, [0.2, 0.3, 0.5]),
        ({"given": np.array([[[0.2]], [[0.3]], [[0.5]]])}, "probabilities", [0.2, 0.3, 0.5]),
        ({"given": np.array([[[0.0]], [[0.0]], [[np.log(2)]]])}, None, [0.25, 0.25, 0.5]),
    ],
)
def test_probabilities_of_files(tmp_path, scores, input, expected):
    np.savez(tmp_path / "photo.npz", **scores)
    found = Teacher(tmp_path, input).probabilities(tmp_path / "photo.npz", class_set(CLASSES))
    assert found[:, 0, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_one_channel_is_the_second_of_two_classes(tmp_path):
    np.save(tmp_path / "photo.npy", np.full((1, 2, 3), np.log(3)))
    found = Teacher(tmp_path).probabilities(tmp_path / "photo.npy", class_set(2))
    np.testing.assert_allclose(found, np.broadcast_to([[[0.25]], [[0.75]]], (2, 2, 3)), rtol=1e-5)


def spoilt(folder, scores):
    np.save(folder / "photo 0.npy", scores)
    (folder / "photo 0.npz").unlink()


@pytest.mark.parametrize(
    ("spoil", "facts"),
    [
        (lambda folder: folder.rename(folder.parent / "away"), ["scores", "no such folder"]),
        (lambda folder: [path.unlink() for path in folder.iterdir()], ["no scores", "any of the 7", "photo 0.npz"]),
        (lambda folder: spoilt(folder, np.zeros((5, 4, 4))), ["photo 0.npy", "5 classes", "have 3"]),
        (lambda folder: spoilt(folder, np.zeros((4, 4))), ["photo 0.npy", "(classes, height, width)"]),
        (lambda folder: (folder / "photo 0.npz").write_bytes(b"PK"), ["photo 0.npz", "cannot read"]),
        (lambda folder: np.save(folder / "photo 0.npy", np.zeros((3, 2, 2))), ["photo 0.npy", "share a name"]),
    ],
)
def test_wrong_scores_are_told_before_training(config, spoil, facts, capsys):
    spoil(Path(config.data) / "scores")
    with raises_saying(ValueError, *facts):
        train(config)
    assert not Path(config.output).exists() or not any(Path(config.output).iterdir())


def test_scores_that_are_no_probabilities_are_told_with_their_file(config):
    np.savez(Path(config.data) / "scores" / "photo 3.npz", probabilities=np.full((3, 2, 2), 0.7))
    with raises_saying(ValueError, "photo 3.npz", "sum to 2.1"):
        train(config)


def test_square_scores_are_doubted(config):
    spoilt(Path(config.data) / "scores", np.zeros((3, 4, 4)))
    with pytest.warns(UserWarning, match="square, 4×4, and their photo is not"):
        SegmentationData(config.data, "train", class_set(CLASSES), teacher=Teacher(Path(config.data) / "scores"))


def test_scores_of_another_part_of_a_later_photo_are_doubted(config):
    """The first photo with scores is a square itself, which tells nothing."""
    data = Path(config.data)
    for index in (0, 1):
        (data / "scores" / f"photo {index}.npz").unlink()
    for shape, message in (((4, 4), "square, 4×4, and their photo is not"), ((6, 4), "4×6, and their photo is 26×18")):
        np.savez(data / "scores" / "photo 3.npz", probabilities=np.full((3, *shape), 1 / 3))
        with pytest.warns(UserWarning, match=message):
            SegmentationData(data, "train", class_set(CLASSES), teacher=Teacher(data / "scores"))


def test_probabilities_that_nobody_calls_so_are_doubted(config, rng):
    scores = Path(config.data) / "scores"
    spoilt(scores, shares(rng, CLASSES, 5, 7))
    with pytest.warns(UserWarning, match=r"sum to 1 over the 3 classes.*teacher_input='probabilities'.*photo 0\.npy"):
        SegmentationData(config.data, "train", class_set(CLASSES), teacher=Teacher(scores))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SegmentationData(config.data, "train", class_set(CLASSES), teacher=Teacher(scores, "probabilities"))


def test_a_sigmoid_that_nobody_calls_so_is_doubted(tmp_path, rng):
    np.save(tmp_path / "photo.npy", rng.random((1, 5, 7)))
    with pytest.warns(UserWarning, match=r"logits of one channel .* as the output of a sigmoid.*teacher_input"):
        Teacher(tmp_path).doubt_kind(tmp_path / "photo.npy", class_set(2))


def test_suffixes_may_be_capitals(config):
    scores = Path(config.data) / "scores"
    (scores / "photo 0.npz").rename(scores / "photo 0.NPZ")
    data = SegmentationData(config.data, "train", class_set(CLASSES), teacher=Teacher(scores))
    assert data[0].teacher.any()


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"teacher_weight": 0}, ["teacher_weight=0 leaves out the teacher"]),
        ({"freeze_network": True}, ["freeze_network", "nothing to teach in stage 2", "crf_epochs=0"]),
    ],
)
def test_without_labels_a_teacher_must_teach(config, settings, facts):
    without_labels(config, TRAINING)
    (Path(config.data) / "train.txt").write_text("\n".join(TRAINING[:5]))
    with raises_saying(ValueError, "no photo of the split 'train' has labels", *facts):
        train(replace(config, **settings))


def test_settings_of_fcn_lite(config, tmp_path, capsys):
    """They reach the model file, and a model of another encoder or stride is no start."""
    path = tmp_path / "small.safetensors"
    save_model(path, Segmenter(FcnLite(CLASSES), None), class_set(CLASSES))
    small = replace(config, network="FcnLite", crop=(33, 33), network_epochs=1, crf_epochs=0)
    for settings, facts in (
        ({"encoder": "lite1"}, ("the encoder lite0, not lite1", "encoder='lite0'")),
        ({"stride": 32}, ("the stride 8, not 32", "stride=8")),
    ):
        with raises_saying(ValueError, str(path), *facts):
            train(replace(small, init=str(path), **settings))
    wanted = {"encoder": "lite1", "stride": 16, "feature_dropout": 0.25}
    options = load_model(train(replace(small, **wanted)).model).segmenter.network.options
    assert {name: options[name] for name in wanted} == wanted
    with raises_saying(ValueError, "stride=9", "8, 16 or 32"):
        replace(small, stride=9)
    assert main(["train", "--data", config.data, "-o", str(tmp_path / "c"), "--encoder", "lite1", "--network", "Fcn8s"])
    assert "encoder='lite1' is of FcnLite, but network='Fcn8s'" in capsys.readouterr().err
