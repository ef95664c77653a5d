"""Pictures of labels on photos: pixels worked out by hand, whatever form photos and labels come in, and errors."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import crfrnn
from crfrnn.cli import main
from crfrnn.files.classes import class_set
from crfrnn.files.legend import Key, draw_legend
from crfrnn.files.naming import ClassNames
from crfrnn.files.palette import voc_colours
from crfrnn.pictures import keyed
from errors import raises_saying

H, W = 6, 8
IDS = np.zeros((H, W), np.uint8)
IDS[1:4, 2:6] = 2
IDS[4:, :] = 1
BLACK, MAROON, GREEN, OLIVE, CREAM = (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (224, 224, 192)


@pytest.fixture
def photo(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (H, W, 3), np.uint8)


def plain(photo, labels, **options) -> np.ndarray:
    """The colours alone, at the size of the photo."""
    return np.asarray(crfrnn.overlay(photo, labels, opacity=1, legend=False, **options))


def scores_of(ids: np.ndarray, count: int) -> np.ndarray:
    return np.moveaxis(4.0 * np.eye(count)[ids] - 2, -1, 0).astype(np.float32)


def names_in(labels, **options) -> tuple[str, ...]:
    return keyed(np.zeros((*np.shape(labels)[-2:], 3), np.uint8), [labels], ["labels"], options.get("classes"), None)[
        1
    ].names


def test_a_pixel_is_mixed_with_the_colour_of_its_class(photo):
    picture = crfrnn.overlay(
        np.full((H, W, 3), (200, 100, 40), np.uint8), IDS, opacity=0.25, palette=[(0,) * 3, (80, 20, 0), (0, 60, 255)]
    )
    pixels = np.asarray(picture)
    left = (pixels.shape[1] - W) // 2
    drawn = pixels[:H, left : left + W]
    assert drawn[0, 0].tolist() == [150, 75, 30]  # 3/4 of the photo
    assert drawn[5, 0].tolist() == [170, 80, 30]  # + (20, 5, 0)
    assert drawn[2, 3].tolist() == [150, 90, 94]  # + (0, 15, 63.75)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(crfrnn.overlay(photo, IDS, opacity=0, legend=False), photo)


def test_the_palette_is_that_of_pascal_voc_for_any_number_of_classes(photo):
    drawn = plain(photo, IDS)
    assert [tuple(drawn[at]) for at in ((0, 0), (5, 0), (2, 3))] == [BLACK, MAROON, GREEN]
    many = np.arange(H * W).reshape(H, W) * 41 + 1
    np.testing.assert_array_equal(plain(photo, many), voc_colours(many.ravel()).reshape(H, W, 3))
    assert len(np.unique(voc_colours(np.arange(5000)), axis=0)) == 5000


@pytest.mark.parametrize(
    ("label", "colour"), [(8, (64, 0, 0)), (15, (192, 128, 128)), (256, (0, 0, 32)), (257, (128, 0, 32))]
)
def test_colours_by_hand(label, colour):
    assert voc_colours(np.array([label]))[0].tolist() == list(colour)


@pytest.mark.parametrize("first", ["background", "road"])
def test_black_is_for_a_background_only(photo, first):
    drawn = plain(photo, IDS, classes=[first, "a", "b"])
    expected = (BLACK, MAROON, GREEN) if first == "background" else (MAROON, GREEN, OLIVE)
    assert tuple(tuple(drawn[at]) for at in ((0, 0), (5, 0), (2, 3))) == expected


def test_clear_colours_go_to_what_occurs_in_its_order(photo):
    labels = np.where(IDS == 2, 20, IDS)
    assert [tuple(plain(photo, labels, palette="clear")[at]) for at in ((0, 0), (5, 0), (2, 3))] == [
        BLACK,
        (240, 190, 40),
        (40, 130, 240),
    ]
    labels = IDS.astype(int)
    labels[0, 0] = -1
    drawn = plain(photo, labels, palette="clear", classes=["road", "a", "b"])
    assert [tuple(drawn[at]) for at in ((0, 0), (0, 1), (5, 0))] == [CREAM, (240, 190, 40), (40, 130, 240)]


def test_whatever_form_labels_have(photo, tmp_path):
    expected = plain(photo, IDS)
    scores = scores_of(IDS, 3)
    np.save(tmp_path / "scores.npy", scores)
    Image.fromarray(IDS).save(tmp_path / "labels.png")
    indexed = Image.fromarray(IDS)
    indexed.putpalette(voc_colours(np.arange(256)).tobytes())
    forms = (
        IDS.astype(np.int64),
        IDS.tolist(),
        IDS[np.newaxis],
        IDS[..., np.newaxis],
        indexed,
        scores,
        scores[np.newaxis],
    )
    forms += (scores.astype(np.float64), (scores > 0), (scores > 0).astype(int), tmp_path / "scores.npy")
    forms += (str(tmp_path / "labels.png"),)
    for labels in forms:
        np.testing.assert_array_equal(plain(photo, labels), expected)


@pytest.mark.torch
@pytest.mark.filterwarnings("error")
def test_tensors(photo):
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    expected = plain(photo, IDS)
    image = torch.from_numpy(photo).movedim(-1, 0)
    scores = torch.from_numpy(scores_of(IDS, 3)).requires_grad_()
    for given in (image, image[None], torch.from_numpy(photo), image.float().requires_grad_()):
        for labels in (scores, scores[None], torch.from_numpy(IDS)):
            np.testing.assert_array_equal(plain(given, labels), expected)
    np.testing.assert_array_equal(crfrnn.overlay(image, IDS, opacity=0, legend=False), photo)


def test_whatever_form_photos_have(photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    clear = np.concatenate([photo, np.full((H, W, 1), 255, np.uint8)], axis=2)
    forms = (
        photo.astype(np.float32),
        257 * photo.astype(np.uint16),
        photo.astype(np.int64),
        photo.tolist(),
        Image.fromarray(photo),
        tmp_path / "photo.png",
        clear,
    )
    for given in forms:
        np.testing.assert_array_equal(crfrnn.overlay(given, IDS, opacity=0, legend=False), photo)
    grey = crfrnn.overlay(photo[..., 0], IDS, opacity=0, legend=False)
    np.testing.assert_array_equal(grey, np.repeat(photo[..., :1], 3, axis=2))
    for one in (photo[np.newaxis, ..., 0], photo[np.newaxis, np.newaxis, ..., 0]):
        np.testing.assert_array_equal(crfrnn.overlay(one, IDS, opacity=0, legend=False), grey)
    white = photo > 127
    np.testing.assert_array_equal(crfrnn.overlay(white, IDS, opacity=0, legend=False), 255 * white)


@pytest.mark.parametrize("form", ["truth", "255", "7", "probability", "one channel", "logits"])
def test_masks_and_foregrounds(photo, form):
    mask = IDS == 2
    labels = {
        "truth": mask,
        "255": 255 * mask.astype(np.uint8),
        "7": np.where(mask, 255, 7).astype(np.int32),
        "probability": np.where(mask, 0.51, 0.5),
        "one channel": np.where(mask, 0.9, 0.1)[np.newaxis],
        "logits": np.where(mask, 0.5, -1.25),
    }[form]
    if form == "7":  # 255 beside a class is void, as in label images
        assert names_in(labels) == ("class 7", "void")
        return
    np.testing.assert_array_equal(plain(photo, labels), np.where(mask[..., np.newaxis], MAROON, BLACK))
    assert names_in(labels) == ("background", "foreground")


def test_void_is_what_is_no_class(photo):
    labels = IDS.astype(int)
    labels[0, 0], labels[0, 1] = -1, 255
    drawn = plain(photo, labels)
    assert tuple(drawn[0, 0]) == tuple(drawn[0, 1]) == CREAM
    assert names_in(labels) == ("class 0", "class 1", "class 2", "void")
    assert names_in(labels, classes=300) == ("class 0", "class 1", "class 2", "class 255", "void")


def test_names(tmp_path):
    names = ["background", "cat", "dog", "never"]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    (tmp_path / "classes.json").write_text(json.dumps(names))
    (tmp_path / "ids.json").write_text(json.dumps(dict(enumerate(names))))
    by_id = dict(enumerate(names))
    forms = (names, tuple(names), np.array(names), by_id, {str(key): name for key, name in by_id.items()})
    forms += ({name: key for key, name in by_id.items()}, tmp_path / "classes.txt", str(tmp_path / "classes.json"))
    forms += (tmp_path / "ids.json",)
    for classes in forms:
        assert names_in(IDS, classes=classes) == ("background", "cat", "dog")
    assert names_in(IDS, classes={2: "dog"}) == ("class 0", "class 1", "dog")
    assert names_in(IDS, classes="voc") == ("background", "aeroplane", "bicycle")
    assert names_in(IDS, classes=class_set("camvid")) == ("sky", "building", "pole")


@pytest.mark.parametrize("form", ["text", "json", "number"])
def test_files_hold_as_many_names_as_lists(photo, tmp_path, form, files):
    names = [f"class {label}" for label in range(300)]
    path = tmp_path / f"names.{form}"
    path.write_text(json.dumps(names) if form == "json" else "\n".join(names))
    source = "300" if form == "number" else str(path)
    labels = np.where(IDS == 2, 299, IDS)
    expected = crfrnn.overlay(photo, labels, classes=names)
    np.testing.assert_array_equal(crfrnn.overlay(photo, labels, classes=source), expected)
    np.save("labels.npy", labels)
    command = ["compare", "photo.png", "labels.npy", "labels.npy", "--input", "labels", "-o", "out.png"]
    assert main([*command, "--classes", source]) == 0
    with Image.open("out.png") as drawn:
        np.testing.assert_array_equal(drawn, crfrnn.compare(photo, labels, labels, classes=names))
    path.write_text("")
    with raises_saying(ValueError, path.name):
        crfrnn.overlay(photo, IDS, classes=path)


def test_arrays_of_names_are_a_type_of_names():
    assert NDArray[np.str_] in get_args(ClassNames)


def test_a_set_has_no_order_for_ids(photo):
    with raises_saying(TypeError, "set", "list of names"):
        crfrnn.overlay(photo, IDS, classes={"background", "cat", "dog"})


def test_the_legend_is_of_what_occurs(photo):
    pixels = np.asarray(crfrnn.overlay(photo, IDS, classes="voc"))
    key = Key(("background", "aeroplane", "bicycle"), voc_colours(np.arange(3)))
    legend = np.asarray(draw_legend(key, W))
    np.testing.assert_array_equal(pixels[H:], legend)


def test_contours_are_the_border_pixels_in_full_colour(photo):
    square = np.zeros((20, 20), int)
    square[5:15, 5:15] = 1
    photo = np.full((20, 20, 3), 100, np.uint8)
    drawn = np.asarray(crfrnn.overlay(photo, square, opacity=0, contours=True, legend=False))
    lined = (drawn == MAROON).all(axis=-1)
    expected = np.zeros((20, 20), bool)
    expected[4, 5:15] = expected[14, 5:15] = expected[5:15, 4] = expected[5:15, 14] = True
    np.testing.assert_array_equal(lined, expected)
    assert (drawn[~lined] == 100).all()


def test_a_comparison(rng):
    photo = rng.integers(100, 156, (60, 100, 3), np.uint8)
    before = np.zeros((60, 100), np.uint8)
    before[20:40, 50:70] = 1
    after = np.roll(before, -2, axis=1)
    for insets, rows in ((0, 1), (1, 2), (5, 2)):
        drawn = crfrnn.compare(photo, before, scores_of(after, 2), insets=insets, classes=["background", "cat"])
        width = 3 * 480 + 4 * 12
        legend = draw_legend(Key(("background", "cat"), voc_colours(np.arange(2))), width)
        pixels = np.asarray(drawn)
        near = round(480 * 17 / 28)
        assert pixels.shape == (36 + 288 + 12 + (rows - 1) * (near + 12) + legend.height, width, 3)
    with_truth = crfrnn.compare(photo, before, after, truth=after, insets=0)
    assert with_truth.image.width == 4 * 480 + 5 * 12
    # What is tinted in the column before is the class before, in that after the class after.
    small = np.asarray(crfrnn.compare(photo, before, after, insets=0, opacity=1))
    for column, labels in enumerate((before, after), start=1):
        left = 12 + column * (480 + 12)
        cell = small[36 : 36 + 288, left : left + 480]
        red = cell[..., 0] > 64
        assert abs(red.mean() - labels.mean()) < 0.002
        rows, columns = np.nonzero(red)
        assert abs(columns.mean() / 4.8 - np.nonzero(labels)[1].mean()) < 0.6


def test_a_mask_beside_its_refinement(photo):
    mask = 255 * (IDS == 2).astype(np.uint8)
    for after in ((IDS == 2).astype(np.uint8), np.where(IDS == 2, 0.9, 0.2)):
        maps, key = keyed(photo, [mask, after], ["before", "after"], None, None)
        np.testing.assert_array_equal(*maps)
        assert key.names == ("background", "foreground")


@pytest.mark.parametrize("classes", [None, "voc"])
def test_a_mask_beside_class_ids_is_told(photo, classes):
    inside = IDS == 2
    ids, mask = np.where(inside, 8, 0), np.where(inside, 255, 0).astype(np.uint8)
    for before, after, names in ((ids, mask, ("after is", "before has")), (mask, ids, ("before is", "after has"))):
        with pytest.warns(crfrnn.InputWarning, match="class ids 0, 8") as told:
            crfrnn.compare(photo, before, after, classes=classes)
        assert all(name in str(told[0].message) for name in names)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [IDS == 2, np.where(IDS == 2, 8, 0), np.where(IDS == 2, 255, IDS)])
def test_maps_of_one_kind_are_not_told(photo, labels):
    crfrnn.compare(photo, labels, labels[::-1])
    crfrnn.compare(photo, IDS == 2, (IDS == 2).astype(np.uint8))


def test_a_picture_shows_and_saves_itself(photo, tmp_path):
    picture = crfrnn.overlay(photo, IDS, legend=False)
    picture.save(tmp_path / "new" / "picture.png")
    (tmp_path / "shown.png").write_bytes(picture._repr_png_())
    for name in ("new/picture.png", "shown.png"):
        with Image.open(tmp_path / name) as read:
            np.testing.assert_array_equal(np.asarray(read), np.asarray(picture))
    assert isinstance(picture, crfrnn.Picture)
    assert "8×6" in repr(picture)
    assert np.asarray(picture, np.float32).dtype == np.float32
    with raises_saying(ValueError, "picture.gif", ".png"):
        picture.save(tmp_path / "picture.gif")
    large = crfrnn.Picture(Image.new("RGB", (3200, 10)))
    assert Image.open(io.BytesIO(large._repr_png_())).size == (1600, 5)


FLOATS = np.linspace(-3, 3, H * W).reshape(H, W)


@pytest.mark.parametrize(
    ("labels", "options", "kind", "facts"),
    [
        (IDS[:, :-1], {}, ValueError, ["(6, 7)", "(6, 8)"]),
        (np.moveaxis(scores_of(IDS, 5), 0, -1), {}, ValueError, ["(6, 8, 5)", "np.moveaxis(scores, -1, 0)"]),
        (np.zeros((2, 3, H, W), np.float32), {}, ValueError, ["(2, 3, 6, 8)"]),
        (np.zeros((2, H, W), np.uint8), {}, ValueError, ["48 pixels are in none"]),
        (np.ones((2, H, W), bool), {}, ValueError, ["48 pixels", "several (2)"]),
        (np.stack([IDS, IDS]), {}, ValueError, ["(2, 6, 8)", "one at a time", "labels.astype(float)"]),
        (np.zeros((3, H, W + 1)), {}, ValueError, ["(3, 6, 9)", "(classes, 6, 8)"]),
        (FLOATS.T, {}, ValueError, ["(8, 6)", "(6, 8)"]),
        (np.rint(FLOATS), {}, TypeError, ["astype(int)"]),
        (np.where(FLOATS > 2, np.nan, 0.5), {}, ValueError, ["labels holds", "NaN"]),
        (IDS, {"classes": ["a", "b"]}, ValueError, ["hold 2", "2 classes", "0 to 1"]),
        (scores_of(IDS, 3), {"classes": ["a", "b"]}, ValueError, ["3 classes first", "2"]),
        (IDS, {"classes": "vok"}, ValueError, ["vok", "camvid"]),
        (IDS, {"classes": {"cat": "dog"}}, TypeError, ["'cat': 'dog'"]),
        (IDS, {"classes": [1, 2, 3]}, TypeError, ["[1, 2, 3]", "name"]),
        (IDS, {"palette": "viridis"}, ValueError, ["viridis", "clear"]),
        (IDS, {"palette": [(0, 0, 0)]}, ValueError, ["hold 2", "1 colours"]),
        (IDS, {"palette": np.zeros((3, 3))}, TypeError, ["float64", "0-255"]),
        (IDS, {"palette": [0, 0, 0]}, ValueError, ["(3,)", "(classes, 3)"]),
        (IDS, {"palette": [(0, 0, 256)] * 3}, ValueError, ["256"]),
        (IDS, {"opacity": 55}, ValueError, ["opacity=55", "0 to 1"]),
        ("labels.tiffany", {}, ValueError, ["labels.tiffany", ".png"]),
        (np.array([["a"] * W] * H), {}, TypeError, ["real numbers"]),
    ],
)
def test_labels_that_cannot_be_drawn(photo, labels, options, kind, facts):
    with raises_saying(kind, *facts):
        crfrnn.overlay(photo, labels, **options)


@pytest.mark.parametrize(
    ("given", "kind", "facts"),
    [
        (np.zeros((H, W, 5), np.uint8), ValueError, ["(6, 8, 5)", "RGB"]),
        (np.full((H, W, 3), 0.5), ValueError, ["0.5", "image * 255"]),
        (
            np.full((H, W, 3), 256, np.int64),
            TypeError,
            ["int64", "uint8", "256", "np.interp(image, (0, 256), (0, 255))"],
        ),
        (np.full((H, W, 3), -9, np.int16), TypeError, ["int16", "-9 to -9"]),
        (np.zeros((H, W, 3), complex), TypeError, ["complex128"]),
        (np.zeros((3, H, W), np.uint8), ValueError, ["(3, 6, 8)", "np.moveaxis(image, 0, -1)"]),
        ("none.jpg", ValueError, ["none.jpg"]),
    ],
)
def test_photos_that_cannot_be_drawn_on(given, kind, facts):
    with raises_saying(kind, *facts):
        crfrnn.overlay(given, IDS)


@pytest.mark.parametrize("options", [{"insets": -1}, {"titles": "ab"}, {"titles": ("a",)}, {"titles": None}])
def test_options_of_comparisons(photo, options):
    with raises_saying(ValueError, next(iter(options))):
        crfrnn.compare(photo, IDS, IDS, **options)


def test_the_map_at_fault_is_named(photo):
    with raises_saying(ValueError, "after have shape (5, 8)"):
        crfrnn.compare(photo, IDS, IDS[1:])


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2000, 3)])
def test_photos_of_any_shape(rng, shape):
    labels = rng.integers(0, 3, shape)
    crfrnn.compare(rng.integers(0, 256, (*shape, 3), np.uint8), labels, (labels + 1) % 3, truth=labels)


def test_smaller_scores_are_enlarged(rng):
    photo = rng.integers(0, 256, (40, 60, 3), np.uint8)
    halves = np.zeros((2, 4, 6), np.float32)
    halves[0, :, :3] = halves[1, :, 3:] = 1
    drawn = plain(photo, halves)
    assert (drawn[:, :30] == BLACK).all()
    assert (drawn[:, 30:] == MAROON).all()


@pytest.fixture
def files(photo, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save("photo.png")
    Image.fromarray(IDS).save("before.png")
    Path("classes.txt").write_text("background\ncat\ndog\n")
    np.save("after.npy", scores_of(np.roll(IDS, 1, axis=1), 3))
    Image.fromarray(255 * (IDS == 2).astype(np.uint8)).save("mask.png")
    return tmp_path


def test_the_command_draws_what_the_function_does(files, photo, capsys):
    command = "compare photo.png before.png after.npy -o out.png --classes classes.txt --truth before.png --titles a,b"
    assert main(command.split()) == 0
    changed = np.mean(np.roll(IDS, 1, axis=1) != IDS)
    assert capsys.readouterr().out == f"out.png: 8×6, {changed:.1%} of pixels changed\n"
    expected = crfrnn.compare(photo, "before.png", "after.npy", classes="classes.txt", truth=IDS, titles=("a", "b"))
    with Image.open("out.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))
    assert main(["compare", "photo.png", "mask.png", "mask.png", "-o", "out.jpg", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("always::crfrnn.InputWarning")
def test_the_command_tells_of_a_mask_beside_class_ids(files, capsys):
    two = np.where(IDS == 2, 8, 0).astype(np.uint8)
    Image.fromarray(two).save("two.png")
    Image.fromarray(np.where(IDS == 1, 15, two)).save("three.png")
    indexed = Image.fromarray(two)
    indexed.putpalette(voc_colours(np.arange(256)).tobytes())
    indexed.save("indexed.png")
    for before, after, options, told in (
        ("indexed", "mask", "", True),
        ("mask", "three", "", True),
        ("two", "mask", "", False),  # both are masks
        ("two", "mask", "--classes voc", True),
        ("two", "three", "", False),  # both are ids
    ):
        command = f"compare photo.png {before}.png {after}.png -o out.png {options}"
        assert main(command.split()) == 0
        said = capsys.readouterr()
        assert ("mask of two levels" in said.err) == told, command
        if before != "mask" and not told:
            changed = "0.0%" if after == "mask" else f"{np.mean(IDS == 1):.1%}"
            assert f"{changed} of pixels changed" in said.out


def test_the_command_counts_void_as_the_picture_does(tmp_path: Path, monkeypatch, capsys):
    """-1 and 255 are both void: 1 of 16 pixels changed, not all that are void."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4), "grey").save("photo.png")
    before = np.arange(16).reshape(4, 4) % 3
    after = before.copy()
    before[0], after[0], after[3, 3] = -1, 255, 1
    np.save("before.npy", before)
    np.save("after.npy", after)
    assert main(["compare", "photo.png", "before.npy", "after.npy", "--input", "labels", "-o", "out.png"]) == 0
    assert "6.2% of pixels changed" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["compare photo.png before.png after.npy", "refine after.npy photo.png"])
