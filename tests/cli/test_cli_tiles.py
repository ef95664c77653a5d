"""`crfrnn refine` tile by tile, from file to file."""

import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.cli import main
from crfrnn.contrast import contrast_theta_beta
from crfrnn.parameters import CRFParameters
from crfrnn.tiles import refine_tiled
from tile_cases import SHORT, coarse_logits, patches, tiled_probabilities

OPTIONS = "--theta-alpha 8 --theta-beta 20 --theta-gamma 2 --normalization symmetric --iterations 4"


@pytest.fixture
def image(rng):
    return patches(rng)


@pytest.fixture
def logits(rng):
    return coarse_logits(rng)


@pytest.fixture
def files(tmp_path: Path, logits, image, monkeypatch):
    np.save(tmp_path / "scores.npy", logits)
    np.save(tmp_path / "image.npy", image)
    Image.fromarray(image).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str) -> int:
    return main(f"refine {command} {OPTIONS}".split())


@pytest.mark.parametrize("name", ["out.png", "out.npy", "out.npy --format labels", "out.npz"])
@pytest.mark.parametrize("photo", ["image.npy", "image.png"])
def test_the_command_is_the_function(files, logits, image, name, photo, capsys):
    assert run(f"scores.npy {photo} --tile 45 -o {name}") == 0
    assert f"{name.split()[0]}: 130×90, 3 classes, 6 tiles of up to 91×69 pixels, " in capsys.readouterr().out
    path = files / name.split()[0]
    expected = tiled_probabilities(logits, image, SHORT, tile=45)
    if name == "out.npz":
        np.testing.assert_array_equal(np.load(path)["probabilities"], expected)
    elif name == "out.npy":
        np.testing.assert_array_equal(np.load(path), expected)
    else:
        labels = np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path))
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, expected.argmax(axis=0))
    assert sorted(each.name for each in files.iterdir()) == sorted(["image.npy", "image.png", path.name, "scores.npy"])


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"compression": "zlib", "tile": (32, 48)},
        {"compression": "zlib", "rowsperstrip": 7},
        {"compression": "zlib", "planarconfig": "separate", "tile": (16, 16)},
        {"tile": (32, 48)},
    ],
)
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_tiffs_are_read_a_part_at_a_time(files, logits, image, layout, depth):
    tifffile = pytest.importorskip("tifffile")
    scale = 1 if depth == np.uint8 else 100
    levels = image.astype(depth) * depth(scale)
    planar = layout.get("planarconfig") == "separate"
    tifffile.imwrite("image.tif", np.moveaxis(levels, -1, 0) if planar else levels, photometric="rgb", **layout)
    assert main(f"refine scores.npy image.tif {OPTIONS} --theta-beta {20 * scale} --tile 45 -o out.tif".split()) == 0
    expected = refine_tiled(logits, levels, replace(SHORT, theta_beta=20 * scale), tile=45)
    with tifffile.TiffFile("out.tif") as written:
        assert written.series[0].axes == "YX"
        np.testing.assert_array_equal(written.asarray(), expected)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_grey_photos_are_read_as_untiled(files, logits, image, compression):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite("grey.tif", image[..., 0], compression=compression)
    assert run("scores.npy grey.tif --tile 1000 -o tiled.npy") == 0
    assert run("scores.npy grey.tif -o whole.npy") == 0
    np.testing.assert_array_equal(np.load("tiled.npy"), np.load("whole.npy"))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_multispectral_tiffs(files, logits, image, rng, compression):
    tifffile = pytest.importorskip("tifffile")
    bands = np.concatenate([image, image[..., ::-1] // 2], axis=-1).astype(np.uint16)
    tifffile.imwrite("pages.tif", np.moveaxis(bands, -1, 0), photometric="minisblack", compression=compression)
    tifffile.imwrite("samples.tif", bands, photometric="minisblack", planarconfig="contig", compression=compression)
    expected = crfrnn.refine(logits, bands, SHORT)
    for name in ("pages.tif", "samples.tif"):
        for tiling in ("--tile 1000", ""):
            assert run(f"scores.npy {name} {tiling} -o out.npy") == 0
            np.testing.assert_array_equal(np.load("out.npy"), expected)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_label_tiffs(files, logits, image, compression):
    tifffile = pytest.importorskip("tifffile")
    labels = logits.argmax(axis=0).astype(np.uint8)
    tifffile.imwrite("labels.tif", labels, compression=compression)
    assert run("labels.tif image.npy --tile 45 -o out.npy --format labels") == 0
    np.testing.assert_array_equal(np.load("out.npy"), refine_tiled(labels, image, SHORT, input="labels", tile=45))


def test_an_overlay_by_tiles(files, capsys):
    assert run("scores.npy image.npy --tile 1000 -o tiled.png --format overlay") == 0
    assert run("scores.npy image.png -o whole.png --format overlay") == 0
    with Image.open("tiled.png") as tiled, Image.open("whole.png") as whole:
        np.testing.assert_array_equal(np.asarray(tiled), np.asarray(whole))


def test_contrast_is_that_of_the_image(files, logits, image, capsys):
    assert (
        main(["refine", "scores.npy", "image.npy", "--theta-beta", "contrast", "--tile", "1000", "-o", "out.npy"]) == 0
    )
    levels = contrast_theta_beta(image)
    assert f"(θ_β {levels[0]:.3g}, {levels[1]:.3g}, {levels[2]:.3g})" in capsys.readouterr().out
    expected = crfrnn.refine(logits, image, CRFParameters(theta_beta=levels))
    np.testing.assert_array_equal(np.load("out.npy"), expected)


def test_memory_decides_the_tiles(files, capsys):
    assert run("scores.npy image.npy --memory 4GB -o out.npy") == 0
    assert "1 tile of up to 130×90 pixels" in capsys.readouterr().out
    assert run("scores.npy image.npy --memory 122MB --overlap 10 -o out.npy") == 0
    assert "1 tiles" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "status", "facts"),
    [
        ("--tile 0", 2, ["--tile must be at least 1"]),
        ("--overlap=-1", 2, ["--overlap must be at least 0"]),
        ("--memory 4", 2, ["'4' is no amount of memory", "such as 4GB"]),
        ("--memory plenty", 2, ["'plenty' is no amount"]),
        ("--memory 50MB", 2, ["--memory must be above 120 MB"]),
        ("--memory 120.01MB", 1, ["takes 4.68e-05 GB", "use .npy or TIFF"]),
        ("--memory 121MB", 1, ["a margin of 24 × 24", "give more memory or a smaller overlap"]),
    ],
)
def test_tiles_that_cannot_be(files, capsys, options, status, facts):
    ended = None
    output = "out.png --array x" if "120.01" in options else "out.npy"
    try:
        ended = run(f"scores.npy image.png {options} -o {output}")
    except SystemExit as end:
        ended = end.code
    said = capsys.readouterr().err
    assert ended == status, said
    assert all(fact in said for fact in facts), said
    assert not (files / output.split()[0]).exists()


