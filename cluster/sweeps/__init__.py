"""Many runs as one job: the cells of a sweep, and running those without a result on Ray Tune.

May import: dataio, trainer, evalsuite, cluster, cluster.evaluation, cluster.ledger,
cluster.monitoring, cluster.sinks, cluster.terminal, cluster.training.
"""

from cluster.sweeps.cells import Cell, Choosing
from cluster.sweeps.description import Choice, Sweep, load_sweep
from cluster.sweeps.engine import Running
from cluster.sweeps.grid import Skipped, cell_of
from cluster.sweeps.points import Point, as_keys, as_text
from cluster.sweeps.run import Outcome, run_planned, run_sweep, write_page
from cluster.sweeps.trial import Store

__all__ = [
    "Cell",
    "Choice",
    "Choosing",
    "Outcome",
    "Point",
    "Running",
    "Skipped",
    "Store",
    "Sweep",
    "as_keys",
    "as_text",
    "cell_of",
    "load_sweep",
    "run_planned",
    "run_sweep",
    "write_page",
]
