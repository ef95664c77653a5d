"""Features of a frozen encoder: worked out once for each photo, and the same as without memory."""

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("lightning", reason="needs the train extra")
from crfrnn.models import FcnLite, Segmenter  # noqa: E402
from crfrnn.training import TrainingConfig  # noqa: E402
from crfrnn.training.features import KeptFeatures  # noqa: E402
from crfrnn.training.task import SegmentationTask  # noqa: E402

pytestmark = pytest.mark.torch


class Counted:
    """Means over the photo, and how many photos were asked for."""

    def __init__(self):
        self.photos = 0

    def __call__(self, images):
        self.photos += len(images)
        return images.mean(dim=(2, 3), keepdim=True), 2 * images


def test_a_photo_is_encoded_once_whatever_is_beside_it():
    encode = Counted()
    kept = KeptFeatures(encode)
    images = torch.rand(3, 3, 4, 5)
    expected = encode(images)
    encode.photos = 0
    for order in ([0, 1], [1, 2], [2, 1, 0], [1]):
        found = kept(images[order])
        assert all(torch.equal(one, each[order]) for one, each in zip(found, expected, strict=True))
    assert encode.photos == 3
    kept(images[:1].flip(3))
    assert encode.photos == 4
    kept(images[:1].reshape(1, 3, 5, 4))  # the same numbers in another shape
    assert encode.photos == 5


def test_what_has_no_room_is_encoded_again():
    encode = Counted()
    kept = KeptFeatures(encode)
    images = torch.rand(2, 3, 4, 5)
    kept.room = 4 * (3 + 3 * 4 * 5)  # one photo's
    for _ in range(3):
        assert torch.equal(kept(images)[1], 2 * images)
    assert encode.photos == 1 + 3


@pytest.mark.parametrize(
    ("settings", "keeps"), [({"crop": None, "colour": 0.0}, True), ({"crop": None}, False), ({"colour": 0.0}, False)]
)
def test_a_network_learns_the_same_from_kept_features(settings, keeps):
    torch.manual_seed(0)
    network = FcnLite(3).eval()
    images = 255 * torch.rand(2, 3, 40, 33)
    with torch.no_grad():
        expected = network(images)
    config = TrainingConfig(data="photos", output="out", classes="3", freeze_encoder=True, **settings)
    task = SegmentationTask(Segmenter(network, None), config).eval()
    assert isinstance(network.encoder.forward, KeptFeatures) == keeps
    with torch.inference_mode():
        task.segmenter.unary(images)
    logits = task.segmenter.unary(images)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    logits.sum().backward()
    assert network.score.weight.grad.any()
    assert network.encoder.stem.conv.weight.grad is None


def test_dropout_of_features_is_of_the_decoder_alone():
    """The encoder does not see it, and so features are kept without it; not in use."""
    torch.manual_seed(0)
    network = FcnLite(3, feature_dropout=0.5, dropout=0.0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    images = 255 * torch.rand(2, 3, 40, 33)
    assert all(torch.equal(*pair) for pair in zip(network.encoder(images), network.encoder(images), strict=True))
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
