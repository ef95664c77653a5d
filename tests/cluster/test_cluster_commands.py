"""Commands with --ray on a cluster of two machines: what they write and say is what they do without, bit for bit."""

import json
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from commands import status

REFINE = "refine scores photos"
SLOWLY = "--iterations 400 --tolerance 0 --filter exact"


def written(folder: object) -> dict[str, bytes]:
    """The visible files of a folder, or of a bucket."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def printed(capsys, output: str) -> list[str]:
    """What was printed last, without the name of the output, and without what Ray prints after the command."""
    said = capsys.readouterr()
    lines = (said.out + said.err).replace(output, "OUT").splitlines()
    return [line for line in lines if "(raylet)" not in line]


@cache
def refined_slowly() -> dict[str, bytes]:
    """What this machine makes of the folders, which are the same in all tests."""
    assert status(f"{REFINE} -o local {SLOWLY}") == 1
    return written(Path("local"))


def waited_for(count: int, folder: Path) -> None:
    """Wait until so many results are there."""
    end = time.monotonic() + 900
    while time.monotonic() < end and len(written(folder) if folder.is_dir() else ()) < count:
        time.sleep(0.05)


def test_refine(cluster, folders: Path, capsys) -> None:
    """With a damaged photo, one without scores, scores without a photo, and levels that are warned of."""
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save("photos/alone.png")
    np.save("scores/lonely.npy", np.zeros((4, 9, 9), np.float32))
    options = "--format npz --iterations 3 --theta-beta 0.05"
    assert status(f"{REFINE} -o local {options}") == 1
    here = printed(capsys, "local")
    assert any("photos/5.png" in line for line in here)
    assert sum("warning" in line for line in here) == 1
    assert status(f"{REFINE} -o remote {options} --ray") == 1
    there = printed(capsys, "remote")
    assert [line for line in there if "warning" not in line] == [line for line in here if "warning" not in line]
    assert sum("hardly any pixels are connected" in line for line in there) == 1  # of whichever photo came first
    assert written(Path("remote")) == written(Path("local"))
    assert len(written(Path("remote"))) == 23
    assert [path.name for path in Path("remote").iterdir() if path.name.startswith(".")] == []


def test_an_object_store(cluster, object_store: str, folders: Path, capsys) -> None:
    from upath import UPath

    for name in ("scores", "photos"):
        for path in Path(name).iterdir():
            UPath(object_store, name, path.name).write_bytes(path.read_bytes())
    assert status(f"{REFINE} -o local") == 1
    here = printed(capsys, "local")
    there = f"{object_store}/there"
    UPath(there, "3.png").write_bytes(b"done before")
    assert status(f"refine {object_store}/scores {object_store}/photos -o {there} --ray") == 1
    said = printed(capsys, there)
    assert [line.replace(f"{object_store}/", "") for line in said if "failed:" in line] == here[-1:]
    assert f"OUT: 22 refined, 1 already there, 1 failed{here[0].partition('1 failed')[2]}".split(";")[0] in said[0]
    found = written(UPath(there))
    assert found.pop("3.png") == b"done before"
    expected = written(Path("local"))
    del expected["3.png"]
    assert found == expected


@pytest.mark.parametrize("command", [REFINE, "segment photos"])
def test_a_bucket_that_is_not_there_is_told_before_the_work(object_store, folders: Path, capsys, command: str) -> None:
    assert status(f"{command} -o s3://nowhere/results") == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(told) == 1
    assert "cannot reach s3://nowhere/results: there is no bucket 'nowhere' that can be looked into" in told[0]


def test_a_machine_that_is_removed(cluster, new_machine, folders: Path, capsys) -> None:
    """What was at work there is done again by the others, and that it was lost is told."""
    machine = new_machine()

    def remove() -> None:
        waited_for(4, Path("remote"))
        cluster.remove_node(machine, allow_graceful=False)

    removing = threading.Thread(target=remove)
    removing.start()
    assert status(f"{REFINE} -o remote {SLOWLY} --ray") == 1
    removing.join()
    said = printed(capsys, "remote")
    assert "OUT: 23 refined, 0 already there, 1 failed" in said[0]
    assert any("1 machine left the cluster; what was at work there was done again" in line for line in said)
    assert written(Path("remote")) == refined_slowly()


def test_a_command_that_is_killed_goes_on(cluster, folders: Path, environment) -> None:
    """First by a signal that it can answer, and then by one that it cannot."""
    options = ["-o", "remote", *SLOWLY.split(), f"--ray={cluster.address}"]
    command = [sys.executable, "-m", "crfrnn", *REFINE.split(), *options]
    first: dict[str, int] = {}
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        waited_for(len(first) + 2, Path("remote"))
        process.send_signal(number)
        said = process.communicate()[1]
        if number == signal.SIGTERM:
            assert process.returncode == 128 + number
            assert "ended by SIGTERM" in said
            assert "the same command goes on with the others" in said
        now = {name: Path("remote", name).stat().st_mtime_ns for name in written(Path("remote"))}
        assert now == now | first  # what was there was not done again
        first = now
    assert len(first) < 23
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 1, again.stderr
    assert [line.partition(":")[0] for line in again.stderr.splitlines()] == ["failed"]  # nothing of Ray's own
    done = int(again.stdout.split(" refined, ")[0].rpartition(" ")[2])
    already = int(again.stdout.split(" refined, ")[1].split(" already")[0])
    assert done + already == 23
    assert already >= len(first)
    for name, when in first.items():
        assert Path("remote", name).stat().st_mtime_ns == when
    assert written(Path("remote")) == refined_slowly()


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A small network with a CRF, of the classes of VOC, with random weights."""
    torch = pytest.importorskip("torch")
    from crfrnn.files.classes import class_set
    from crfrnn.models import FcnLite, Segmenter, save_model
    from crfrnn.torch import CrfRnn

    torch.manual_seed(3)
    path = tmp_path / "model.safetensors"
    save_model(path, Segmenter(FcnLite(21), CrfRnn(21, 3)), class_set("voc"))
    return path


