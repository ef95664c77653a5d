"""COCO's masks in and out, with pycocotools as the judge."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from commands import status

mask_module = pytest.importorskip("pycocotools.mask")
HEIGHT, WIDTH = 40, 56


@pytest.fixture
def photo(rng) -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), 60)
    image[10:30, 15:40] = 190
    return (image + rng.integers(-9, 10, image.shape)).astype(np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    """A mask that misses a rim of two pixels of the object in the photo."""
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[12:28, 17:38] = True
    return found


def encoded(mask: np.ndarray, kind: str) -> object:
    runs = mask_module.encode(np.asfortranarray(mask.astype(np.uint8)))
    if kind == "compressed":
        return {"size": runs["size"], "counts": runs["counts"].decode()}
    if kind == "polygon":
        return [[17, 12, 38, 12, 38, 28, 17, 28]]
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": counts}


@pytest.fixture
def folder(tmp_path: Path, photo, mask, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.fromarray(photo).save("photos/a.png")
    Image.fromarray(photo).save("photos/COCO_val2014_000000000139.png")
    return tmp_path


def data_set(mask: np.ndarray, kind: str) -> dict:
    annotation = {"category_id": 7, "iscrowd": 0, "segmentation": encoded(mask, kind), "score": 0.5}
    return {
        "info": {"year": 2014},
        "images": [
            {"id": 4, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
            {"id": 139, "file_name": "x/COCO_val2014_000000000139.jpg", "height": HEIGHT, "width": WIDTH},
            {"id": 5, "file_name": "elsewhere.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 4, **annotation},
            {"id": 2, "image_id": 139, **annotation},
            {"id": 3, "image_id": 5, **annotation},
        ],
        "categories": [{"id": 7, "name": "cat"}],
    }


@pytest.mark.parametrize("kind", ["compressed", "counts", "polygon"])
def test_masks_of_a_data_set_are_refined_and_all_else_stays(folder, photo, mask, kind, capsys):
    given = data_set(mask, kind)
    Path("given.json").write_text(json.dumps(given))
    assert status("refine given.json photos -o refined.json --tolerance 0") == 0
    assert "2 masks of 2 photos refined, 1 left as they are" in capsys.readouterr().out
    written = json.loads(Path("refined.json").read_text())
    everything = replace(crfrnn.preset("photos"), tolerance=0)
    expected = crfrnn.refine(mask.astype(np.uint8), photo, everything, input="labels", return_labels=True)
    assert mask.sum() < expected.sum()
    for number in (0, 1):
        annotation = written["annotations"][number]
        np.testing.assert_array_equal(mask_module.decode(annotation["segmentation"]), expected)
        assert annotation["area"] == expected.sum()
        rows, columns = np.flatnonzero(expected.any(axis=1)), np.flatnonzero(expected.any(axis=0))
        assert annotation["bbox"] == [columns[0], rows[0], len(columns), len(rows)]
        for key in ("id", "image_id", "category_id", "score", "iscrowd"):
            assert annotation[key] == given["annotations"][number][key]
    assert written["annotations"][2] == given["annotations"][2]
    assert {key: written[key] for key in ("info", "images", "categories")} == {
        key: given[key] for key in ("info", "images", "categories")
    }


def test_results_of_one_photo(folder, mask, capsys):
    results = [{"image_id": 139, "category_id": 7, "score": 0.5, "segmentation": encoded(mask, "compressed")}]
    Path("given.json").write_text(json.dumps(results))
    assert status("refine given.json photos/COCO_val2014_000000000139.png -o refined.json") == 0
    written = json.loads(Path("refined.json").read_text())
    assert len(written) == 1
    assert written[0]["image_id"] == 139
    assert mask_module.decode(written[0]["segmentation"]).sum() > mask.sum()


def test_labels_written_as_results(folder, photo, rng):
    logits = rng.normal(0, 2, (3, HEIGHT, WIDTH)).astype(np.float32)
    np.save("scores.npy", logits)
    Image.fromarray(photo).save("12.png")
    assert status("refine scores.npy 12.png -o out.json") == 0
    labels = crfrnn.refine(logits, photo, return_labels=True)
    written = json.loads(Path("out.json").read_text())
    assert [each["category_id"] for each in written] == [1, 2]
    for each in written:
        assert each["image_id"] == 12
        np.testing.assert_array_equal(mask_module.decode(each["segmentation"]), labels == each["category_id"])


def one_mask(image: object, mask: np.ndarray, **more: object) -> dict[str, object]:
    return {"id": 1, "image_id": image, "category_id": 1, "segmentation": encoded(mask, "compressed"), **more}


def test_photos_of_one_name(folder, photo, mask, capsys):
    """In two folders of a data set: by their path, and refused where it does not tell."""
    for name in ("x/a.png", "y/a.png", "z/a.png"):
        Path(name).parent.mkdir()
        Image.fromarray(photo).save(name)
    images = [{"id": number, "file_name": name} for number, name in enumerate(("x/a.png", "y/a.png"))]
    content = {"images": images, "annotations": [one_mask(0, mask), one_mask(1, ~mask, id=2)]}
    Path("two.json").write_text(json.dumps(content))
    assert status("refine two.json y/a.png -o out.json") == 0
    first, second = json.loads(Path("out.json").read_text())["annotations"]
    assert first == content["annotations"][0]
    assert second["area"] != mask.size - mask.sum()
    assert status("refine two.json z/a.png -o none.json") == 1
    assert "z/a.png may be any of x/a.png, y/a.png in two.json" in capsys.readouterr().err
    assert not Path("none.json").exists()


def test_two_photos_of_one_image(folder, photo, mask, capsys):
    """The one of its name is refined; where neither or both have it, that is an error."""
    Path("given.json").write_text(json.dumps(data_set(mask, "compressed")))
    assert status("refine given.json photos -o out.json --preset deeplab") == 0
    Image.fromarray(255 - photo).save("photos/a.bmp")
    assert status("refine given.json photos photos/a.png -o both.json --preset deeplab") == 0
    assert "2 masks of 2 photos refined" in capsys.readouterr().out
    assert Path("both.json").read_bytes() == Path("out.json").read_bytes()
    Path("photos/a.png").rename("photos/a.jpeg")
    assert status("refine given.json photos -o both.json") == 1
    assert "photos/a.bmp and photos/a.jpeg have the same masks in given.json" in capsys.readouterr().err
    Path("results.json").write_text(json.dumps([one_mask(77, mask)]))
    assert status("refine results.json photos/a.bmp photos/a.jpeg -o both.json") == 1
    assert "have the same masks in results.json" in capsys.readouterr().err


def test_polygons_of_a_photo_that_was_resized(folder, capsys):
    image = {"id": 1, "file_name": "a.png", "height": 2 * HEIGHT, "width": 2 * WIDTH}
    annotation = {"id": 7, "image_id": 1, "category_id": 1, "segmentation": [[34, 24, 76, 24, 76, 56]]}
    Path("given.json").write_text(json.dumps({"images": [image], "annotations": [annotation]}))
    assert status("refine given.json photos -o out.json") == 1
    assert f"annotation 7 is {2 * WIDTH}×{2 * HEIGHT} pixels, but its photo {WIDTH}×{HEIGHT}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--time-theta 2", "--format labels", "--input probabilities", "--array x", "--num-classes 5"]
)
def test_options_that_say_nothing_about_masks_are_refused(folder, mask, option, capsys):
    Path("given.json").write_text(json.dumps([one_mask("a", mask)]))
    assert status(f"refine given.json photos -o out.json {option}") == 2
    assert f"leave out {option.split()[0]} " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "command", "code", "said"),
    [
        ("{", "given.json photos -o out.json", 1, "no complete JSON"),
        ('{"theta_beta": 3}', "given.json photos -o out.json", 1, "holds no annotations of COCO"),
        ("[]", "given.json photos -o out.json", 1, "holds none of the photos"),
        ("[]", "given.json photos -o out.png", 2, "end its name in .json"),
        ("[]", "given.json photos -o given.json", 2, "is one of the inputs"),
        ("[]", "none.json photos -o out.json", 1, "there is no such file"),
        (
            '[{"image_id": "a", "segmentation": {"size": [9, 9], "counts": [81]}}]',
            "given.json photos/a.png -o out.json",
            1,
            "annotation 0 is 9×9 pixels, but its photo 56×40",
        ),
        (
            '[{"image_id": "a", "segmentation": {"counts": "x"}}]',
            "given.json photos/a.png -o out.json",
            1,
            "annotation 0 holds no mask",
        ),
    ],
)
def test_files_that_are_no_masks(folder, content, command, code, said, capsys):
    Path("given.json").write_text(content)
    assert status(f"refine {command}") == code
    assert said in capsys.readouterr().err
    assert not Path("out.json").exists()
