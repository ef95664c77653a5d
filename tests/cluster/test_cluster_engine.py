"""The engine of Ray on two machines: every item comes back once, whatever happens to workers."""

import os
import socket
import warnings
from importlib import import_module
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import pytest

from cluster_jobs import Squares
from crfrnn.cluster import RayCluster, connection
from crfrnn.cluster.engine import chosen_size
from crfrnn.cluster.machines import require_machines
from crfrnn.files.progress import Display, shown_on
from crfrnn.jobs import EngineError, ThisMachine
from errors import raises_saying

NUMBERS = list(range(100, 140))


def outcomes(job: Squares, engine: object) -> tuple[dict[int, int], dict[int, str], list[str]]:
    """Results and errors by number, each of which came back once; and what was warned of."""
    results, errors = {}, {}

    def take(number: int, outcome: int | Exception) -> None:
        assert number not in results
        assert number not in errors
        (errors if isinstance(outcome, Exception) else results)[number] = outcome

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine.run(job, NUMBERS, take, "square")
    return results, {number: str(error) for number, error in errors.items()}, [str(each.message) for each in caught]


def test_results_errors_and_warnings_are_those_of_this_machine(cluster, tmp_path: Path, capfd) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    bad, odd = (103, 117), (104, 130)
    here = outcomes(Squares(tmp_path / "here", bad, odd), ThisMachine())
    engine = RayCluster()
    assert outcomes(Squares(tmp_path / "there", bad, odd, seconds=0.05), engine) == here
    assert here[0] == {place: number**2 for place, number in enumerate(NUMBERS) if number not in bad}
    assert here[1] == {3: "103 is bad", 17: "117 is bad"}
    assert len(list((tmp_path / "there").glob("worker-*"))) == 2  # both machines, and each loads once
    assert engine.remarks == []
    assert capfd.readouterr() == ("", "")


def test_workers_that_are_killed(cluster, tmp_path: Path, capfd) -> None:
    """What they were at work on is done again; what kills them every time fails alone."""
    engine = RayCluster()
    job = Squares(tmp_path, killed=(105,), deadly=(120,), seconds=0.02)
    results, errors, _ = outcomes(job, engine)
    assert results == {place: number**2 for place, number in enumerate(NUMBERS) if number != 120}
    assert list(errors) == [20]
    assert "its worker was killed 3 times" in errors[20]
    assert engine.remarks
    assert engine.remarks[0].endswith("died; what was at work there was done again")
    assert "worker" in engine.remarks[0]
    assert capfd.readouterr() == ("", "")


def test_a_worker_for_a_gpu(cluster, new_machine, tmp_path: Path) -> None:
    """It runs where the GPU is, which it sees alone. This one is but a number that Ray counts."""
    machine = new_machine(num_gpus=1)
    try:
        job = Squares(tmp_path)
        job.device = "cuda"
        results, errors, _ = outcomes(job, RayCluster())
        assert (len(results), errors) == (len(NUMBERS), {})
        (worker,) = tmp_path.glob("worker-*")
        assert worker.read_text() == "0"
    finally:
        cluster.remove_node(machine)


def test_the_first_machine_is_lost(monkeypatch) -> None:
    """A server in its place, which stops listening."""
    told: Queue[str] = Queue()

    class Screen(Display):
        def notice(self, text: str) -> None:
            told.put(text)

    server = socket.create_server(("127.0.0.1", 0))
    address = "127.0.0.1:{1}".format(*server.getsockname())
    ray = SimpleNamespace(get_runtime_context=lambda: SimpleNamespace(gcs_address=address))
    monkeypatch.setattr(connection, "PATIENCE", 0.05)
    with shown_on(Screen()), connection.watched(ray):
        for _ in range(3):
            server.accept()[0].close()
        assert told.empty()
        server.close()
        assert address in told.get(timeout=600)


def test_what_was_started_last_here_is_something_else(tmp_path: Path, monkeypatch) -> None:
    """Something else listens where the last cluster of this machine did."""
    ray = connection.ray_module()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "127.0.0.1:{1}".format(*server.getsockname())
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(ray, "is_initialized", lambda: False)

        def refuse(**_: object) -> None:
            raise ConnectionError("no such cluster")

        monkeypatch.setattr(ray, "init", refuse)
        with raises_saying(EngineError, f"at {address}: no such cluster", "--ray=local"):
            RayCluster().run(Squares(tmp_path), NUMBERS, lambda *_: None, "square")


def test_nothing_to_do() -> None:
    """Not even a cluster is asked for."""
    RayCluster("127.0.0.1:9").run(Squares(Path()), [], lambda *_: None, "square")


def test_a_worker_that_cannot_begin(cluster, tmp_path: Path) -> None:
    with raises_saying(ValueError, "the worker on", "no such model"):
        outcomes(Squares(tmp_path, unready="no such model"), RayCluster())


def test_a_job_that_workers_do_not_know(cluster, tmp_path: Path, monkeypatch) -> None:
    """Workers look for modules where this process did when it connected."""
    (tmp_path / "known_here.py").write_text("from cluster_jobs import Squares\n\nclass Unknown(Squares): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    job = import_module("known_here").Unknown(tmp_path)
    with raises_saying(ModuleNotFoundError, "the worker on", "known_here"):
        outcomes(job, RayCluster())


def test_machines_that_do_not_fit(cluster, tmp_path: Path) -> None:
    import ray

    job = Squares(tmp_path)
    assert require_machines(ray, job, None) == 2
    assert require_machines(ray, job, tmp_path) == 2
    own = Path(f"/proc/self/task/{os.getpid()}")  # it is there for this process alone
    for inputs, beacon, named in (((tmp_path, own), tmp_path, own), ((tmp_path,), own / "comm", own)):
        job.inputs = inputs
        with raises_saying(EngineError, "does not see", f"in {named}: ", "s3://"):
            require_machines(ray, job, beacon)
    job.inputs = (tmp_path / "nowhere",)  # whoever reads it says so
    assert require_machines(ray, job, None) == 2
    job.device = "cuda"
    with raises_saying(EngineError, "no machine of the cluster has 1 CPU and a GPU"):
        require_machines(ray, job, None)


@pytest.mark.parametrize(
    ("items", "workers", "expected"), [(24, 2, 1), (1, 3200, 1), (10**6, 600, 60), (10**8, 10, 64)]
)
def test_how_many_items_are_given_at_once(items, workers, expected) -> None:
    """Many enough that one process keeps all workers busy, and few enough that all have some."""
    assert chosen_size(items, workers) == expected


@pytest.mark.parametrize("version", ["9.9", None])
def test_another_version_on_a_machine(cluster, tmp_path: Path, monkeypatch, version) -> None:
    import ray

    import crfrnn

    monkeypatch.setattr(crfrnn, "__version__", version or crfrnn.__version__ + ".1")
    with raises_saying(EngineError, "crfrnn is of version", "pip install 'crfrnn[cluster]=="):
        require_machines(ray, Squares(tmp_path), None)
