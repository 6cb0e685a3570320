"""The clocks of a Ray cluster's nodes, each asked by a task that runs there."""

from __future__ import annotations

import time

from cluster.doctor.findings import Finding
from cluster.doctor.folders import check_clock

_WAIT_SECONDS = 60.0  # for a node that is busy


def node_clocks() -> dict[str, float]:
    """Seconds that each living node's clock is ahead of this machine's, to about a task's round
    trip; nodes that do not answer in time are left out. Needs a Ray session."""
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(_asked)
    found = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ask.options(scheduling_strategy=there)
            try:
                ray.get(task.remote(), timeout=_WAIT_SECONDS)  # starts a process there
                before = time.time()
                theirs = ray.get(task.remote(), timeout=_WAIT_SECONDS)
            except GetTimeoutError:
                continue
            found[node["NodeManagerAddress"]] = theirs - (before + time.time()) / 2
    return found


def _asked() -> float:
    return time.time()


def check_node_clocks(ahead_seconds: dict[str, float]) -> list[Finding]:
    """One finding for each node."""
    return [check_clock(ahead, whose=f"node {node}") for node, ahead in ahead_seconds.items()]
