"""A real Kubernetes on any Linux machine, without Docker: for tests, the demo and benchmarks.

It builds the real parts from pinned Go modules, runs them as plain processes, and takes every one of them away again.
It is never shipped and never imported by the operator.

    >>> with Cluster.up(ClusterSpec(name="mine", kwok_nodes=SAMPLE_KWOK_NODES)) as cluster:  # doctest: +SKIP
    ...     print(cluster.kubectl("get", "nodes"))
"""

from .cluster import SAMPLE_KWOK_NODES, Cluster
from .errors import LocalClusterError
from .state import ClusterSpec

__all__ = ["SAMPLE_KWOK_NODES", "Cluster", "ClusterSpec", "LocalClusterError"]
