"""The Ray cluster of a command, and what its nodes have to give right now."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from cluster.training.group_size import Node
from cluster.training.loopback import on_loopback
from cluster.training.ray_private import ENVIRONMENT, draining_nodes, free_resources

STORE_BYTES = 256 * 1024**2  # shared memory of a local cluster


@contextlib.contextmanager
def ray_session(*, object_store_bytes: int = STORE_BYTES) -> Iterator[None]:
    """A Ray cluster for the time of the block: the one of RAY_ADDRESS, else a local one.

    A local one can be reached from this machine alone, and has ``object_store_bytes`` of shared
    memory. Inside another session the block uses that one.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if may_grow():
        with _initialized():
            yield
        return
    with (
        on_loopback(),
        _initialized(
            address="local",  # never a cluster of another user that Ray finds in /tmp
            include_dashboard=False,
            object_store_memory=object_store_bytes,
            num_cpus=max(2, os.cpu_count() or 1),
        ),
    ):
        yield


@contextlib.contextmanager
def _initialized(**options: Any) -> Iterator[None]:
    import ray

    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    try:
        yield
    finally:
        ray.shutdown()


def may_grow() -> bool:
    """Whether nodes may join: they can in the cluster of RAY_ADDRESS, not in a local one."""
    return "RAY_ADDRESS" in os.environ


def nodes() -> list[Node]:
    """The living nodes that will stay, each with what nobody uses on it."""
    import ray

    free, leaving = free_resources(), draining_nodes()
    return [
        Node(
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            free_cpus=free.get(node["NodeID"], {}).get("CPU", 0.0),
            free_gpus=free.get(node["NodeID"], {}).get("GPU", 0.0),
            memory_bytes=node["Resources"].get("memory", 0.0),
            free_memory_bytes=free.get(node["NodeID"], {}).get("memory", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in leaving
    ]
