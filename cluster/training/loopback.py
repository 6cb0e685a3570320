"""A local Ray cluster can be reached from this machine alone.

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

from cluster.training.ray_private import loopback_torch_config, single_node

_LOOPBACK_DEVICE = "lo"
_TOKEN = secrets.token_hex(32)  # one for all clusters of this process: Ray reads it once
_LOCAL = "IMG2SHAPE_LOCAL_RAY"  # tells later calls of this program that the cluster is a local one


@contextmanager
def on_loopback() -> Iterator[None]:
    """In this block a Ray cluster that is started here listens on 127.0.0.1, and so do the
    collectives of its workers; other users of the machine lack its token."""
    # Ray's variable for clusters of one node is named after the systems that have no others.
    variables = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", _LOCAL: "1"}
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Ray would write a token to the home folder, which other users may be able to read.
        variables["RAY_AUTH_TOKEN"] = _TOKEN
    if sys.platform == "linux":
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            variables[name] = os.environ.get(name, _LOOPBACK_DEVICE)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with single_node():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def torch_config(**options: Any) -> Any:
    """Ray's ``TorchConfig(**options)``; in a local cluster its meeting point is on loopback."""
    from ray.train.torch import TorchConfig

    return (loopback_torch_config if _LOCAL in os.environ else TorchConfig)(**options)
