"""Commands disturbed at random moments: killed, asked to end, on a full disk, two at once; and run again afterwards.

Whatever happens, a file is the old one or the new one as a whole, nothing unfinished stays after anything but a kill,
messages are lines, and the same command then ends with the bytes of a run that nothing happened to. The environment
variable FUZZ says how many disturbances there are, of all kinds and commands in turn.
"""

import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from command_server import CommandServer, Ended
from toy_data import CLASSES, COLOURS, toy_sample, write_toy_data

pytest.importorskip("lightning", reason="needs the train extra")
pytest.importorskip("optuna", reason="needs the tune extra")
pytestmark = [pytest.mark.torch, pytest.mark.skipif(sys.platform == "win32", reason="has no fork")]

COUNT = int(os.environ.get("FUZZ") or 14)
OLD = b"what was there before"
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "hup": signal.SIGHUP, "int": signal.SIGINT}
ENDS = {"kill": [-9], "term": [143, -15], "hup": [129, -1], "int": [130], "full": [1], "full later": [1], "twice": [1]}
"""Exit status after each; those below 0 before the command listens to signals. All may have been done by then."""
DISTURBANCES = ("kill", "term", "full", "int", "twice", "hup", "full later")
TRAIN = (
    f"train --data data --output run --classes {CLASSES} --network Toy --init null --crop 16,16 --batch-size 4 "
    "--network-epochs 2 --crf-epochs 1 --theta-alpha 10 --theta-beta 50 --accelerator cpu --threads 1"
)


@dataclass(frozen=True)
class Command:
    """A command, and the files that are its result.

    Attributes:
        replaced: Whether these files are there before, and are to be replaced.
    """

    line: str
    results: tuple[str, ...]
    replaced: bool = True


NAMES = [f"photo {number}" for number in range(10)]
COMMANDS = {
    "refine": Command(
        "refine data/scores data/images -o out --format npy --threads 1", tuple(f"out/{n}.npy" for n in NAMES), False
    ),
    "refine anew": Command(
        "refine data/scores data/images -o out --overwrite --threads 2", tuple(f"out/{name}.png" for name in NAMES)
    ),
    "segment": Command(
        "segment data/few -o out --overwrite", tuple(f"out/{n}{e}" for n in NAMES[:3] for e in (".png", "_overlay.jpg"))
    ),
    "train": Command(TRAIN, ("run/model.safetensors",)),
    "tune": Command(
        f"tune data --classes {CLASSES} --split all --trials 4 -o out/p.json --threads 1 --theta-alpha 10",
        ("out/p.json",),
    ),
    "evaluate": Command(
        "evaluate builtin data -o out", ("out/evaluation.json", "out/evaluation.txt", "out/contact_sheet.png")
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[CommandServer]:
    with CommandServer() as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled photos with scores."""
    root = write_toy_data(tmp_path_factory.mktemp("disturbed") / "data")
    (root / "all.txt").write_text("\n".join(NAMES))
    for folder in ("scores", "few"):
        (root / folder).mkdir()
    for name in NAMES[:3]:
        (root / "few" / f"{name}.png").symlink_to(root / "images" / f"{name}.png")
    for index, name in enumerate(NAMES):
        photo, _ = toy_sample(index)
        rng = np.random.default_rng(index)
        means = -np.square(photo[None] - (COLOURS[:, None, None] + 97.0)).sum(-1) / 1e4
        np.save(root / "scores" / f"{name}.npy", (means + rng.normal(size=means.shape)).astype(np.float32))
    return root


@pytest.fixture(scope="module")
def undisturbed(server: CommandServer, data: Path) -> Callable[[str], tuple[dict[str, bytes], float]]:
    """The result of each command when nothing happens, and how long it takes."""
    known: dict[str, tuple[dict[str, bytes], float]] = {}

    def of(name: str) -> tuple[dict[str, bytes], float]:
        if name not in known:
            folder = new_folder(data, COMMANDS[name])
            ended = server.start(COMMANDS[name].line.split(), folder).ended()
            assert ended.status == 0, ended.printed
            known[name] = contents(folder, COMMANDS[name]), ended.seconds
        return known[name]

    return of


@pytest.mark.parametrize("number", range(COUNT))
def test_disturbed(number: int, server: CommandServer, data: Path, undisturbed) -> None:
    rng = random.Random(number)
    name = list(COMMANDS)[number % len(COMMANDS)]
    kind = DISTURBANCES[number % len(DISTURBANCES)]
    command = COMMANDS[name]
    expected, seconds = undisturbed(name)
    folder = new_folder(data, command)
    moment = rng.uniform(0, 1.1 * seconds)
    largest = max(map(len, expected.values()))
    story = f"{name}, {kind} after {moment:.3f} of {seconds:.3f} s"
    for ended in disturb(server, command, folder, kind, moment, rng.randrange(largest)):
        check_end(ended, kind, story)
    if (name, kind) != ("tune", "int"):  # which measures what it has found by then
        check_whole(folder, command, expected, story)
    if kind != "kill":
        assert not unfinished(folder), story
    again = server.start(command.line.split(), folder).ended()
    assert again.status == 0, f"{story}, then: {again.printed}"
    assert contents(folder, command) == expected, story
    assert not unfinished(folder), story
    shutil.rmtree(folder)


def disturb(server: CommandServer, command: Command, folder: Path, kind: str, moment: float, limit: int) -> list[Ended]:
    """Run a command and do something to it. Returns how it, or both of two, ended."""
    arguments = command.line.split()
    running = [server.start(arguments, folder, limit if kind == "full" else None)]
    if kind != "full":
        time.sleep(moment)
    if kind == "twice":
        running.append(server.start(arguments, folder))
    elif kind == "full later":
        resource.prlimit(running[0].pid, resource.RLIMIT_FSIZE, (limit, limit))
    elif kind in SIGNALS:
        running[0].send(SIGNALS[kind])
    return [each.ended() for each in running]


def check_end(ended: Ended, kind: str, story: str) -> None:
    """That it ended as it should, and said so in lines."""
    about = f"{story}: {ended.status}\n{ended.printed}"
    assert "Traceback" not in ended.printed, about
    assert "mistake in crfrnn" not in ended.printed, about
    assert ended.status in {0, *ENDS[kind]}, about
    if ended.status == 1 and kind.startswith("full"):
        assert "File too large" in ended.printed, about
    elif ended.status == 1:
        assert "another" in ended.printed, about
    elif ended.status > 1:
        words = "interrupted" if kind == "int" else f"ended by SIG{kind.upper()}"
        assert words in ended.printed, about


def check_whole(folder: Path, command: Command, expected: dict[str, bytes], story: str) -> None:
    """That every file of the result is the old one or the new one."""
    for path, found in contents(folder, command).items():
        assert found == expected[path] or found == (OLD if command.replaced else b""), f"{story}: {path} is damaged"


def new_folder(data: Path, command: Command) -> Path:
    """A folder to work in, with the data and with old results."""
    folder = data.parent / f"run {time.monotonic_ns()}"
    folder.mkdir()
    (folder / "data").symlink_to(data)
    for path in command.results if command.replaced else ():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(OLD)
    return folder


def contents(folder: Path, command: Command) -> dict[str, bytes]:
    """The bytes of the results that are there."""
    return {path: (folder / path).read_bytes() for path in command.results if (folder / path).exists()}


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".part")]
