"""The work of the commands on a Ray cluster, and `refine` of a dataset of Ray Data, as one of its steps."""

from crfrnn.cluster.dataset import refine
from crfrnn.cluster.engine import RayCluster

__all__ = ["RayCluster", "refine"]
