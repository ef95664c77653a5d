"""Augmentation, batches and their order: photo, labels and mask stay together, and only the seed decides."""

import itertools
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("kornia", reason="needs the train extra")
from crfrnn.data import Sample  # noqa: E402
from crfrnn.data.augmentation import Augmentation  # noqa: E402
from crfrnn.data.batches import PADDING, Batch, Examples, ResumableLoader, collate, example  # noqa: E402
from errors import raises_saying  # noqa: E402
from toy_data import toy_sample  # noqa: E402

pytestmark = pytest.mark.torch


def told_apart(height, width, void=0):
    """A sample in which every pixel has its own label, and a colour that tells it: red is the label."""
    labels = (np.arange(height * width) % 250).astype(np.uint8).reshape(height, width)
    image = np.stack([labels, np.full_like(labels, 255), np.full_like(labels, 3)], axis=-1)
    labels[:void] = 255
    return Sample("told apart", image, labels)


def samples(count):
    return [Sample(str(index), *toy_sample(index)) for index in range(count)]


def test_crop_keeps_pixels_together():
    """At scale 1 labels are the photo's red, padding is where the mask says, and nothing else is changed."""
    augment = Augmentation((11, 17), flip=True)
    for seed in range(20):
        image, labels, mask, _ = augment(told_apart(9, 25, void=2), seed)
        assert image.shape == (3, 11, 17)
        assert labels.shape == mask.shape == (11, 17)
        assert mask.sum() == 9 * 17  # lower than the crop, wider than it
        known = labels != 255
        assert (image[0][known].round() == labels[known]).all()
        assert (image[:, ~mask] == PADDING).all()
        assert (labels[~mask] == 255).all()
        assert (image[1][mask].round() == 255).all()
        assert known.sum() == 7 * 17


def test_flip_in_half_of_the_cases():
    """The first row of a photo of the crop's own size tells which way it lies."""
    sample = told_apart(1, 8)
    rows = [Augmentation((1, 8))(sample, seed).labels[0].tolist() for seed in range(64)]
    forwards, backwards = rows.count(list(range(8))), rows.count(list(range(7, -1, -1)))
    assert forwards + backwards == 64
    assert min(forwards, backwards) > 16
    assert all(Augmentation((1, 8), flip=False)(sample, seed).labels[0, 0] == 0 for seed in range(8))


def test_every_place_of_a_crop_is_drawn():
    places = {int(Augmentation((1, 2), flip=False)(told_apart(1, 6), seed).labels[0, 0]) for seed in range(80)}
    assert places == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("factor", [0.5, 1.7, 2.0])
def test_scale(factor):
    """A block of one class in the middle keeps its place and grows by the factor."""
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 20:40] = 1
    sample = Sample("block", np.repeat(100 * labels[..., None], 3, axis=-1), labels)
    image, scaled, mask, _ = Augmentation((80, 120), (factor, factor), flip=False)(sample, 1)
    assert mask.sum() == round(40 * factor) * round(60 * factor)
    assert (scaled == 1).sum() == pytest.approx(400 * factor**2, rel=0.06)
    at_edge = ((image[0] > 10) & (image[0] < 90)).sum()
    assert ((image[0] > 50) != (scaled == 1))[mask].sum() <= at_edge


def test_scales_lie_in_their_range_and_differ():
    sides = [int(Augmentation((64, 64), (0.5, 2.0))(told_apart(20, 20), seed).mask.sum()) ** 0.5 for seed in range(60)]
    assert 10 <= min(sides) < 13
    assert 32 < max(sides) <= 40
    assert sum(side < 20 for side in sides) == pytest.approx(30, abs=12)  # 0.5 to 1 as likely as 1 to 2


def test_colours_change_the_photo_only():
    sample = Sample("toy", *toy_sample(1))
    plain, changed = (Augmentation((26, 18), flip=False, colour=colour)(sample, 7) for colour in (0.0, 0.4))
    assert torch.equal(plain.labels, changed.labels)
    assert torch.equal(plain.mask, changed.mask)
    difference = (plain.image - changed.image).abs()
    assert difference.mean() > 2
    assert changed.image.min() >= 0
    assert changed.image.max() <= 255


