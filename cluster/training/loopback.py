"""What a local Ray cluster needs to be reached from this machine alone.

Ray's servers listen on loopback where the node's address is the loopback address, and on every
address of the machine otherwise. A cluster that nobody else may join needs no other address.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ray takes the loopback address where clusters of several nodes are off. Its documented variable is
# named after the systems on which they are off by default.
_SINGLE_NODE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_LOOPBACK_DEVICE = "lo"
_TOKEN = secrets.token_hex(32)  # one for all clusters of this process: Ray reads it once
_LOCAL = "IMG2SHAPE_LOCAL_RAY"  # tells this program's own later calls what kind of cluster it is


@contextmanager
def on_loopback() -> Iterator[None]:
    """In this block a Ray cluster that is started here listens on 127.0.0.1, and so do the
    collectives of its workers; other users of the machine lack its token."""
    from ray._private import ray_constants

    variables = {**_SINGLE_NODE, _LOCAL: "1"}
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Else Ray makes a file in the home folder, which other users may be able to read.
        variables["RAY_AUTH_TOKEN"] = _TOKEN
    if sys.platform == "linux":
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            variables.setdefault(name, os.environ.get(name, _LOOPBACK_DEVICE))
    before = {name: os.environ.get(name) for name in variables}
    several = ray_constants.ENABLE_RAY_CLUSTER  # was read when Ray was imported
    os.environ.update(variables)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = several
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def torch_config(**options: Any) -> Any:
    """Ray's ``TorchConfig(**options)``; where the cluster is a local one, the workers' meeting
    point listens on loopback alone as well."""
    from ray.train.torch import TorchConfig

    if _LOCAL not in os.environ:
        return TorchConfig(**options)

    # The process that starts the group imports these classes by their name.
    from cluster.training.loopback_workers import LoopbackTorchConfig

    return LoopbackTorchConfig(**options)
