"""The machines of a cluster: whether they have this package, and see the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crfrnn.cluster.worker import gpus, workers_on
from crfrnn.jobs import EngineError, Job


def alive(ray: Any) -> set[str]:
    """The machines of a cluster that are there now."""
    return {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}


def require_machines(ray: Any, job: Job[Any, Any], beacon: Path | None) -> int:
    """The number of workers that a cluster has room for.

    Args:
        beacon: A file that all machines have to see.
    Raises: EngineError: naming a machine that does not fit.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look(paths: list[str]) -> tuple[str | None, str | None]:  # it is sent whole: the package may be missing there
        import os
        from importlib import import_module

        try:
            import_module("crfrnn.cluster")
            found = str(import_module("crfrnn").__version__)
        except ImportError:
            found = None
        return found, next((path for path in paths if not os.path.exists(path)), None)

    nodes = [node for node in ray.nodes() if node["Alive"]]
    workers = sum(workers_on(node["Resources"], job) for node in nodes)
    if not workers:
        count = job.threads or 1
        needed = f"{count} CPU{'s' if count > 1 else ''}" + (" and a GPU" if gpus(job) else "")
        raise EngineError(f"no machine of the cluster has {needed}, which a worker takes: start one, or ask for less")
    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    # A folder that is not there is the business of whoever reads it.
    seen = [str(each.absolute()) for each in (beacon, *job.inputs) if isinstance(each, Path) and each.exists()]
    ours, _ = look([])
    asked = {
        node["NodeManagerAddress"]: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(seen)
        for node in nodes
        if workers_on(node["Resources"], job)
    }
    for address, answer in asked.items():
        try:
            version, unseen = ray.get(answer)
        except ray.exceptions.RayError:  # a machine that is gone by now is no hindrance
            continue
        if version != ours:
            has = "missing" if version is None else f"of version {version}"
            raise EngineError(
                f"crfrnn is {has} on {address}, and of version {ours} here: "
                f"pip install 'crfrnn[cluster]=={ours}' on all machines of the cluster"
            )
        if unseen is not None:
            here = unseen if beacon is None or Path(unseen) != beacon.absolute() else beacon.parent
            raise EngineError(
                f"{address} does not see what this machine has in {here}: name a folder that all machines of the "
                "cluster share, or a URL such as s3://bucket/folder"
            )
    return workers
