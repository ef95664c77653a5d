"""Whatever fails ends in one line that names the file, with a traceback only after --debug, on any terminal."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn.cli import main
from crfrnn.cli.failures import described

COMMANDS = ("", "refine", "segment", "train", "tune", "evaluate", "accuracy", "convert", "demo", "info")


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).save("photo.png")
    np.save("scores.npy", rng.normal(size=(3, 12, 16)).astype(np.float32))
    for axes in (0, 1, 2):
        np.save(f"{axes}.npy", np.ones((3,) * axes, np.float32))
    np.save("00.npy", np.float32(1))
    np.save("nothing.npy", np.ones((3, 0, 16), np.float32))
    np.savez("empty.npz")
    with zipfile.ZipFile("text.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
    Path("loop.npy").symlink_to("loop.npy")
    Path("loop.png").symlink_to("loop.png")


def status(command: str) -> int:
    try:
        return main(command.split())
    except SystemExit as end:
        return int(end.code or 0)


def program(*arguments: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*options.pop("paths", []), *source()]))}
    environment |= options.pop("environment", {})
    command = [sys.executable, "-m", "crfrnn", *arguments]
    return subprocess.run(command, capture_output=True, env=environment, timeout=60, **options)


def source() -> list[str]:
    """Where this package is imported from."""
    import crfrnn

    return [str(Path(crfrnn.__file__).parents[1])]


TILED = ("", " --tile 8", " --memory 1GB", " --theta-beta contrast", " --upsampling joint-bilateral")


@pytest.mark.parametrize("option", TILED)
@pytest.mark.parametrize(
    ("scores", "image", "named"),
    [
        ("scores.npy", "0.npy", "0.npy"),
        ("scores.npy", "1.npy", "1.npy"),
        ("scores.npy", "2.npy", "2.npy"),
        ("0.npy", "photo.png", "0.npy"),
        ("1.npy", "photo.png", "1.npy"),
        ("0.npy", "00.npy", "0.npy"),
        ("nothing.npy", "photo.png", "nothing.npy"),
        ("empty.npz", "photo.png", "empty.npz"),
        ("text.npz", "photo.png", "text.npz"),
        ("scores.npy", "text.npz", "text.npz"),
        ("loop.npy", "photo.png", "loop.npy"),
        ("scores.npy", "loop.png", "loop.png"),
        ("loop.npy", "loop.png", "loop.npy"),
    ],
)
def test_odd_arrays_and_links(scores: str, image: str, named: str, option: str, capsys):
    for labels in ("", " --input labels"):
        if labels and option.endswith("joint-bilateral"):
            continue
        if (scores, image, labels) == ("1.npy", "photo.png", " --input labels"):
            continue  # refused by its size, as any other labels
        assert status(f"refine {scores} {image} -o out.npy{option}{labels}") == 1
        error = capsys.readouterr().err
        assert named in error
        assert error.count("\n") == 1
        assert "mistake in crfrnn" not in error
        assert not Path("out.npy").exists()


@pytest.mark.parametrize("output", ["loop.npy", "loop.png", "photo.png/out.npy"])
def test_outputs_that_cannot_be_written(output: str, capsys):
    assert status(f"refine scores.npy photo.png -o {output}") in (1, 2)
    error = capsys.readouterr().err
    assert f"error: cannot write {output}: " in error or f"error: {output} is one of the inputs" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("amount", ["9" * 400 + "GB", "9" * 5000, "1e5", "9999999999GB", "-1GB", "x" * 5000])
def test_amounts_of_memory(amount: str, capsys):
    assert status(f"refine scores.npy photo.png -o out.npy --memory={amount}") == 2
    error = capsys.readouterr().err
    assert "--memory" in error
    assert len(error) < 300


@pytest.mark.parametrize(
    "option", ["tile", "overlap", "threads", "num-classes", "iterations", "theta-alpha", "spacing"]
)
@pytest.mark.parametrize("digits", [12, 30, 400])
def test_numbers_beyond_all_bounds(option: str, digits: int, capsys):
    for sign in ("", "-"):
        found = status(f"refine scores.npy photo.png -o out.npy --{option}={sign}1{'0' * digits}")
        assert "mistake in crfrnn" not in capsys.readouterr().err
        assert found in (0, 1, 2)


def test_a_mistake_of_ours_is_a_line_and_a_traceback_on_demand(monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise KeyError("which")

    monkeypatch.setattr("crfrnn.cli.refine.refine_file", fail)
    command = "refine scores.npy photo.png -o out.npy"
    assert status(command) == 1
    error = capsys.readouterr().err
    for words in ("crfrnn refine: error: scores.npy, photo.png: KeyError: 'which'", "mistake in crfrnn", "--debug"):
        assert words in error
    assert error.count("\n") == 1
    for debugged in (f"--debug {command}", f"{command} --debug"):
        assert status(debugged) == 1
        told = capsys.readouterr().err
        assert "Traceback" in told
        assert "raise KeyError" in told
        assert told.endswith(error)
    assert status(command) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_failures_within_a_folder_name_the_file_too(monkeypatch, capsys):
    Path("photos").mkdir()
    Path("scores").mkdir()
    for name in ("a", "b"):
        Image.open("photo.png").save(f"photos/{name}.png")
        np.save(f"scores/{name}.npy", np.load("scores.npy"))
    np.save("scores/b.npy", np.float32(3))
    assert status("--debug refine scores photos -o out") == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "failed: b: scores/b.npy has shape ()" in error
    assert sorted(os.listdir("out")) == ["a.png"]


@pytest.mark.parametrize("error", [MemoryError(), MemoryError("std::bad_alloc")])
def test_out_of_memory_is_said_in_words(error: MemoryError, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("crfrnn.cli.refine.refine_file", fail)
    assert status("refine scores.npy photo.png -o out.npy") == 1
    assert "there is not enough memory" in capsys.readouterr().err


def test_warnings_of_decoders_are_not_shown(capsys):
    """Of a photo of more pixels than Pillow likes, and of damaged EXIF."""
    exif = Image.Exif()
    exif[274] = 1
    Image.open("photo.png").save("photo.jpg", exif=exif.tobytes()[:-3])
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open("photo.jpg").getexif()
    assert status("refine scores.npy photo.jpg -o out.npy --theta-beta 60") == 0
    assert "EXIF" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "latin-1"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_on_any_terminal(command: str, encoding: str, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert status(f"{command} --help") == 0
    shown = stream.buffer.getvalue().decode(encoding)
    assert "usage: crfrnn" in shown
    assert "\\u" not in shown
    if command == "refine" and encoding == "ascii":
        assert "theta_alpha and theta_gamma are in MILLIMETRES" in shown


def test_names_that_no_terminal_can_show(monkeypatch):
    name = os.fsdecode(b"out\xff.npy")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["refine", "scores.npy", "photo.png", "-o", name, "--theta-beta", "60"]) == 0
    stream.flush()
    assert b"out\\udcff.npy: 16" in stream.buffer.getvalue()
    assert Path(name).exists()


@pytest.mark.skipif(os.name != "posix", reason="has no such files")
@pytest.mark.parametrize("names", [("a\nb.npy", "photo.png"), ("scores.npy", "a\nb.png")])
def test_names_of_several_lines_are_said_on_one(names: tuple[str, str], capsys):
    assert main(["refine", *names, "-o", "out.png"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("crfrnn refine: error: cannot read a b.")
    assert error.count("\n") == 1
    for folder, name in zip(("scores", "photos"), names, strict=True):
        Path(folder).mkdir()
        Path(folder, f"a\nb{Path(name).suffix}").write_bytes(b"damaged")
    assert main(["refine", "scores", "photos", "-o", "out"]) == 1
    assert "failed: a b: " in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="has no such files")
def test_readers_that_are_gone_and_disks_that_are_full():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from crfrnn.cli import main; sys.exit(main(['info']))"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": source()[0]},
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    if not Path("/dev/full").exists():
        return
    for unbuffered in ("", "1"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "crfrnn", "info"],
                stdout=full,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": source()[0], "PYTHONUNBUFFERED": unbuffered},
            )
        assert done.returncode == 1
        assert done.stderr == b"crfrnn info: error: cannot print: No space left on device\n"
    assert described(OSError("cannot print: No space left on device"), [Path("a.npy")]).startswith("cannot print")


INTERRUPTER = """
import os, signal, sys
class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupter())
"""


@pytest.mark.skipif(os.name != "posix", reason="has other signals")
@pytest.mark.parametrize("module", ["numpy.linalg", "crfrnn.refine", "crfrnn.cli.main", "crfrnn.segment"])
def test_ctrl_c_during_imports(module: str):
    """Of the package, of the command line, and of what a command imports itself."""
    if module == "crfrnn.segment":
        pytest.importorskip("safetensors", reason="needs the models extra")
    Path("first").mkdir()
    Path("first/sitecustomize.py").write_text(INTERRUPTER.format(module=module))
    done = program("segment", "photo.png", "-o", "out.png", paths=["first"])
    assert done.returncode == 130, done.stderr
    assert done.stderr.decode().rstrip().endswith("interrupted")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="has other signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signals_while_a_file_is_written(name: str, monkeypatch, capsys):
    """Exit status and words, the old file whole, nothing unfinished; handlers are put back."""
    number = signal.Signals[name]
    Path("out.npy").write_bytes(b"old")
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]

    def interrupted(handle, *_: object) -> None:
        handle.write(b"half")
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(np, "save", interrupted)
    assert status("refine scores.npy photo.png -o out.npy --theta-beta 60") == 128 + number
    words = "interrupted" if name == "SIGINT" else f"ended by {name}"
    assert capsys.readouterr().err == f"crfrnn refine: {words}\n"
    assert Path("out.npy").read_bytes() == b"old"
    assert not list(Path().glob(".crfrnn*"))
    assert handlers == [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]


@pytest.mark.skipif(os.name != "posix", reason="has other signals")
def test_nohup_is_respected(monkeypatch, capsys):
    real = np.save

    def hung_up(*given: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        real(*given)

    monkeypatch.setattr(np, "save", hung_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert status("refine scores.npy photo.png -o out.npy --theta-beta 60") == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert np.load("out.npy").shape == (3, 12, 16)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="has no folder that cannot be written to")
def test_read_only_folders(capsys):
    Path("out").mkdir()
    Path("out/labels.png").write_bytes(b"old")
    os.chmod("out", 0o555)
    try:
        assert status("refine scores.npy photo.png -o out/labels.png") == 1
    finally:
        os.chmod("out", 0o755)
    assert "cannot write out/labels.png: Permission denied" in capsys.readouterr().err
    assert Path("out/labels.png").read_bytes() == b"old"


CRF_HEADER = ("crf", "crf", "solver")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("classes",), [[1]]),
        (("classes",), 5),
        (("notes",), [1]),
        (("notes",), 5),
        (("palette",), "red"),
        (("options",), 3),
        (("options", "num_classes"), 10**6),
        (("options", "num_classes"), "21"),
        (("crf", "num_classes"), 10**6),
        ((*CRF_HEADER, "iterations"), 2**31),
        ((*CRF_HEADER, "iterations"), "10"),
        ((*CRF_HEADER, "damping"), None),
        (("crf",), [1]),
        (("mean",), "grey"),
        (("format",), None),
        ((), []),
        ((), 5),
    ],
)
def test_model_headers(place: tuple[str, ...], value: object, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    import safetensors.torch

    from crfrnn.files.classes import class_set
    from crfrnn.models import FcnLite, Segmenter, save_model
    from crfrnn.torch import CrfRnn

    save_model("good.safetensors", Segmenter(FcnLite(21), CrfRnn(21)), class_set("voc"))
    with safetensors.safe_open("good.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["crfrnn"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no dictionary)
    inside = header
    for key in place[:-1]:
        inside = inside[key]
    if place:
        inside[place[-1]] = value
    safetensors.torch.save_file(state, "model.safetensors", {"crfrnn": json.dumps(header if place else value)})
    assert status("segment photo.png --model model.safetensors -o out.png") == 1
    error = capsys.readouterr().err
    assert error.startswith("crfrnn segment: error: model.safetensors does not describe a model: ")
    assert error.count("\n") == 1


@pytest.mark.torch
@pytest.mark.parametrize("content", ["empty", "junk", "list", "numbers", "keys", "pickle", "hdf5", "foreign hdf5"])
def test_odd_files_to_convert(content: str, capsys):
    torch = pytest.importorskip("torch")
    h5py = pytest.importorskip("h5py")
    path = Path("weights.pth")
    raw = {"junk": b"junk" * 99, "pickle": b"\x80\x04}.", "hdf5": b"\x89HDF\r\n\x1a\nmore"}
    path.write_bytes(raw.get(content, b""))
    saved = {"list": [1], "numbers": {"conv1_1.weight": 5}, "keys": {5: torch.zeros(3)}}
    if content in saved:
        torch.save(saved[content], path)
    if content == "foreign hdf5":
        with h5py.File(path, "w") as file:
            file["conv1_1/kernel:0"] = "text"
    assert status("convert weights.pth -o model.safetensors") == 1
    error = capsys.readouterr().err
    assert error.startswith("crfrnn convert: error: weights.pth ")
    assert error.count("\n") == 1
    assert "mistake in crfrnn" not in error


def test_a_current_folder_that_was_removed(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert status("refine ../scores.npy ../photo.png -o out.png") == 1
    assert capsys.readouterr().err == (
        "crfrnn: error: the current folder is not there any more: change to another one\n"
    )