def test_classes_that_are_wrong_are_named_by_their_option(files, capsys, command):
    for wrong in ("vok", "0"):
        assert main([*command.split(), "-o", "overlay.png", "--classes", wrong]) == 1
        said = capsys.readouterr().err
        assert f"--classes {wrong}" in said
        assert "photo.png" not in said


@pytest.mark.parametrize(
    ("arguments", "status", "facts"),
    [
        ("photo.png before.png after.npy -o out.gif", 2, ["out.gif", ".png"]),
        ("photo.png before.png after.npy -o before.png", 2, ["before.png is one of the inputs"]),
        ("photo.png before.png after.npy -o out.png --titles one", 2, ["--titles"]),
        ("photo.png before.png after.npy -o out.png --insets -1", 2, ["--insets"]),
        ("photo.png before.png none.npy -o out.png", 1, ["none.npy"]),
        ("photo.png before.png after.npy -o out.png --classes voc", 1, ["after.npy", "3 classes", "21"]),
        ("photo.png before.png after.npy -o out.png --classes vok", 1, ["vok", "camvid"]),
    ],
)
def test_the_command_refuses(files, capsys, arguments, status, facts):
    try:
        found = main(["compare", *arguments.split()])
    except SystemExit as end:
        found = end.code
    said = capsys.readouterr().err
    assert found == status
    for fact in facts:
        assert fact in said


