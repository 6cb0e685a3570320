"""The papers' figures: filled by the same cells as the tables, drawn into files.

May import: trainer, evalsuite, cluster.evaluation, cluster.sweeps, cluster.sweeps.tables,
cluster.terminal.
"""

from cluster.sweeps.figures.figure_results import run_figures
from cluster.sweeps.figures.paper_figures import figure_names, load_figure, load_figures

__all__ = [
    "figure_names",
    "load_figure",
    "load_figures",
    "run_figures",
]
