"""`python -m benchmarks.cluster`: what a Ray cluster costs besides the work, and the plan of a large folder.

It starts clusters of one and of two machines with one CPU each on this machine. Other programs on it slow down what is
measured: so the overhead is a share of the same span of time, and runs on one and on two workers take turns.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crfrnn.cli.folder import RefineFolder
from crfrnn.cli.inputs import Reading
from crfrnn.cli.pairing import paired
from crfrnn.cli.refinement import Refinement
from crfrnn.cluster import RayCluster
from crfrnn.files.parameter_files import crf_of
from crfrnn.jobs import Job, Share, Work, one_by_one

from .machine import commit, cpu_model
from .measure import ROOT


class Timed(Job[Any, tuple[int, float, float, float]]):
    """Another job, of which is told on which process and from when to when each item was at work, and its CPU time."""

    def __init__(self, job: Job[Any, Any]) -> None:
        self.job, self.threads, self.shared = job, 1, job.shared

    def worker(self, share: Share) -> Work[Any, tuple[int, float, float, float]]:
        work = self.job.worker(share)

        def timed(item: Any) -> tuple[int, float, float, float]:
            start, used = time.monotonic(), time.process_time()
            work([item], lambda *_: None)
            return os.getpid(), start, time.monotonic(), time.process_time() - used

        return one_by_one(timed)


class Nothing(Job[int, int]):
    """No work at all."""

    threads = 1

    def worker(self, share: Share) -> Work[int, int]:
        return one_by_one(abs)


@contextmanager
def cluster(machines: int) -> Iterator[None]:
    """This process is connected to so many machines of one CPU meanwhile."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    import ray
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
    try:
        for _ in range(machines - 1):
            found.add_node(**machine)
        ray.init(address=found.address, log_to_driver=False, logging_level=60)
        yield
    finally:
        ray.shutdown()
        found.shutdown()


def photos_refined(data: Path, scratch: Path, count: int) -> dict[str, Any]:
    """Overhead and seconds of photos of 500×375 with the scores of a network, on so many workers as are there."""
    job = RefineFolder(
        Refinement(crf_of("photos"), Reading(square=True), threads=1),
        data / "voc_animals" / "logits33",
        data / "voc_animals" / "images",
        scratch / "refined",
        "labels",
    )
    items = list(paired(job.scores, job.images).cases.items())[:count]
    spans: dict[int, list[tuple[float, float, float]]] = {}

    def take(number: int, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            raise outcome
        process, *span = outcome
        spans.setdefault(process, []).append(tuple(span))

    RayCluster().run(Timed(job), items, take, "refine")
    busy = sum(end - start for each in spans.values() for start, end, _ in each)
    # From the end of a worker's first item: what it does before is its start, once.
    ends = {process: sorted(end for _, end, _ in each) for process, each in spans.items()}
    inside = busy - sum(sorted(each)[0][1] - sorted(each)[0][0] for each in spans.values())
    whole = sum(each[-1] - each[0] for each in ends.values())
    first, last = min(each[0] for each in ends.values()), max(each[-1] for each in ends.values())
    return {
        "workers": len(spans),
        "overhead": whole / inside - 1,
        "overhead_ms": 1000 * (whole - inside) / (count - len(spans)),
        "seconds": busy / count,
        "cpu": sum(used for each in spans.values() for *_, used in each) / count,
        "rate": (count - len(spans)) / (last - first),
    }


def scheduling(few: int, many: int) -> dict[str, float]:
    """Seconds, CPU time and bytes of the driver for each item without work, as many more of them take more."""

    def used(items: int) -> tuple[float, float, float]:
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        RayCluster().run(Nothing(), range(items), lambda *_: None, "nothing")
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return time.monotonic() - start, cpu, 1024 * after.ru_maxrss

    first, second = used(few), used(many)
    seconds, cpu, kept = ((two - one) / (many - few) for one, two in zip(first, second, strict=True))
    return {"us": 1e6 * seconds, "cpu_us": 1e6 * cpu, "bytes": kept}


def planning(scratch: Path, photos: int) -> dict[str, float]:
    """Seconds and bytes to list, pair and find what is to be done, for each photo; half of them are done."""
    folders = {name: scratch / name for name in ("scores", "photos", "done")}
    for name, suffix in (("scores", ".npy"), ("photos", ".jpg"), ("done", ".png")):
        folders[name].mkdir()
        for number in range(photos if name != "done" else photos // 2):
            (folders[name] / f"{number:09}{suffix}").touch()
    job = RefineFolder(
        Refinement(crf_of("photos"), Reading()), folders["scores"], folders["photos"], folders["done"], None
    )
    start = time.process_time()
    cases = paired(job.scores, job.images).cases
    todo = job.todo(cases)
    used = time.process_time() - start
    assert len(todo) == photos - photos // 2
    del cases, todo
    tracemalloc.start()
    kept = paired(job.scores, job.images).cases, None
    now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept[0]) == photos
    return {"photos": photos, "us": 1e6 * used / photos, "kept": now / photos, "most": most / photos}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    data = os.environ.get("CRFRNN_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=data, help="folder with voc_animals/ (default: %(default)s)")
    parser.add_argument("--photos", type=int, default=222, help="refined in each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="on one and on two workers (default: %(default)s)")
    parser.add_argument("--items", type=int, default=200_000, help="without work (default: %(default)s)")
    parser.add_argument("--listed", type=int, default=200_000, help="photos that are listed (default: %(default)s)")
    options = parser.parse_args()
    print(f"{cpu_model()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, commit {commit()}")
    rounds: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        with cluster(1):
            print("scheduling:", {name: round(each, 1) for name, each in scheduling(20_000, options.items).items()})
        plan = planning(Path(scratch), options.listed)
        print("plan:", {name: round(value, 1) for name, value in plan.items()}, flush=True)
        for turn in range(2 * options.rounds):
            with cluster(turn % 2 + 1):
                found = photos_refined(options.data, Path(scratch), options.photos)
                rounds[found["workers"]].append(found)
                print({name: round(value, 4) for name, value in found.items()}, flush=True)
    for workers, each in rounds.items():
        medians = {name: statistics.median(one[name] for one in each) for name in each[0]}
        print(
            f"{workers} worker(s), median of {len(each)}:", {name: round(value, 4) for name, value in medians.items()}
        )
    ratios = [two["rate"] / one["rate"] for one, two in zip(rounds[1], rounds[2], strict=True)]
    print("photos a second, two workers to one:", [round(ratio, 2) for ratio in ratios])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
