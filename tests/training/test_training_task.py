"""The loss, its weights and the groups of the optimiser, against NumPy and against the paper's words."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("lightning", reason="needs the train extra")
from crfrnn.data.batches import collate, example  # noqa: E402
from crfrnn.data.segmentation import Sample  # noqa: E402
from crfrnn.models import Segmenter  # noqa: E402
from crfrnn.torch import CrfRnn, losses  # noqa: E402
from crfrnn.training import TrainingConfig  # noqa: E402
from crfrnn.training.task import SegmentationTask, balanced_weights, cross_entropy, log_probabilities, parameter_groups  # noqa: E402
from toy_data import CLASSES, toy_sample  # noqa: E402

pytestmark = pytest.mark.torch

CONFIG = TrainingConfig(data="photos", output="out", classes=str(CLASSES), theta_alpha=10, theta_beta=50)


class Network(torch.nn.Module):
    """Two convolutions, the first of which is an encoder."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.score = torch.nn.Conv2d(4, CLASSES, 1)

    def forward(self, images):
        return self.score(self.norm(self.encoder((images - 127) / 128)))


def segmenter(crf=True, **options):
    torch.manual_seed(0)
    return Segmenter(Network(), CrfRnn(CLASSES, theta_alpha=10, theta_beta=50, **options) if crf else None)


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(rng, weighted):
    logits = rng.normal(size=(2, CLASSES, 5, 6)).astype(np.float32)
    labels = rng.choice([0, 1, 2, 255], size=(2, 5, 6))
    weights = rng.uniform(0.1, 3, CLASSES).astype(np.float32) if weighted else np.ones(CLASSES, np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    total = weight = 0.0
    for (image, row, column), label in np.ndenumerate(labels):
        if label != 255:
            total -= weights[label] * np.log(softmax[image, label, row, column])
            weight += weights[label]
    given = torch.from_numpy(weights) if weighted else None
    found = cross_entropy(log_probabilities(torch.from_numpy(logits)), torch.from_numpy(labels), given)
    assert found.item() == pytest.approx(total / weight, rel=1e-5)


@pytest.mark.parametrize("class_weights", [None, torch.tensor([1.0, 0.0, 2.0])])
def test_cross_entropy_of_nothing_is_0_and_has_no_slope(class_weights):
    logits = torch.randn(1, CLASSES, 2, 2, requires_grad=True)
    loss = cross_entropy(log_probabilities(logits), torch.full((1, 2, 2), 255), class_weights)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("crf", [False, True])
def test_validation_reports_the_cross_entropy_of_what_is_used(crf):
    """That of PyTorch, from the scores after as many iterations as in use."""
    task = SegmentationTask(segmenter(crf), CONFIG).eval()
    reported = {}
    task.log = lambda name, value, **_: reported.update({name: value})
    batch = collate([example(Sample("toy", *toy_sample(0)))])
    with torch.no_grad():
        task.validation_step(batch)
        expected = torch.nn.functional.cross_entropy(task(batch), batch.labels, ignore_index=255)
    assert reported["val_loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_balanced_weights():
    """Frequencies 1:2:6 have the median 2; a class that is not there keeps 1."""
    assert balanced_weights(np.array([10, 20, 0, 60])).tolist() == pytest.approx([2, 1, 1, 1 / 3])


@pytest.mark.filterwarnings("error")
def test_balanced_weights_without_labels():
    assert balanced_weights(np.zeros(3, np.int64)).tolist() == [1, 1, 1]


def test_mean_iou_is_over_the_classes_that_occur_in_the_labels():
    """Classes 0 and 1 occur, with 2 of 4 and 2 of 3 pixels; that class 2 is found as well is their loss alone."""
    task = SegmentationTask(segmenter(False), CONFIG)
    task.miou.update(torch.tensor([[[0, 0, 2, 1], [1, 1, 0, 2]]]), torch.tensor([[[0, 0, 0, 1], [1, 0, 255, 255]]]))
    assert task.miou.compute().item() == pytest.approx((2 / 4 + 2 / 3) / 2)


@pytest.mark.parametrize("crf", [False, True])
def test_padding_changes_neither_loss_nor_gradient(crf):
    """A photo beside a larger one in a batch: its padding is masked in the CRF and ignored by the loss.

    The network is one that looks at single pixels: to others padding is the surroundings. The filter is exact: padding
    adds vertices to a lattice, and these pass on a little more of the messages.
    """
    network = torch.nn.Conv2d(3, CLASSES, 1)
    layer = CrfRnn(CLASSES, theta_alpha=10, theta_beta=50, filter="exact") if crf else None
    task = SegmentationTask(Segmenter(network, layer, mean=127, std=128), CONFIG)
    sample = example(Sample("toy", *toy_sample(0)))
    larger = example(Sample("blank", np.full((40, 40, 3), 9, np.uint8), np.full((40, 40), 255, np.uint8)))
    found = []
    for batch in (collate([sample]), collate([sample, larger])):
        network.zero_grad()
        loss = cross_entropy(log_probabilities(task(batch)), batch.labels, None)
        loss.backward()
        found.append((loss.item(), network.weight.grad.clone()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("name", ["dense", "gated", "normalized-cut"])
def test_the_crf_loss_is_of_the_networks_scores(name, crf):
    """Beside the cross-entropy of what the CRF-RNN makes of them."""
    config = replace(CONFIG, crf_loss=name, crf_loss_weight=0.5, crf_loss_theta_alpha=7, crf_loss_theta_beta=30)
    task = SegmentationTask(segmenter(crf), config).eval()
    batch = collate([example(Sample("toy", *toy_sample(index))) for index in (0, 1)])
    scores = task.segmenter.unary(batch.images)
    settings = {"theta_alpha": 7, "theta_beta": 30}
    if name == "gated":
        gate = {"destination": batch.labels == 255}
        loss = losses.GatedCrfLoss(**settings, normalization="after")(
            scores.softmax(1), batch.images, batch.masks, **gate
        )
    elif name == "dense":
        loss = losses.DenseCrfLoss(**settings, normalization="after")(scores.softmax(1), batch.images, batch.masks)
    else:
        loss = losses.NormalizedCutLoss(**settings)(scores.softmax(1), batch.images, batch.masks)
    expected = cross_entropy(log_probabilities(task(batch)), batch.labels, None) + 0.5 * loss
    task.log = lambda *_, **__: None
    assert loss > 0
    assert task.training_step(batch).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_frozen_network_has_no_crf_loss():
    config = replace(CONFIG, crf_loss="dense", freeze_network=True)
    assert SegmentationTask(segmenter(), config).crf_loss is None


def rates(groups, module):
    """Rate and decay of each of a module's parameters by name."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[parameter]: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}


def test_rates_of_stage_1():
    made, config = segmenter(crf=False), replace(CONFIG, network_rate=1.0, decoder_rate=2.0, weight_decay=0.5)
    assert rates(parameter_groups(made, config), made) == {
        "network.encoder.weight": (1.0, 0.5),
        "network.encoder.bias": (1.0, 0.0),
        "network.norm.weight": (2.0, 0.0),
        "network.norm.bias": (2.0, 0.0),
        "network.score.weight": (2.0, 0.5),
        "network.score.bias": (2.0, 0.0),
    }
    alike = rates(parameter_groups(made, replace(config, decoder_rate=None)), made)
    assert {rate for rate, _ in alike.values()} == {1.0}
    bare = Segmenter(torch.nn.Conv2d(3, CLASSES, 1), None)  # has no encoder
    assert {rate for rate, _ in rates(parameter_groups(bare, config), bare).values()} == {1.0}


def test_rates_of_stage_2():
    config = replace(CONFIG, crf_network_rate=1.0, crf_weight_rate=3.0, weight_decay=0.5)
    made = segmenter()
    SegmentationTask(made, config)
    found = rates(parameter_groups(made, config), made)
    learned = {"crf.spatial_ker_weights", "crf.bilateral_ker_weights", "crf.compatibility_matrix"}
    assert {name for name, group in found.items() if group == (3.0, 0.0)} == learned
    assert {rate for name, (rate, _) in found.items() if name not in learned} == {1.0}


def test_rate_of_learned_thetas():
    config = replace(CONFIG, learn_theta=True, theta_rate=4.0, crf_weight_rate=3.0)
    made = segmenter(learn_theta=True)
    SegmentationTask(made, config)
    found = rates(parameter_groups(made, config), made)
    names = {f"crf.log_thetas.theta_{name}" for name in ("alpha", "beta", "gamma")}
    assert {name for name, group in found.items() if group == (4.0, 0.0)} == names


def test_potts_and_frozen_network():
    config = replace(CONFIG, freeze_network=True, learn_compatibility=False)
    made = segmenter()
    task = SegmentationTask(made, config).train()
    assert set(rates(parameter_groups(made, config), made)) == {"crf.spatial_ker_weights", "crf.bilateral_ker_weights"}
    assert not made.network.training
    assert task.training
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    batch = collate([example(Sample("toy", *toy_sample(0)))])
    cross_entropy(log_probabilities(task(batch)), batch.labels, None).backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())
    assert all(parameter.grad is None for parameter in made.network.parameters())
    assert made.crf.bilateral_ker_weights.grad.any()


@pytest.mark.parametrize("stage", ["stage 2", "stage 1 of a model file", "stage 1"])
def test_statistics_of_a_trained_network_stay_while_it_trains(stage):
    init = "model.safetensors" if stage == "stage 1 of a model file" else None
    config = replace(CONFIG, freeze_statistics=True, init=init)
    made = segmenter(crf=stage == "stage 2")
    task = SegmentationTask(made, config).eval().train()
    before = made.network.norm.running_mean.clone()
    batch = collate([example(Sample("toy", *toy_sample(0)))])
    cross_entropy(log_probabilities(task(batch)), batch.labels, None).backward()
    assert torch.equal(made.network.norm.running_mean, before) == (stage != "stage 1")
    assert made.network.encoder.weight.grad.any()


def test_the_encoder_stays_while_the_rest_of_the_network_learns():
    config = replace(CONFIG, freeze_encoder=True, init="imagenet")
    made = segmenter(crf=False)
    task = SegmentationTask(made, config).eval().train()
    before = {name: tensor.clone() for name, tensor in made.network.encoder.state_dict().items()}
    batch = collate([example(Sample("toy", *toy_sample(0)))])
    cross_entropy(log_probabilities(task(batch)), batch.labels, None).backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in made.network.encoder.parameters())
    assert made.network.training
    assert not made.network.encoder.training
    assert made.network.score.weight.grad.any()


def test_random_numbers_of_a_step_follow_from_seed_and_step():
    drawn = []
    for seed in (0, 0, 1):
        SegmentationTask(segmenter(), replace(CONFIG, seed=seed)).on_train_batch_start(None, 0)
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
