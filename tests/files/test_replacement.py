"""What `replacing` leaves behind: whole files with their permissions; links, pipes and devices; nothing unfinished."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from crfrnn.files import replacement
from crfrnn.files.frames import write_video
from crfrnn.files.locks import lock
from crfrnn.files.photos import write_grey, write_labels, write_picture, write_probabilities
from crfrnn.files.replacement import replacing
from crfrnn.files.tiff import write_tiff
from crfrnn.files.volumes import write_nifti
from errors import raises_saying

pytestmark = pytest.mark.skipif(os.name != "posix", reason="has other permissions and links")

MINE, OTHERS = replacement._machine(), "0" * 8


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(replacement, "_swept", set())


def write(path: str, content: bytes = b"new") -> None:
    with replacing(Path(path)) as handle:
        handle.write(content)


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def parts() -> list[str]:
    return sorted(path.name for path in Path().rglob("*.part"))


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_files_have_the_permissions_of_the_umask(mask: int, expected: int):
    before = os.umask(mask)
    try:
        write("new")
    finally:
        os.umask(before)
    assert mode("new") == expected


@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o666, 0o755])
def test_permissions_stay_and_nobody_else_reads_on_the_way(permissions: int):
    Path("old").write_bytes(b"old")
    os.chmod("old", permissions)
    with replacing(Path("old")) as handle:
        handle.write(b"new")
        assert stat.S_IMODE(os.fstat(handle.fileno()).st_mode) == permissions
    assert (mode("old"), Path("old").read_bytes()) == (permissions, b"new")


@pytest.mark.parametrize("there", [True, False])
def test_links_are_written_through(there: bool):
    Path("elsewhere").mkdir()
    if there:
        Path("elsewhere/file").write_bytes(b"old")
    os.symlink("elsewhere/file", "first")
    os.symlink("first", "second")
    write("second")
    assert Path("second").is_symlink()
    assert Path("elsewhere/file").read_bytes() == b"new"
    assert not Path("elsewhere/file").is_symlink()


def test_nobody_can_guess_the_name_on_the_way(monkeypatch):
    """A link of the name that the file will have on its way is neither followed nor replaced."""
    Path("victim").write_bytes(b"old")
    os.symlink("victim", f".crfrnn-{MINE}-{'5' * 16}.part")
    monkeypatch.setattr(replacement.secrets, "token_hex", lambda count: "5" * 2 * count)
    with raises_saying(OSError, "cannot write new", "File exists"):
        write("new")
    assert Path("victim").read_bytes() == b"old"
    names = [name for name in "ab" for _ in range(50)]
    monkeypatch.undo()
    assert len({str(replacement._new_name(Path(name))) for name in names}) == len(names)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_pipes_get_everything_at_the_end():
    pytest.importorskip("tifffile", reason="needs the volumes extra")
    os.mkfifo("pipe.tif")
    content: list[bytes] = []
    reader = threading.Thread(target=lambda: content.append(Path("pipe.tif").read_bytes()))
    reader.start()
    labels = np.arange(20_000, dtype=np.uint16).reshape(100, 200)
    write_tiff(Path("pipe.tif"), labels)
    reader.join()
    write_tiff(Path("file.tif"), labels)
    assert content == [Path("file.tif").read_bytes()]
    assert stat.S_ISFIFO(os.stat("pipe.tif").st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="has other devices")
@pytest.mark.parametrize("path", ["/dev/null", "link"])
def test_devices_stay_devices(path: str):
    os.symlink("/dev/null", "link")
    write(path)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert Path("link").is_symlink()


def test_what_is_refused_stays(monkeypatch):
    os.symlink("loop", "loop")
    Path("folder").mkdir()
    Path("file").write_bytes(b"old")
    for path, words in (
        ("loop", "Too many levels of symbolic links"),
        ("folder", "it is a folder"),
        ("file/within", "Not a directory"),
        ("a" * 300, "File name too long"),
    ):
        with raises_saying(OSError, f"cannot write {path}", words):
            write(path)
    monkeypatch.setattr(os, "access", lambda path, how: False)  # which is what users see who are not root
    with raises_saying(OSError, "cannot write file", "Permission denied"):
        write("file")
    assert Path("file").read_bytes() == b"old"
    assert not parts()


def test_the_longest_name_can_be_written():
    write("a" * 255)
    assert Path("a" * 255).read_bytes() == b"new"


@pytest.mark.parametrize("operator", [">", ">>"])
def test_where_a_process_prints_nothing_is_replaced(operator: str):
    Path("log").write_bytes(b"old\n")
    program = (
        "from pathlib import Path\nfrom crfrnn.files.replacement import replacing\n"
        "try:\n    with replacing(Path('/dev/stdout')) as handle: handle.write(b'new')\n"
        "except OSError as error: print(error)"
    )
    subprocess.run(f'{sys.executable} -c "{program}" {operator} log', shell=True, check=True)
    assert Path("log").read_text().splitlines()[-1].endswith("this process prints to it; name another file")


def test_what_killed_processes_left_is_swept():
    """Not what a living one is writing, what is on another machine today, of other kinds or of other names."""
    dead, alive, link = (f".crfrnn-{MINE}-{digit * 16}.part" for digit in "123")
    away, other = f".crfrnn-{OTHERS}-{'1' * 16}.part", f".crfrnn-{MINE}-mine.part"
    for name in (dead, alive, away, other):
        Path(name).write_bytes(b"half")
    os.symlink(other, link)
    with open(alive, "r+b") as handle:
        assert lock(handle.fileno())
        write("new")
        assert parts() == sorted([alive, away, link, other])
    replacement._swept.clear()
    os.utime(away, (0, 0))
    write("new")
    assert parts() == sorted([link, other])


def test_files_of_other_people_are_not_swept(monkeypatch):
    name = f".crfrnn-{MINE}-{'1' * 16}.part"
    Path(name).write_bytes(b"half")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    write("new")
    assert parts() == [name]


def test_a_new_file_that_another_process_sweeps_at_once_is_begun_again(monkeypatch):
    taken = []

    def lose(number: int) -> bool:
        taken.append(number)
        if len(taken) == 1:
            Path(parts()[0]).unlink()
        return len(taken) > 2 or len(taken) == 1

    monkeypatch.setattr(replacement, "lock", lose)
    write("new")
    assert len(taken) == 3
    assert (Path("new").read_bytes(), parts()) == (b"new", [])


def test_it_is_on_the_disk_before_the_old_one_is_gone(monkeypatch):
    steps = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, real=real: (steps.append(name), real(*given)))
    write("new")
    assert steps == ["fsync", "replace", "fsync"]


NOISE = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)


def save_tensors(path: Path) -> None:
    torch = pytest.importorskip("torch")
    with replacing(path) as handle:
        torch.save(torch.zeros(100_000), handle)


def save_video(path: Path) -> None:
    pytest.importorskip("av")
    write_video(path, [NOISE] * 5, 25)  # type: ignore[arg-type]


WRITERS = {
    "labels.png": lambda path: write_labels(path, NOISE[..., 0]),
    "grey.png": lambda path: write_grey(path, NOISE[..., 0]),
    "photo.png": lambda path: write_picture(path, NOISE),
    "photo.jpg": lambda path: write_picture(path, NOISE),
    "scores.npy": lambda path: write_probabilities(path, NOISE.astype(np.float32)),
    "scores.npz": lambda path: write_probabilities(path, np.random.default_rng(1).random((3, 100, 100))),
    "labels.tif": lambda path: write_tiff(path, NOISE[..., 0]),
    "labels.nii": lambda path: write_nifti(path, NOISE[..., 0], None, None),
    "labels.nii.gz": lambda path: write_nifti(path, NOISE[..., 0], None, None),
    "model.ckpt": save_tensors,
    "clip.mp4": save_video,
}


@pytest.mark.torch
@pytest.mark.parametrize("left", [0, 10_000, -1])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_message_and_the_old_file_stays(name: str, left: int):
    """At its first byte, on the way, and at its last byte."""
    resource = pytest.importorskip("resource")
    WRITERS[name](Path(name))
    limit = left if left >= 0 else Path(name).stat().st_size + left
    Path(name).write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with raises_saying(OSError, f"cannot write {name}: File too large"):
            WRITERS[name](Path(name))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Path(name).read_bytes() == b"old"
    assert not parts()