def test_refine_names_the_classes_of_an_overlay(files, photo, capsys):
    command = "refine after.npy photo.png -o overlay.png --classes classes.txt --iterations 0"
    assert main(command.split()) == 0
    expected = crfrnn.overlay(photo, "after.npy", classes="classes.txt")
    with Image.open("overlay.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))
    assert main(["refine", "mask.png", "photo.png", "-o", "overlay.png", "--iterations", "0"]) == 0
    with Image.open("overlay.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(crfrnn.overlay(photo, "mask.png")))
    assert main(["refine", "after.npy", "photo.png", "-o", "labels.png", "--classes", "voc"]) == 1
    assert "--classes" in capsys.readouterr().err


def test_activity_shows_what_was_worked_out(tmp_path):
    evaluated = np.zeros((2, 4, 5), bool)
    evaluated[0] = evaluated[1, :, :2] = True
    activity = crfrnn.Activity(2, (3, 3), evaluated)
    pixels = np.asarray(activity.picture())
    first, second = (pixels[27 : 27 + 256, left : left + 320] for left in (12, 344))
    orange = [255, 189, 106]  # 0.35 · 255 + 0.65 · (255, 153, 26)
    assert (first == orange).all()
    assert (second[:, :128] == orange).all()
    assert (second[:, 128:] == 255).all()
    assert activity._repr_png_()
    photo = np.full((4, 5, 3), (30, 60, 90), np.uint8)
    assert (np.asarray(activity.picture(photo))[27 : 27 + 256, 344 + 128 : 344 + 320] == 60).all()
    with raises_saying(ValueError, "(3, 5, 3)", "(4, 5)"):
        activity.picture(photo[:3])
    assert repr(activity) == "Activity(iterations=2, points=4×5, evaluated=70.0%)"
    assert "none" in repr(crfrnn.Activity(0, (), np.zeros((0, 4, 5), bool)))
    line = crfrnn.Activity(1, (3,), np.ones((1, 4), bool))
    assert line._repr_png_() is None
    with raises_saying(ValueError, "(1, 4)", "plot()"):
        line.picture()


def test_plots(rng):
    matplotlib = pytest.importorskip("matplotlib", reason="needs the plots extra")
    matplotlib.use("Agg")
    terms = crfrnn.pairwise_terms(rng.integers(0, 256, (H, W, 3), np.uint8), crfrnn.CRFParameters())
    unary = scores_of(IDS, 3)
    expected = [value for _, value in crfrnn.mean_field_trace(unary, terms, iterations=3)]
    axes = crfrnn.plot_trace(crfrnn.mean_field_trace(unary, terms, iterations=3))
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert crfrnn.plot_trace([3.0, 2.0], axes) is axes
    assert len(axes.lines) == 2
    activity = crfrnn.Activity(2, (3, 3), np.array([[True, True], [True, False]]))
    assert activity.plot().lines[0].get_ydata().tolist() == [100, 50]
    with raises_saying(ValueError, "no values"):
        crfrnn.plot_trace(iter([]), axes)
    with raises_saying(TypeError, "(1, 2)"):
        crfrnn.plot_trace([[1, 2]], axes)
    matplotlib.pyplot.close("all")


def test_plots_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with raises_saying(ImportError, "pip install 'crfrnn[plots]'"):
        crfrnn.plot_trace([1.0])


def test_the_base_install_draws():
    program = (
        "import sys; sys.modules['torch'] = sys.modules['matplotlib'] = None; import numpy as np, crfrnn;"
        "photo, labels = np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), int);"
        "print(crfrnn.overlay(photo, labels), crfrnn.compare(photo, labels, labels))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
