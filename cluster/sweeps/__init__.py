"""Many runs as one job: what to train, what of it is there already, and the rest on Ray Tune.

May import: dataio, trainer, evalsuite, cluster, cluster.evaluation, cluster.ledger,
cluster.monitoring, cluster.sinks, cluster.terminal, cluster.training.
"""

from cluster.sweeps.cells import Cell, Choosing, check_data, make_cell
from cluster.sweeps.code_hash import code_version
from cluster.sweeps.description import Choice, Sweep, load_sweep
from cluster.sweeps.engine import Running
from cluster.sweeps.grid import Skipped
from cluster.sweeps.pages import write_page
from cluster.sweeps.run import Asked, Outcome, run_planned, run_sweep
from cluster.sweeps.trial import Store

__all__ = [
    "Asked",
    "Cell",
    "Choice",
    "Choosing",
    "Outcome",
    "Running",
    "Skipped",
    "Store",
    "Sweep",
    "check_data",
    "code_version",
    "load_sweep",
    "make_cell",
    "run_planned",
    "run_sweep",
    "write_page",
]
