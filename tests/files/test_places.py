"""Places that fsspec reaches, here its file system in memory, beside those of this machine."""

import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import status
from crfrnn.data import SegmentationData
from crfrnn.files.classes import class_set
from crfrnn.files.locks import waiting_lock
from crfrnn.files.places import delivered, fetched, is_elsewhere, is_folder, is_there, names_in, names_there, place
from crfrnn.files.replacement import beacon, replacing
from errors import raises_saying
from toy_data import CLASSES, write_toy_data

upath = pytest.importorskip("upath", reason="needs the cluster extra")


@pytest.fixture
def away(tmp_path: Path):
    """An empty folder in memory."""
    folder = upath.UPath(f"memory://{tmp_path.name}")
    yield folder
    folder.fs.store.clear()


def copied(source: Path, target) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source).as_posix()).write_bytes(path.read_bytes())


def test_what_is_a_place(tmp_path: Path) -> None:
    for given in ("photo.jpg", "a/b", r"C:\a", str(tmp_path), tmp_path, "C:/a"):
        assert place(given) == Path(given)
        assert not is_elsewhere(place(given))
    assert place(f"file://{tmp_path}") == tmp_path
    found = place("memory://a/b.png")
    assert is_elsewhere(found)
    assert (found.name, str(found.parent / "c")) == ("b.png", "memory://a/c")
    with raises_saying(ValueError, "cannot reach nothing://a"):
        place("nothing://a")


def test_names(away, tmp_path: Path) -> None:
    for name in ("a.png", "b.npy", ".hidden", "inside/c.png"):
        (away / name).write_bytes(b"")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for folder in (away, tmp_path):
        assert sorted(names_in(folder)) == ["a.png", "b.npy"]
        assert names_there(folder) == {"a.png", "b.npy"}
        assert names_there(folder / "none") == set()
        assert is_folder(folder / "inside")
        assert not is_folder(folder / "a.png")
        assert is_there(folder / "a.png")
        assert not is_there(folder / "none")
    with raises_saying(ValueError, "cannot list", "none", "no such file or folder"):
        list(names_in(away / "none"))


def test_files_are_copied_here_and_errors_name_where_they_lie(away, tmp_path: Path) -> None:
    for name in ("one/a.npz", "one/a.pkl", "two/a.npz"):
        (away / name).write_bytes(name.encode())
    (tmp_path / "b").touch()
    places = [away / "one/a.npz", away / "two/a.npz", away / "one/a.pkl", tmp_path / "b"]
    with fetched(*places) as paths:
        assert [path.read_bytes() for path in paths[:3]] == [b"one/a.npz", b"two/a.npz", b"one/a.pkl"]
        assert paths[0].with_suffix(".pkl") == paths[2]
        assert paths[3] == tmp_path / "b"
    assert not paths[0].exists()
    with raises_saying(ValueError, f"cannot use {away}/one/a.npz"), fetched(*places) as paths:
        raise ValueError(f"cannot use {paths[0]}")
    with pytest.raises(OSError, match="No such file") as caught, fetched(*places) as paths:
        (paths[0].parent / "c").read_bytes()
    assert caught.value.filename == f"{away}/one/c"
    with raises_saying(ValueError, f"cannot read {away}/none.npy", "no such file"), fetched(away / "none.npy"):
        pass


def test_results_are_there_whole_or_not_at_all(away, tmp_path: Path) -> None:
    for folder in (away, tmp_path):
        target = folder / "new" / "a.txt"
        with delivered(target) as path, replacing(path) as handle:
            handle.write(b"first")
        assert target.read_bytes() == b"first"
        with suppress(ZeroDivisionError), delivered(target) as path, replacing(path) as handle:
            handle.write(b"sec")
            1 / 0  # noqa: B018
        assert target.read_bytes() == b"first"
        assert [each.name for each in target.parent.iterdir()] == ["a.txt"]
    with raises_saying(OSError, f"cannot write {away}/new/b.txt"), delivered(away / "new/b.txt") as path:
        pass  # nothing was written here, so there is nothing to copy


