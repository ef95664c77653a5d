"""What holds of commands on files of strangers: a message that names the file, or a result; never anything else."""

import io
import os
import re
import shutil
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from damage import damaged
from samples import MARK, SAMPLES
from verdicts import Fault, last_own_line, require

from crfrnn.cli import main

SCORES, IMAGE = "scores.npy", "photo.png"
COMMANDS = {
    "scores": "refine {file} photo.png -o out.png",
    "probabilities": "refine {file} photo.png -o out.npy --input probabilities",
    "labels": "refine {file} photo.png -o out.png --input labels",
    "tiles": "refine {file} photo.png -o out.npy --tile 5",
    "photo": "refine scores.npy {file} -o out.png",
    "tiled_photo": "refine scores.npy {file} -o out.npy --tile 5",
    "volume": "refine {file} scan.nii -o out.nii.gz",
    "scan": "refine labels.nii.gz {file} -o out.nii.gz",
    "annotations": "refine {file} photos -o out.json",
    "parameters": "refine scores.npy photo.png -o out.png --parameters {file}",
    "clip": "refine scores3 {file} -o out.mp4 --time-theta 2",
    "accuracy": "accuracy {file} scores.npy",
    "segment": "segment {file} -o out --longest-side 32 --iterations 1",
    "model": "segment photo.png -o out --model {file} --longest-side 32",
    "evaluate": "evaluate {file} data -o out",
    "settings": "train {file}",
    "weights": "convert {file} -o out.safetensors",
    "classes": "evaluate builtin data -o out --classes {file}",
}
"""Ways to read a file."""
NO_WORDS = (
    *(
        "Traceback",
        "this is a mistake in crfrnn",
        " object at 0x",
        "NoneType",
        "object is not",
        "not supported between",
    ),
    *("has no attribute", "out of range", "argument must be", "unexpected keyword", "std::", "unhashable"),
)
"""What no message should say: terms of the machine, unless they are a library's reason behind our words."""
MOST_LENGTH = 3000
"""Characters of a message that people read."""


def command_on_file(example: dict[str, Any]) -> bool:
    """Status 0 and a result, or another status and one message that names the file."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    before = Path.cwd()
    try:
        _surroundings(folder)
        os.chdir(folder)
        file = Path(f"given{example['suffix']}")
        file.write_bytes(damaged(example["sample"], example["damages"]))
        return _run(example["command"], file)
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def _surroundings(folder: Path) -> None:
    """The whole files beside the damaged one."""
    for name in (SCORES, IMAGE, "scan.nii", "labels.nii.gz"):
        (folder / name).write_bytes(SAMPLES[name]())
    (folder / "photos").mkdir()
    (folder / "photos" / IMAGE).write_bytes(SAMPLES[IMAGE]())
    for part, name in (("images", IMAGE), ("labels", "labels.png")):
        (folder / "data" / part).mkdir(parents=True)
        (folder / "data" / part / IMAGE).write_bytes(SAMPLES[name]())
    (folder / "data" / "val.txt").write_text("photo\n")
    (folder / "scores3").mkdir()
    for number in range(3):
        (folder / "scores3" / f"{number:06}.npy").write_bytes(SAMPLES[SCORES]())


def _run(command: str, file: Path) -> bool:
    said, errors = io.StringIO(), io.StringIO()
    arguments = COMMANDS[command].format(file=file).split()
    try:
        with redirect_stdout(said), redirect_stderr(errors):
            status = main(arguments)
    except SystemExit as end:
        status = end.code
    except Exception as error:
        raise Fault("foreign error", last_own_line(error), f"{type(error).__name__}: {str(error)[:300]}") from error
    require(not Path(MARK).exists(), "a pickle has run")
    message = errors.getvalue()
    ours = message.partition("cannot read")[0].partition("does not describe")[0]
    for words in NO_WORDS:
        require(words not in ours, f"{command} says {words!r}", message[-1500:])
    require(len(message) < MOST_LENGTH, f"{command}: a message of many characters", message[:500])
    if status == 0:
        require(any(Path().glob("out*")) or command == "accuracy", "no result", message)
        return False
    if status == 1:
        plain = re.sub(r"[^\sa-z]\S*|\S*[^\sa-z]", "…", message.lower())[:120]
        require("given" in message, f"{command}: no name of the file in: {plain}", message[:1000])
    require(not list(Path().glob("out*.part")) and not list(Path().glob(".*")), "a part of a result is left", message)
    return True
