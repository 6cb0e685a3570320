"""The Ray cluster of a command, and what its nodes have to give right now."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from cluster.training.group_size import Node
from cluster.training.loopback import on_loopback

STORE_BYTES = 256 * 1024**2  # shared memory of a local cluster


@contextlib.contextmanager
def ray_session(*, object_store_bytes: int = STORE_BYTES) -> Iterator[None]:
    """A Ray cluster for the time of the block: the one of RAY_ADDRESS, else a local one.

    ``object_store_bytes`` is the shared memory of a local one, which can be reached from this
    machine alone.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # `print` stays `print` in workers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "120")
    # How long a group that ends awaits a worker that does not answer (30 s) before it is killed.
    os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "5")
    if may_grow():
        with _initialized():
            yield
        return
    with (
        on_loopback(),
        _initialized(
            address="local",  # never one of another user that is found in /tmp
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
    """A cluster that existed before the command may get more nodes; its own local one does not."""
    return "RAY_ADDRESS" in os.environ


def nodes() -> list[Node]:
    """The living nodes that are not about to leave, with what nobody uses on them."""
    import ray
    from ray._private.state import available_resources_per_node, state

    # Neither has a public form that works without Ray's dashboard.
    free, draining = available_resources_per_node(), state.get_draining_nodes() or {}
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
        if node["Alive"] and node["NodeID"] not in draining
    ]
