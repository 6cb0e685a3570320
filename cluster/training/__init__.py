"""One run from the command to its last step: launching, groups of Ray workers, restarts, hangs,
loopback, and the proof that the number of workers changes nothing.

May import: dataio, trainer, cluster, cluster.monitoring, cluster.sinks, cluster.terminal.
"""

from cluster.training import verify
from cluster.training.group_size import EPSILON, GroupSize, Node, parse_workers
from cluster.training.jobs import make_benchmark, model_complexity, train_run
from cluster.training.launching import launch, require_trainable
from cluster.training.ray_cluster import STORE_BYTES, may_grow, nodes, ray_session
from cluster.training.ray_private import actor_state

__all__ = [
    "EPSILON",
    "STORE_BYTES",
    "GroupSize",
    "Node",
    "actor_state",
    "launch",
    "make_benchmark",
    "may_grow",
    "model_complexity",
    "nodes",
    "parse_workers",
    "ray_session",
    "require_trainable",
    "train_run",
    "verify",
]
