"""A Ray cluster of several nodes on this machine, whose nodes come and go as a test likes.

``python -m tests.faults.small_cluster`` keeps the nodes in a process of its own and obeys the lines
that it reads: ``add``, ``kill N``, ``drain N SECONDS``. It answers each with a line.

Two private interfaces of Ray 2.60.0 are used: no public one starts a cluster without noting its
address for others, or drains a node for the reason of preemption.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from tests.command import ROOT, environment

__all__ = ["SmallCluster"]


class SmallCluster:
    """A head without CPUs and nodes 0, 1, … with one CPU each; ``address`` is for RAY_ADDRESS."""

    def __init__(self, nodes: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.small_cluster"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._answer()
        for _ in range(nodes):
            self.add()

    def add(self) -> None:
        """One more node; it gets the next number."""
        self._do("add")

    def kill(self, node: int) -> None:
        """A node is lost without a notice."""
        self._do(f"kill {node}")

    def drain(self, node: int, seconds: int) -> None:
        """Ray is told that a node will be taken away in so many seconds."""
        self._do(f"drain {node} {seconds}")

    def close(self) -> None:
        """End all nodes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=120)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _do(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):  # Ray may print, too
                return line[2:].strip()
        raise AssertionError("the cluster has ended")


def main() -> None:
    """Keep the nodes until the input ends."""
    from ray._private import utils
    from ray.cluster_utils import Cluster

    utils.write_ray_address = lambda *args: None  # ray.init() elsewhere must not find this cluster
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    found: list[Any] = []
    print(f"> {cluster.address}", flush=True)
    for line in sys.stdin:
        verb, *numbers = line.split()
        if verb == "add":
            found.append(cluster.add_node(num_cpus=1))
        elif verb == "kill":
            cluster.remove_node(found[int(numbers[0])], allow_graceful=False)
        else:
            _drain(cluster, found[int(numbers[0])], seconds=int(numbers[1]))
        print("> done", flush=True)
    cluster.shutdown()


def _drain(cluster: Any, node: Any, *, seconds: int) -> None:
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]
    from ray.core.generated import autoscaler_pb2

    reasons = autoscaler_pb2.DrainNodeReason  # pyright: ignore[reportAttributeAccessIssue]

    accepted, message = GcsClient(address=cluster.address).drain_node(
        node.node_id,
        reasons.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "a test takes it away",
        time.time_ns() // 1_000_000 + seconds * 1000,
    )
    assert accepted, message


if __name__ == "__main__":
    main()