def test_the_seed_decides_and_nothing_else():
    augment, sample = Augmentation((16, 16), (0.5, 2), colour=0.3), Sample("toy", *toy_sample(0))
    state = torch.random.get_rng_state()
    first = augment(sample, 5)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(99)
    assert all(torch.equal(a, b) for a, b in zip(first[:3], augment(sample, 5)[:3], strict=True))
    assert not torch.equal(first.image, augment(sample, 6).image)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"crop": (0, 4)}, ["crop=(0, 4)", "at least 1"]),
        ({"crop": (4, 4, 4)}, ["crop=(4, 4, 4)", "height and a width"]),
        ({"crop": (4, 4), "scale": (2.0, 1.0)}, ["scale=(2.0, 1.0)", "lesser first"]),
        ({"crop": (4, 4), "scale": (0.0, 1.0)}, ["scale=(0.0, 1.0)", "above 0"]),
        ({"crop": (4, 4), "colour": 1.5}, ["colour=1.5", "below 1"]),
    ],
)
def test_impossible_augmentations(options, facts):
    with raises_saying(ValueError, *facts):
        Augmentation(**options)


def test_a_photo_that_stays_whole_is_only_mirrored():
    sample = Sample("toy", *toy_sample(0), np.random.default_rng(0).random((3, 3, 4), np.float32))
    seen = set()
    for seed in range(8):
        made = Augmentation(None)(sample, seed)
        mirrored = not np.array_equal(made.labels, sample.labels)
        expected = (sample.image[:, ::-1], sample.labels[:, ::-1]) if mirrored else (sample.image, sample.labels)
        assert np.array_equal(made.image, expected[0].transpose(2, 0, 1))
        assert np.array_equal(made.labels, expected[1])
        assert made.mask.all()
        seen.add(mirrored)
    assert seen == {True, False}


def test_photos_of_one_pixel_are_copied_as_others_are():
    """Pixels cannot be written to as they are read, and turned to (3, 1, 1) these lie in memory as before."""
    photo = np.full((1, 1, 3), 200, np.uint8)
    photo.flags.writeable = False
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plain = example(Sample("one", photo, np.zeros((1, 1), np.uint8)))
            augmented = Augmentation(None)(Sample("one", photo, np.zeros((1, 1), np.uint8)), 0)
    finally:
        torch.set_warn_always(False)
    assert torch.equal(plain.image, augmented.image)


def test_collate_pads_scores_of_a_teacher_with_nothing():
    small, large = (example(told_apart(*size))._replace(teacher=torch.ones(2, *cells))
                    for size, cells in (((9, 8), (2, 1)), ((8, 17), (1, 3))))  # fmt: skip
    taught = collate([small, large]).teacher
    assert taught.shape == (2, 2, 2, 3)
    assert taught.sum(dim=(1, 2, 3)).tolist() == [2 * 2, 2 * 3]


def test_collate_pads_to_the_largest():
    small, large = told_apart(3, 5), told_apart(4, 4)
    batch = collate([example(small), example(large)])
    assert isinstance(batch, Batch)
    assert batch.images.shape == (2, 3, 4, 5)
    assert batch.images.dtype == batch.masks.dtype == torch.float32
    assert batch.labels.dtype == torch.long
    assert batch.masks.sum(dim=(1, 2)).tolist() == [15, 16]
    assert np.array_equal(batch.labels[0, :3], small.labels)
    assert np.array_equal(batch.images[1, :, :, :4], large.image.transpose(2, 0, 1))
    assert (batch.labels[batch.masks == 0] == 255).all()
    assert (batch.images.movedim(1, -1)[batch.masks == 0] == PADDING).all()