@pytest.mark.torch
def test_segment_and_evaluate(cluster, folders: Path, model_file: Path, capsys, monkeypatch) -> None:
    """A worker has one thread, as this process has here: networks of torch may differ in a bit otherwise."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (folders / "few").mkdir()
        for index in (1, 2, 5, 8):
            (folders / f"photos/{index}.png").rename(folders / f"few/{index}.png")
        segment = f"segment few --model {model_file} --probabilities"
        assert status(f"{segment} -o local") == 1
        here = printed(capsys, "local")
        assert status(f"{segment} -o remote --ray") == 1
        assert printed(capsys, "remote") == here
        assert written(Path("remote")) == written(Path("local"))
        assert len(written(Path("remote"))) == 9

        (folders / "data").mkdir()
        (folders / "few").rename("data/images")
        (folders / "data/labels").mkdir()
        for index in (1, 2, 5, 8):
            labels = np.random.default_rng(index).integers(0, 21, (40 + index, 64 - index), np.uint8)
            Image.fromarray(labels).save(f"data/labels/{index}.png")
        Path("data/val.txt").write_text("1\n2\n5\n8\n")
        evaluate = f"evaluate {model_file} data"
        assert status(f"{evaluate} -o measured-local") == 1
        here = printed(capsys, "measured-local")
        assert any(line.startswith("failed:") and "5.png" in line for line in here)
        assert any("3 photos of 4" in line for line in here)
        assert status(f"{evaluate} -o measured-remote --ray") == 1
        assert printed(capsys, "measured-remote") == here
        assert written(Path("measured-remote")) == written(Path("measured-local"))
        assert len(json.loads(Path("measured-remote/evaluation.json").read_text())["photos"]) == 3
    finally:
        torch.set_num_threads(threads)


def test_a_dataset_of_ray_data(cluster, folders: Path) -> None:
    """Arrays and files in its rows; it composes with other steps."""
    import ray

    from crfrnn import cluster as on_cluster

    rows = [{"name": index, "scores": str(Path(f"scores/{index}.npy").resolve())} for index in (1, 2, 3)]
    dataset = ray.data.from_items(rows, override_num_blocks=2)
    dataset = dataset.map(
        lambda row: {**row, "image": str(Path(row["scores"]).parents[1] / f"photos/{row['name']}.png")}
    )
    refined = on_cluster.refine(dataset, "photos", iterations=3)
    both = on_cluster.refine(refined, iterations=3, into="probabilities").drop_columns(["image", "scores"])
    found = {row["name"]: row for row in both.take_all()}
    assert set(found) == {1, 2, 3}
    for index, row in found.items():
        expected = crfrnn.refine(f"scores/{index}.npy", f"photos/{index}.png", iterations=3)
        np.testing.assert_array_equal(row["probabilities"], expected)
        np.testing.assert_array_equal(row["labels"], expected.argmax(axis=0))
    with pytest.raises(ValueError, match="theta_beta"):
        on_cluster.refine(dataset, theta_beta=-1)


def test_no_cluster(folders: Path, environment) -> None:
    """One line that names the address, and the reason."""
    command = [sys.executable, "-m", "crfrnn", *REFINE.split(), "-o", "out"]
    started = {
        (address, why): subprocess.Popen(
            [*command, option], env=environment | {"RAY_ADDRESS": address}, stderr=subprocess.PIPE, text=True
        )
        for option, address, why in (
            ("--ray=127.0.0.1:9", "127.0.0.1:9", "Connection refused"),
            ("--ray", "127.0.0.1:7", "Connection refused"),
            ("--ray=auto", "ray://127.0.0.1:9", "HOST:PORT"),
        )
    }
    for (address, why), process in started.items():
        said = process.communicate(timeout=1200)[1]
        assert process.returncode == 1
        assert said.startswith(f"crfrnn refine: error: cannot reach a Ray cluster at {address}: ")
        assert why in said
        assert said.count("\n") == 1
    assert not Path("out").exists()
