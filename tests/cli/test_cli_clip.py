"""Frames refined together in time, from folders and videos."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from commands import status
from crfrnn.cli import clip as clip_module
from crfrnn.cli.clip_files import Clip
from crfrnn.files.frames import Video, write_video
from crfrnn.memory import tile_bytes

FRAMES, HEIGHT, WIDTH, CLASSES = 5, 16, 24, 3
THROUGH_TIME = replace(crfrnn.preset("photos"), theta_alpha=(20, 20, 2), theta_gamma=(3, 3, 2), tolerance=0)
OPTIONS = "--time-theta 2 --theta-alpha 20 --tolerance 0"


@pytest.fixture
def clip(rng) -> np.ndarray:
    """A bright square that moves over a dark ground."""
    image = np.full((FRAMES, HEIGHT, WIDTH, 3), 60)
    for number, frame in enumerate(image):
        frame[4:12, 2 + 2 * number : 10 + 2 * number] = 190
    return (image + rng.integers(-5, 6, image.shape)).astype(np.uint8)


@pytest.fixture
def logits(rng) -> np.ndarray:
    return rng.normal(0, 1, (CLASSES, FRAMES, HEIGHT, WIDTH)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, clip, logits, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("frames", "scores"):
        Path(name).mkdir()
    for number in range(FRAMES):
        Image.fromarray(clip[number]).save(f"frames/f{number}.png")
        np.save(f"scores/f{number}.npy", logits[:, number])
    np.save("scores.npy", logits)
    np.save("turned.npy", np.moveaxis(logits, 0, 1))
    return tmp_path


@pytest.mark.parametrize("scores", ["scores", "scores.npy", "turned.npy"])
def test_frames_are_a_volume_in_time(folder, clip, logits, scores, capsys):
    expected = crfrnn.refine(logits, clip, THROUGH_TIME, return_labels=True)
    assert status(f"refine {scores} frames -o out {OPTIONS}") == 0
    assert "out: 24×16, 5 frames, 3 classes" in capsys.readouterr().out
    assert sorted(path.name for path in Path("out").iterdir()) == [f"f{number}.png" for number in range(FRAMES)]
    found = np.stack([np.asarray(Image.open(f"out/f{number}.png")) for number in range(FRAMES)])
    np.testing.assert_array_equal(found, expected)
    alone = crfrnn.refine(logits[:, 0], clip[0], theta_alpha=20, tolerance=0, return_labels=True)
    assert (found[0] != alone).any()


@pytest.mark.parametrize(("output", "complete"), [("out", True), ("out.npy", False), ("out.mp4", False)])
def test_a_later_window_that_fails(folder, logits, capsys, output, complete):
    """Frames of a folder that are complete stay, and are named; nothing half-written is left."""
    if output == "out.mp4":
        pytest.importorskip("av")
    logits[:, 4, 2, 3] = np.nan
    np.save("scores/f4.npy", logits[:, 4])
    assert status(f"refine scores frames -o {output} {OPTIONS} --tile 2 --overlap 1") == 1
    said = capsys.readouterr().err
    assert "NaN" in said
    if complete:
        assert "3 frames of 5, f0 to f2, are complete in out; the others are not new" in said
        assert sorted(path.name for path in Path("out").iterdir()) == ["f0.png", "f1.png", "f2.png"]
    else:
        assert not Path(output).exists()
    assert not list(Path().rglob("*.part"))


def test_other_results(folder, clip, logits):
    assert status(f"refine scores frames -o out.npy {OPTIONS}") == 0
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(logits, clip, THROUGH_TIME))
    assert status(f"refine scores frames -o folder --format npy {OPTIONS}") == 0
    np.testing.assert_array_equal(np.load("folder/f3.npy"), np.load("out.npy")[:, 3])
    assert status(f"refine scores frames -o tinted --format overlay {OPTIONS}") == 0
    assert len(list(Path("tinted").glob("*.jpg"))) == FRAMES
    assert status(f"refine scores frames -o tiles.npy --tile 16 --overlap 60 {OPTIONS}") == 0
    np.testing.assert_allclose(np.load("tiles.npy"), np.load("out.npy"), atol=1e-6)


@pytest.mark.parametrize("scores", ["scores", "scores.npy"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "gif"])
def test_videos(folder, clip, logits, scores, suffix):
    av = pytest.importorskip("av")
    if suffix == "webm" and "libvpx-vp9" not in av.codecs_available:
        pytest.skip("this build of FFmpeg has no VP9")
    write_video(Path(f"clip.{suffix}"), clip, 10)
    found = Video(Path(f"clip.{suffix}"))
    assert (len(found), found.rate) == (FRAMES, 10)
    decoded = np.stack([found[number] for number in range(FRAMES)])
    assert decoded.shape == clip.shape
    assert np.abs(decoded.astype(int) - clip).mean() < 30
    assert status(f"refine {scores} clip.{suffix} -o out.npy {OPTIONS}") == 0
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(logits, decoded, THROUGH_TIME))
    assert status(f"refine {scores} clip.{suffix} -o out.{suffix} {OPTIONS}") == 0
    tinted = Video(Path(f"out.{suffix}"))
    assert (len(tinted), *tinted[0].shape) == clip.shape


def test_odd_sizes_of_videos(tmp_path, rng):
    pytest.importorskip("av")
    write_video(tmp_path / "odd.mp4", rng.integers(0, 256, (3, 15, 21, 3)).astype(np.uint8), 25)
    video = Video(tmp_path / "odd.mp4")
    assert (len(video), *video[2].shape) == (3, 16, 22, 3)
    np.testing.assert_array_equal(video[0], Video(tmp_path / "odd.mp4")[0])  # back to the first


@pytest.mark.parametrize("output", ["out", "out.npy"])
def test_windows_in_time_are_the_whole(tmp_path, rng, output, monkeypatch, capsys):
    """To 0.005 of a probability, for frames of noise; and no more frames are read at a time than memory holds."""
    count, shape = 40, (10, 12)
    monkeypatch.chdir(tmp_path)
    for name in ("frames", "scores"):
        Path(name).mkdir()
    image = rng.integers(0, 256, (count, *shape, 3)).astype(np.uint8)
    scores = rng.normal(0, 1, (2, count, *shape)).astype(np.float32)
    for number in range(count):
        Image.fromarray(image[number]).save(f"frames/f{number}.png")
        np.save(f"scores/f{number}.npy", scores[:, number])
    parameters = replace(crfrnn.preset("photos"), theta_alpha=(20, 20, 1), theta_gamma=(3, 3, 1), tolerance=0)
    expected = crfrnn.refine(scores, image, parameters)

    held, part = [], Clip.part
    monkeypatch.setattr(Clip, "part", lambda clip, time: (held.append(time.stop - time.start), part(clip, time))[1])
    frame = tile_bytes(shape[0] * shape[1], 2, 6, 4)
    monkeypatch.setattr(clip_module, "half_of_memory", lambda: 14 * frame)
    options = "--time-theta 1 --theta-alpha 20 --tolerance 0 --format npy"
    assert status(f"refine scores frames -o {output} {options}") == 0
    assert "5 windows in time" in capsys.readouterr().out
    assert max(held) <= 14
    files = [f"out/f{number}.npy" for number in range(count)]
    found = np.load(output) if output == "out.npy" else np.stack([np.load(file) for file in files], axis=1)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    monkeypatch.setattr(clip_module, "half_of_memory", lambda: 6 * frame)
    assert status(f"refine scores frames -o none {options}") == 1
    assert "a frame with the 6 around it" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert status(f"refine scores frames -o tiles.npy --tile 10 --overlap 40 {options}") == 0
    np.testing.assert_allclose(np.load("tiles.npy"), expected, atol=1e-5)


def test_frames_follow_the_numbers_in_their_names(folder, clip, logits):
    """9 before 10, in folders of photos, of scores and of both."""
    for kind in ("frames", "scores"):
        for path in sorted(Path(kind).iterdir(), key=lambda path: path.name, reverse=True):
            path.rename(path.with_stem(str(int(path.stem[1:]) + 8)))
    expected = crfrnn.refine(logits, clip, THROUGH_TIME)
    for scores in ("scores", "scores.npy"):
        assert status(f"refine {scores} frames -o out.npy {OPTIONS}") == 0
        np.testing.assert_array_equal(np.load("out.npy"), expected)


def test_masks_of_frames_that_are_empty_at_first(folder, clip):
    """All frames get the levels that some of them have."""
    labels = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for number in range(1, FRAMES):
        labels[number, 4:12, 2 + 2 * number : 10 + 2 * number] = 1
    Path("masks").mkdir()
    for number in range(FRAMES):
        Image.fromarray(255 * labels[number]).save(f"masks/f{number}.png")
    assert status(f"refine masks frames -o out {OPTIONS}") == 0
    expected = crfrnn.refine(labels, clip, THROUGH_TIME, input="labels", return_labels=True)
    assert expected.any()
    for number in range(FRAMES):
        with Image.open(f"out/f{number}.png") as found:
            np.testing.assert_array_equal(np.asarray(found), 255 * expected[number])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_labels_of_all_frames_in_one_array(folder, clip, logits, dtype):
    tifffile = pytest.importorskip("tifffile", reason="needs the volumes extra")
    labels = logits.argmax(axis=0)
    np.save("labels.npy", labels.astype(dtype))
    assert status(f"refine labels.npy frames -o out.tif {OPTIONS}") == 0
    expected = crfrnn.refine(labels, clip, THROUGH_TIME, input="labels", return_labels=True)
    np.testing.assert_array_equal(tifffile.imread("out.tif"), expected)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("scores frames -o out --time-theta 0", 2, "'0' is no number of frames"),
        ("scores frames frames -o out --time-theta 1", 2, "one video or one folder"),
        ("scores frames -o frames --time-theta 1", 2, "is one of the inputs"),
        ("scores frames -o out --time-theta 1 --spacing 2", 2, "does not go with --spacing"),
        ("scores frames -o out.mp4 --time-theta 1 --format labels", 2, "leave out --format"),
        ("scores no.mp4 -o out", 2, "IMAGE is a video: give --time-theta"),
        ("scores bad.mp4 -o out --time-theta 1", 1, "cannot read bad.mp4 as a video"),
        ("short.npy frames -o out --time-theta 1", 1, "expected (classes, 5, H, W) for 5 frames"),
        ("scores odd -o out --time-theta 1", 1, "frames are alike"),
        ("gap frames -o out --time-theta 1", 1, "f2.png has no scores in gap, but frames before and after it have"),
        ("gap.npy frames -o out --time-theta 1", 1, "expected (classes, 5, H, W) for 5 frames"),
        ("scores frames/f0.png -o out --time-theta 1", 2, "frames/f0.png is neither a video nor a folder"),
        ("scores frames -o out.png --time-theta 1", 2, "out.png is one picture for 5 frames"),
        ("scores frames -o out.json --time-theta 1", 2, "out.json is one picture for 5 frames"),
    ],
)
def test_clips_that_cannot_be(folder, logits, command, code, said, capsys):
    pytest.importorskip("av")
    Path("bad.mp4").write_bytes(b"no video")
    np.save("short.npy", logits[:, :4])
    np.save("gap.npy", logits[0, 0])
    shutil.copytree("scores", "gap")
    Path("gap/f2.npy").unlink()
    Path("odd").mkdir()
    for number in range(FRAMES):
        Image.new("RGB", (WIDTH + 2 * (number == 3), HEIGHT)).save(f"odd/f{number}.png")
    assert status(f"refine {command}") == code
    assert said in capsys.readouterr().err
    assert not Path("out").exists()
