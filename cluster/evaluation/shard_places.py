"""The CPUs and memory that the actor of a gallery shard reserves, and whether all actors fit.

Every shard reserves the same. By default it takes the most CPUs with which all shards still fit
after the loss of the node that holds most of them, so that a shard whose node dies finds another
place. On one node it takes the most with which they fit. A share is a whole number of CPUs, or else
a half, a quarter, ... of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.training import EPSILON, Node
from evalsuite.vectors import EvaluationError

SMALLEST_SHARE = 1 / 64
POLL_SECONDS = 0.5
# The process itself, and the questions and answers of one block of queries.
PROCESS_BYTES = 384 << 20
BYTES_PER_ITEM = 256  # class name, index and row of an item


@dataclass(frozen=True)
class Claim:
    """What one shard's actor reserves."""

    cpus: float
    memory_bytes: int

    @property
    def threads(self) -> int:
        """Threads that the actor computes with."""
        return max(1, int(self.cpus))

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {_gb(self.memory_bytes)} of memory"


def memory_of(items: int, width: int) -> int:
    """Peak bytes of a shard of ``items`` float32 vectors of ``width`` components.

    At the peak it holds the vectors twice: as they are read and as they are compared.
    """
    return PROCESS_BYTES + items * (2 * 4 * width + BYTES_PER_ITEM)


def claim_for(
    nodes: Sequence[Node], shards: int, memory_bytes: int, *, cpus: float | None = None
) -> Claim | None:
    """What each of ``shards`` reserves on the free part of ``nodes``; None if they do not fit.

    Args:
        memory_bytes: of one shard.
        cpus: of one shard; None takes the default of the module's docstring.
    """
    if cpus is not None:
        chosen = Claim(cpus, memory_bytes)
        return chosen if sum(_slots(nodes, chosen)) >= shards else None
    most = int(max((node.free_cpus for node in nodes), default=0) + EPSILON)
    shares = [float(count) for count in range(most, 0, -1)]
    while not shares or shares[-1] > SMALLEST_SHARE:
        shares.append((shares[-1] if shares else 1.0) / 2)
    claims = [Claim(share, memory_bytes) for share in shares]
    if len(nodes) > 1:
        for claim in claims:
            slots = _slots(nodes, claim)
            if sum(slots) - max(slots) >= shards:
                return claim
    return next((claim for claim in claims if sum(_slots(nodes, claim)) >= shards), None)


def await_room(
    nodes: Callable[[], Sequence[Node]],
    shards: int,
    memory_bytes: int,
    *,
    cpus: float | None = None,
    patience_seconds: float,
) -> Claim:
    """As ``claim_for``, waiting while others use what the nodes have.

    Raises ``EvaluationError`` that says what is needed and what is free: at once if the shards do
    not fit even on idle nodes, else after ``patience_seconds``.
    """
    end_seconds = time.monotonic() + patience_seconds
    while True:
        there = nodes()
        claim = claim_for(there, shards, memory_bytes, cpus=cpus)
        if claim is not None:
            return claim
        empty = [
            Node(n.cpus, n.gpus, n.cpus, n.gpus, n.memory_bytes, n.memory_bytes) for n in there
        ]
        hopeless = claim_for(empty, shards, memory_bytes, cpus=cpus) is None
        if hopeless or time.monotonic() >= end_seconds:
            wanted = Claim(cpus or SMALLEST_SHARE, memory_bytes)
            raise EvaluationError(
                f"the cluster cannot hold the gallery: each of {shards} shards needs {wanted}, "
                f"there is {room(empty if hopeless else there)}"
                f"{'' if hopeless else f' free after {patience_seconds:g} s of waiting'}; "
                "add nodes, use smaller shards (more --shards), or take fewer --shard-cpus"
            )
        time.sleep(POLL_SECONDS)


def room(nodes: Sequence[Node]) -> str:
    """What is free on each node, in words."""
    free = [f"{node.free_cpus:g} CPUs and {_gb(node.free_memory_bytes)}" for node in nodes]
    return " + ".join(free[:4]) + (f" + {len(free) - 4} nodes" if len(free) > 4 else "")


def _slots(nodes: Sequence[Node], claim: Claim) -> list[int]:
    """How many shards each node can take."""
    return [
        int(
            min(
                node.free_cpus / claim.cpus + EPSILON,
                node.free_memory_bytes / max(claim.memory_bytes, 1),
            )
        )
        for node in nodes
    ]


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
