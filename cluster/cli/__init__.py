"""The command line: one file for each group of commands.

May import: dataio, trainer, evalsuite, cluster, cluster.data_jobs, cluster.doctor,
cluster.evaluation, cluster.kubernetes, cluster.ledger, cluster.monitoring, cluster.sweeps,
cluster.sweeps.figures, cluster.sweeps.tables, cluster.terminal, cluster.training.
"""

from cluster.cli.app import main

__all__ = ["main"]