def test_file_systems_in_which_files_grow(tmp_path: Path) -> None:
    """fsspec's own for this machine stands for them, as for SFTP."""
    target = upath.UPath(f"local://{tmp_path}/new/a.txt")
    with delivered(target) as path:
        path.write_bytes(b"all of it")
    assert (tmp_path / "new/a.txt").read_bytes() == b"all of it"
    with raises_saying(OSError, "cannot write"), delivered(target) as path:
        path.mkdir()  # which cannot be copied
    assert (tmp_path / "new/a.txt").read_bytes() == b"all of it"
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_commands_read_and_write_there(away, tmp_path: Path, rng, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scores", "photos"):
        Path(name).mkdir()
    for index in range(4):
        np.save(f"scores/{index}.npy", rng.normal(0, 2, (3, 20, 30)).astype(np.float32))
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(f"photos/{index}.png")
    Path("photos/2.png").write_bytes(Path("photos/2.png").read_bytes()[:50])
    copied(tmp_path, away)
    assert status("refine scores photos -o out") == 1
    here = capsys.readouterr()
    (away / "out" / "1.png").write_bytes(b"done before")
    assert status(f"refine {away}/scores {away}/photos -o {away}/out") == 1
    there = capsys.readouterr()
    assert (
        there.out
        == f"{away}/out: 2 refined, 1 already there, 1 failed; --overwrite redoes what is there; "
        + (here.out.rpartition("; ")[2])
    )
    assert there.err.replace(f"{away}/", "") == here.err
    assert (away / "out" / "1.png").read_bytes() == b"done before"
    for name in ("0.png", "3.png"):
        assert (away / "out" / name).read_bytes() == Path("out", name).read_bytes()
    assert status(f"refine {away}/scores/0.npy photos/0.png -o {away}/one.npz") == 0
    assert status("refine scores/0.npy photos/0.png -o one.npz") == 0
    assert (away / "one.npz").read_bytes() == Path("one.npz").read_bytes()


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("refine memory://a/scores memory://a/photos -o out --ray", 2, "in the memory of this process"),
        ("refine memory://a/x.npy memory://a/x.png -o out.png", 1, "cannot read memory://a/x.npy"),
        ("refine memory://a/c.json photos -o out.json", 2, "copy memory://a/c.json here first"),
        ("refine memory://a/s memory://a/i -o out --time-theta 2", 2, "copy memory://a/s here first"),
        ("refine nothing://a photos -o out", 2, "cannot reach nothing://a"),
        ("refine s.npy p.png -o out.png --ray", 1, "there is no file or folder s.npy"),
        ("refine c.json photos -o out.json --ray", 2, "leave out --ray"),
        ("refine --ray scores photos -o out", 2, "write --ray behind the files, or with its address, --ray=auto"),
    ],
)
def test_what_does_not_go_there(command: str, code: int, words: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    upath.UPath("memory://a/scores/1.npy").write_bytes(b"")
    upath.UPath("memory://a/photos/1.png").write_bytes(b"")
    assert status(command) == code
    assert words in " ".join(capsys.readouterr().err.split())


def test_ray_is_an_extra(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    for name in ("scores", "photos"):
        Path(name).mkdir()
    np.save("scores/1.npy", np.zeros((3, 8, 8), np.float32))
    Image.new("RGB", (8, 8)).save("photos/1.png")
    assert status("refine scores photos -o out --ray") == 1
    assert "pip install 'crfrnn[cluster]'" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_data_set_elsewhere(away, tmp_path: Path) -> None:
    write_toy_data(tmp_path / "data", 3, 2)
    copied(tmp_path / "data", away)
    here, there = (SegmentationData(root, "val", class_set(CLASSES)) for root in (tmp_path / "data", away))
    assert [pair.name for pair in there.pairs] == [pair.name for pair in here.pairs]
    for mine, theirs in zip(there, here, strict=True):
        np.testing.assert_array_equal(mine.image, theirs.image)
        np.testing.assert_array_equal(mine.labels, theirs.labels)
    (away / "labels" / f"{here.pairs[0].name}.png").write_bytes(b"no picture")
    with raises_saying(ValueError, f"cannot read {away}/labels/{here.pairs[0].name}.png"):
        there[0]


def test_a_beacon_is_there_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with beacon(folder) as path:
        assert path.parent == folder
        assert path.exists()
        with replacing(folder / "a") as handle:  # which looks for what killed processes have left
            handle.write(b"a")
        assert path.exists()
        assert names_there(folder) == {"a"}
    assert not path.exists()
    (tmp_path / "file").touch()
    with raises_saying(OSError, "cannot write to", "file"), beacon(tmp_path / "file"):
        pass


def test_a_lock_alone_waits_for_those_beside_each_other(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []

    def hold(name: str, alone: bool, seconds: float) -> None:
        with waiting_lock(path, alone):
            order.append(f"{name} has it")
            time.sleep(seconds)
            order.append(f"{name} leaves it")

    threads = [threading.Thread(target=hold, args=(name, False, 0.3)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    while len(order) < 2:
        time.sleep(0.01)
    hold("c", True, 0)
    for thread in threads:
        thread.join()
    assert order[:2] in (["a has it", "b has it"], ["b has it", "a has it"])
    assert order[-2:] == ["c has it", "c leaves it"]
