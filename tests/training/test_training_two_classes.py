"""Training for a foreground and a background, in one channel or two, and what `segment` and `evaluate` make of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("lightning", reason="needs the train extra")
pytest.importorskip("kornia", reason="needs the train extra")
from crfrnn.cli.main import main  # noqa: E402
from crfrnn.data import SegmentationData  # noqa: E402
from crfrnn.evaluation import evaluate  # noqa: E402
from crfrnn.models import NETWORKS, load_model  # noqa: E402
from crfrnn.models.crf import with_crf  # noqa: E402
from crfrnn.models.segmenter import of_classes  # noqa: E402
from crfrnn.parameters import CRFParameters  # noqa: E402
from crfrnn.segment import segment  # noqa: E402
from crfrnn.training import TrainingConfig  # noqa: E402
from crfrnn.training.train import train  # noqa: E402
from errors import raises_saying  # noqa: E402
from toy_data import write_toy_data  # noqa: E402
from toy_network import Toy  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run on the toy data with masks of 0 and 255, 255 for the right half of each photo."""
    monkeypatch.setitem(NETWORKS, "Toy", Toy)
    threads = torch.get_num_threads()
    data = write_toy_data(tmp_path / "data")
    for path in (data / "labels").iterdir():
        Image.fromarray(np.uint8(255 * (np.array(Image.open(path)) == 1))).save(path)
    yield TrainingConfig(
        data=str(data), output=str(tmp_path / "run"), classes="2", network="Toy", init=None, crop=(16, 16),
        batch_size=2, network_epochs=8, crf_epochs=1, network_rate=0.05, crf_network_rate=0.01, theta_alpha=10,
        theta_beta=50, accelerator="cpu", threads=1,
    )  # fmt: skip
    torch.set_num_threads(threads)


def named(tmp_path):
    (tmp_path / "polyp.txt").write_text("polyp\n")
    return str(tmp_path / "polyp.txt")


@pytest.mark.parametrize(("classes", "channels", "foreground"), [("2", 2, "class 1"), ("1", 1, "foreground")])
def test_trained_segmented_and_evaluated(config, classes, channels, foreground, tmp_path, capsys):
    result = train(replace(config, classes=classes, class_weights="balanced", crf_loss="gated", crf_loss_weight=0.01))
    model = load_model(result.model)
    assert model.segmenter.network.num_classes == model.segmenter.crf.num_classes == channels
    assert model.classes.names[1] == foreground
    assert result.stages["crf"].val_miou > 0.5
    data = SegmentationData(config.data, "val", model.classes)
    found = evaluate(model, data, model.classes)
    assert found.crf.mean_iou == pytest.approx(result.stages["crf"].val_miou, abs=1e-6)
    photo = Path(config.data) / "images" / "photo 8.png"
    assert main(["segment", str(photo), "--model", str(result.model), "-o", str(tmp_path / "results")]) == 0
    labels = np.array(Image.open(tmp_path / "results" / "photo 8.png"))
    assert np.array_equal(labels, segment(Image.open(photo), model).labels)
    assert (labels == data[1].labels).mean() > 0.7
    assert main(["evaluate", str(result.model), config.data, "-o", str(tmp_path / "measured")]) == 0
    assert foreground in capsys.readouterr().out
    weak = with_crf(model, CRFParameters(spatial_weight=0, bilateral_weight=0))
    torch.testing.assert_close(
        weak.segmenter(torch.full((1, 3, 4, 4), 99.0)), model.segmenter.unary(torch.full((1, 3, 4, 4), 99.0))
    )


def test_a_single_name_is_that_of_the_foreground(config, tmp_path):
    result = train(replace(config, classes=named(tmp_path), network_epochs=1, crf_epochs=0))
    assert load_model(result.model).classes.names == ("background", "polyp")
    two = replace(config, init=str(result.model), output=config.output + "-two")
    with raises_saying(ValueError, "other classes", "polyp"):
        train(two)
    (tmp_path / "both.txt").write_text("background\npolyp\n")
    with raises_saying(ValueError, str(result.model), "1 channels, not 2"):
        train(replace(two, classes=str(tmp_path / "both.txt")))


def test_the_loss_of_one_channel_is_that_of_its_sigmoid():
    logits, labels = torch.randn(2, 1, 4, 5), torch.randint(0, 2, (2, 4, 5))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    torch.testing.assert_close(torch.nn.functional.cross_entropy(of_classes(logits), labels), expected)
    several = torch.randn(2, 3, 4, 5)
    assert of_classes(several) is several
