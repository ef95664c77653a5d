"""`crfrnn refine` of folders on several threads, in bounded memory."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn import jobs
from crfrnn.cli import main
from crfrnn.cli.refinement import Refinement
from crfrnn.jobs import Memory
from errors import raises_saying

CLASSES, SHAPES = 3, [(18, 26), (21, 17), (30, 22), (9, 40), (25, 25), (18, 26), (40, 9)]


@pytest.fixture
def folders(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders scores/ and photos/ with a photo of each of the sizes."""
    for folder in ("scores", "photos"):
        (tmp_path / folder).mkdir()
    for index, shape in enumerate(SHAPES):
        np.save(tmp_path / f"scores/{index}.npy", rng.normal(0, 2, (CLASSES, *shape)).astype(np.float32))
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(tmp_path / f"photos/{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected_labels(index: int) -> np.ndarray:
    photo = np.asarray(Image.open(f"photos/{index}.png"))
    return crfrnn.refine(np.load(f"scores/{index}.npy"), photo).argmax(axis=0)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("share", [1, 10**9], ids=["little memory", "plenty"])
def test_every_photo_gets_its_own_labels(folders: Path, threads: int, share: int, monkeypatch) -> None:
    monkeypatch.setattr(jobs, "half_of_memory", lambda: share)
    assert main(["refine", "scores", "photos", "-o", "out", "--threads", str(threads)]) == 0
    for index in range(len(SHAPES)):
        np.testing.assert_array_equal(np.asarray(Image.open(f"out/{index}.png")), expected_labels(index))


def test_photos_are_refined_at_the_same_time(folders: Path, monkeypatch) -> None:
    """As many as there are threads, on one thread each; where memory holds one, it gets all of them."""
    seen: list[tuple[int, int]] = []
    running, lock, refine = [0], threading.Lock(), Refinement.write

    def watched(self: Refinement, *arguments):
        with lock:
            running[0] += 1
        time.sleep(0.05)
        with lock:
            seen.append((running[0], self.threads))
            running[0] -= 1
        return refine(self, *arguments)

    monkeypatch.setattr(Refinement, "write", watched)
    assert main(["refine", "scores", "photos", "-o", "out", "--threads", "3"]) == 0
    assert {threads for _, threads in seen} == {1}
    assert max(at_once for at_once, _ in seen) == 3
    seen.clear()
    monkeypatch.setattr(jobs, "half_of_memory", lambda: 1)
    assert main(["refine", "scores", "photos", "-o", "out", "--threads", "3", "--overwrite"]) == 0
    assert set(seen) == {(1, 3)}


def test_an_interrupt_ends_the_work(folders: Path, monkeypatch, capsys) -> None:
    done = []

    def interrupted(self: Refinement, pair, output: Path, *arguments):
        if done:
            time.sleep(0.2)  # photos take their time, in which the others are called off
        done.append(output)
        raise KeyboardInterrupt

    monkeypatch.setattr(Refinement, "write", interrupted)
    assert main(["refine", "scores", "photos", "-o", "out", "--threads", "1"]) == 130
    assert len(done) < len(SHAPES)
    assert "interrupted" in capsys.readouterr().err


def test_memory_is_shared() -> None:
    memory, most, used, lock = Memory(100), [0], [0], threading.Lock()

    def work(needed: int) -> None:
        with memory.taken(needed):
            with lock:
                used[0] += min(needed, 100)
                most[0] = max(most[0], used[0])
            time.sleep(0.01)
            with lock:
                used[0] -= min(needed, 100)

    threads = [threading.Thread(target=work, args=(needed,)) for needed in (60, 50, 40, 1000, 10, 90, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert most[0] == 100


def test_memory_is_given_back_after_an_error() -> None:
    memory = Memory(10)
    for _ in range(3):
        with raises_saying(ValueError, "broken"), memory.taken(10):
            raise ValueError("broken")


def test_scores_of_a_padded_square(folders: Path, rng, capsys) -> None:
    """Rows below the photo, which is wider than high, show padding: they must not be seen."""
    scores = rng.normal(0, 2, (CLASSES, 8, 8)).astype(np.float32)
    np.save("square.npy", scores)
    Image.fromarray(rng.integers(0, 256, (20, 40, 3), np.uint8)).save("photo.png")
    command = ["refine", "square.npy", "photo.png", "-o", "out.npy", "--iterations", "0"]
    assert main(command) == 0
    assert "give --square-scores" in capsys.readouterr().out
    stretched = np.load("out.npy")
    assert main([*command, "--square-scores"]) == 0
    assert "square-scores" not in capsys.readouterr().out
    seen = np.load("out.npy")
    np.testing.assert_allclose(seen.sum(axis=0), 1, atol=1e-5)
    assert np.abs(seen - stretched).max() > 0.1
    # Pixel centres: 40 pixels of the side among 8 scores; the photo has half of the rows.
    at = ((np.arange(40) + 0.5) / 5 - 0.5).clip(0, 7)
    low = np.floor(at).astype(int).clip(0, 6)
    rows = scores[:, low] + (at - low)[None, :, None] * (scores[:, low + 1] - scores[:, low])
    fine = rows[:, :, low] + (at - low) * (rows[:, :, low + 1] - rows[:, :, low])
    inside = fine[:, :17]  # the last rows of the photo are interpolated with none below it
    exponentials = np.exp(inside - inside.max(axis=0))
    np.testing.assert_allclose(seen[:, :17], exponentials / exponentials.sum(axis=0), atol=1e-4)
