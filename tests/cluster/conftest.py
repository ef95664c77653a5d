"""A Ray cluster of two machines on this one, each with one CPU, for all tests of this folder."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crfrnn
from repository import ROOT

BUCKET = "s3://crfrnn"


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """A server of S3 on this machine with a bucket; what connects to it is in the environment, also of workers."""
    server = pytest.importorskip("moto.server", reason="needs the cluster-dev extra").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    from upath import UPath

    UPath(BUCKET).mkdir()
    yield BUCKET
    server.stop()


@pytest.fixture(scope="session")
def cluster(object_store: str) -> Iterator[object]:
    """Two machines; this process is connected to them."""
    ray = pytest.importorskip("ray", reason="needs the cluster-dev extra")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "PYTHONPATH": os.pathsep.join([str(Path(crfrnn.__file__).parents[1]), str(ROOT / "tests" / "support")]),
    }
    found = cluster_utils.Cluster()
    try:
        add_machine(found, include_dashboard=False)
        add_machine(found)
        ray.init(address=found.address, log_to_driver=False, logging_level=60)
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def new_machine(cluster: Any) -> Callable[..., Any]:
    """Adds a machine with one CPU to the cluster."""
    return partial(add_machine, cluster)


def add_machine(cluster: Any, **options: Any) -> Any:
    """The machine that was added to a cluster. Others may be at work here meanwhile, so it is tried several times."""
    for last in (False, False, True):  # Ray gives up after 20 seconds, in which it imports much
        try:
            return cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, **options)
        except Exception:
            if last:
                raise


@pytest.fixture
def folders(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with scores/ and photos/ of 24 photos, a fifth of which is damaged."""
    for name in ("scores", "photos"):
        (tmp_path / name).mkdir()
    for index in range(24):
        shape = (40 + index, 64 - index)
        np.save(tmp_path / f"scores/{index}.npy", rng.normal(0, 2, (4, *shape)).astype(np.float32))
        photo = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1)))[: shape[0], : shape[1]]
        Image.fromarray(photo.astype(np.uint8)).resize(shape[::-1]).save(tmp_path / f"photos/{index}.png")
    (tmp_path / "photos/5.png").write_bytes((tmp_path / "photos/5.png").read_bytes()[:60])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """That of a process of its own that connects to the cluster."""
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