def loader(count=10, batch_size=3, shuffle=True, **options):
    return ResumableLoader(Examples(samples(count), Augmentation((8, 8)), 1), batch_size, shuffle=shuffle, **options)


def epochs(made, count):
    batches = []
    for epoch in range(count):
        made.photos.set_epoch(epoch)
        batches += list(made)
    return batches


def same(batches, others):
    pairs = zip(batches, others, strict=True)
    return all(torch.equal(a, b) for one, two in pairs for a, b in zip(one[:3], two[:3], strict=True))


def test_order_and_variants_differ_between_epochs_and_repeat_with_the_seed():
    first = epochs(loader(), 2)
    assert len(first) == 2 * 3  # the incomplete fourth batch is left out
    assert same(first, epochs(loader(), 2))
    assert not same(first[:3], first[3:])
    assert not same(first, epochs(loader(seed=8), 2))
    still = Examples(samples(1), Augmentation((8, 8)), 1)
    two = epochs(ResumableLoader(still, 1, shuffle=False), 2)
    assert not torch.equal(two[0].images, two[1].images)


def test_workers_change_nothing():
    assert same(epochs(loader(), 2), epochs(loader(workers=2), 2))


class Damaged(list):
    """Samples of which none can be read."""

    def __getitem__(self, index):
        raise ValueError(f"photo {index} is damaged")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_cannot_read_is_told_without_its_traceback(workers):
    with pytest.raises(ValueError, match=r"^photo \d is damaged$"):
        next(iter(ResumableLoader(Examples(Damaged(samples(2))), 1, shuffle=False, workers=workers)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("given", [1, 2])
def test_goes_on_within_an_epoch(given, workers):
    whole = epochs(loader(), 2)
    interrupted = loader(workers=workers)
    list(itertools.islice(interrupted, given))
    state = interrupted.state_dict()
    resumed = loader(workers=workers)
    resumed.load_state_dict(state)
    assert len(resumed) == 3
    assert same(whole[given:], epochs(resumed, 2))


def test_state_at_the_end_of_an_epoch_is_that_of_its_start():
    made = loader()
    list(itertools.islice(made, 3))
    assert made.state_dict() == loader().state_dict()


def test_fewer_photos_than_a_batch():
    assert [len(batch.images) for batch in loader(count=2, batch_size=8)] == [2]


def test_whole_photos_come_with_others_of_about_their_size():
    sizes = [(20, 30), (32, 64), (64, 33)] * 5
    data = Examples([told_apart(*size) for size in sizes], Augmentation(None), 1)
    first = epochs(ResumableLoader(data, 2, shuffle=True, sizes=sizes), 2)
    assert len(first) == 2 * 7  # the incomplete eighth batch is left out
    assert not same(first[:7], first[7:])
    for epoch in (first[:7], first[7:]):
        assert sum(int(batch.masks.min() == 0) for batch in epoch) <= 2  # where one size follows on another


def test_goes_on_within_an_epoch_of_whole_photos():
    sizes = [(20, 30), (64, 33), (30, 20)] * 3
    data = Examples([told_apart(*size) for size in sizes], Augmentation(None), 1)
    whole = epochs(ResumableLoader(data, 2, shuffle=True, sizes=sizes), 1)
    resumed = ResumableLoader(data, 2, shuffle=True, sizes=sizes)
    resumed.load_state_dict({"given": 2})
    assert same(whole[2:], epochs(resumed, 1))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_photos_and_repeated_ones_do_not_count(processes):
    """Whatever the number of processes, the labels that count are each photo's, once."""
    data = Examples(samples(4))
    counted, batches = 0, set()
    for rank in range(processes):
        made = ResumableLoader(data, 1, shuffle=False, rank=rank, num_processes=processes)
        batches.add(len(made))
        counted += sum(int((batch.labels != 255).sum()) for batch in made)
    assert len(batches) == 1  # no process waits for another at the end
    assert counted == sum(int((labels != 255).sum()) for _, labels in map(toy_sample, range(4)))
