"""One run from the command to its last step, and the proof that world size changes nothing.

- ``launching``: one process, ``torchrun`` or Ray workers; ``train_command`` shows the progress.
- ``ray_workers``: groups of workers, one after the other; ``worker``: what runs in each.
- ``worker_restarts``: when dead workers are started again; ``hangs``: what is said of a hang.
  (Dead actors of an evaluation are restarted in ``cluster.evaluation``.)
- ``group_size``: how many workers; ``ray_cluster`` and ``loopback``: the cluster that they run on.
- ``ray_private``: all private interfaces of Ray.
- ``verify`` and ``verify_processes``: W processes compared with one.

May import: dataio, trainer, evalsuite, cluster, cluster.monitoring, cluster.sinks,
cluster.terminal.
"""

from cluster.training import verify
from cluster.training.group_size import EPSILON, GroupSize, Node, parse_workers
from cluster.training.launching import launch, require_trainable
from cluster.training.ray_cluster import STORE_BYTES, may_grow, nodes, ray_session
from cluster.training.ray_private import actor_state
from cluster.training.train_command import train_run

__all__ = [
    "EPSILON",
    "STORE_BYTES",
    "GroupSize",
    "Node",
    "actor_state",
    "launch",
    "may_grow",
    "nodes",
    "parse_workers",
    "ray_session",
    "require_trainable",
    "train_run",
    "verify",
]