@pytest.mark.parametrize("name", ["out.npy", "out.tif"])
def test_an_interrupted_run_leaves_the_old_file(files, monkeypatch, name):
    if name == "out.tif":
        pytest.importorskip("tifffile")
    (files / name).write_bytes(b"old")
    before = sorted(path.name for path in files.iterdir())
    refine = crfrnn.tiles.refine_unary
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return refine(*arguments, **options)

    monkeypatch.setattr("crfrnn.tiles.refine_unary", interrupted)
    assert run(f"scores.npy image.npy --tile 45 -o {name}") == 130
    assert len(calls) == 3
    assert (files / name).read_bytes() == b"old"
    assert sorted(path.name for path in files.iterdir()) == before


def test_a_damaged_compressed_tiff(files, image, capsys):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite("image.tif", image, photometric="rgb", compression="zlib", rowsperstrip=7)
    content = bytearray((files / "image.tif").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 300] = bytes(300)
    (files / "image.tif").write_bytes(content)
    assert run("scores.npy image.tif --tile 45 -o out.tif") == 1
    assert "cannot read image.tif as TIFF" in capsys.readouterr().err
    assert not (files / "out.tif").exists()


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="pages cannot be given back here")
def test_scores_are_not_kept_in_memory(files, logits, image):
    """The resident size of the maps, which the system counts by the page, is nothing between tiles."""
    np.save("large.npy", logits.repeat(20, axis=0))
    mapped = np.load("large.npy", mmap_mode="r")
    resident = []

    def watched(tiles):
        for tile in tiles:
            yield tile
            resident.append(resident_kilobytes("large.npy"))

    refine_tiled(mapped, image, SHORT, tile=45, progress=watched)
    assert len(resident) == 6
    assert max(resident) == 0


def resident_kilobytes(name: str) -> int:
    found = 0
    mapped = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            mapped = line.endswith(name)
        elif mapped and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found
