"""Damaged files of every format: a command says what is wrong and names the file, or its result is right.

No example may end the process, take long or much memory, run code that a file holds, or show a traceback. `make fuzz`
tries more of the same examples by chance.
"""

from collections import Counter
from collections.abc import Iterator

import pytest
from properties_files import COMMANDS
from search import search
from worker import Worker

from cases import FILES

EACH, FEW = 16, 3
SLOW = ("file_evaluate", "file_segment", "file_weights")
"""They run a network, or make a large one."""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    for module in ("torch", "nibabel", "tifffile", "av", "h5py", "pycocotools", "safetensors", "yaml"):
        pytest.importorskip(module)
    with Worker() as process:
        yield process


@pytest.mark.torch
@pytest.mark.parametrize("name", FILES)
def test_commands(name: str, worker: Worker) -> None:
    counts: Counter[str] = Counter()
    most = FEW if name in SLOW else EACH
    found = search(name, FILES[name], worker, most, counts, set())
    assert found is None, f"{found[1].signature}\n{found[1].seen}\nof {found[0]}"
    assert sum(counts.values()) == most


def test_whole_files_are_read(worker: Worker) -> None:
    """Without damage, each command succeeds; settings name no data, and weights are but a part of a network's."""
    from examples_files import READ_BY
    from samples import suffix

    refused = {"settings", "weights", "classes"}
    for command, samples in READ_BY.items():
        for sample in samples:
            example = {"command": command, "sample": sample, "damages": [], "suffix": suffix(sample)}
            verdict = worker.verdict(f"file_{command}", example)
            expected = "refused" if command in refused else "right"
            assert verdict.outcome == expected, f"{COMMANDS[command]} of {sample}: {verdict}"


def test_what_does_harm(worker: Worker) -> None:
    """Each file that was made to do harm, read by each command that may get it."""
    from examples_files import READ_BY
    from samples import HARMFUL, suffix

    for harm in HARMFUL:
        for command in ("scores", "photo", "scan", "annotations", "parameters", "settings", "clip", "tiled_photo"):
            sample = READ_BY[command][0]
            example = {"command": command, "sample": sample, "damages": [["become", harm]], "suffix": suffix(sample)}
            verdict = worker.verdict(f"file_{command}", example)
            assert verdict.outcome != "fault", f"{COMMANDS[command]} of {harm}: {verdict}"
    for command, sample in (("model", "model.safetensors"), ("weights", "weights.pth")):
        for harm in ("pickle", "pt of objects", "zeros", "safetensors of huge tensors"):
            example = {"command": command, "sample": sample, "damages": [["become", harm]], "suffix": suffix(sample)}
            verdict = worker.verdict(f"file_{command}", example)
            assert verdict.outcome == "refused", f"{COMMANDS[command]} of {harm}: {verdict}"
