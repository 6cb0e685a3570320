"""Making, fetching, rendering, packing, checking and explaining data, in parallel on Ray.

May import: dataio, trainer, evalsuite, cluster, cluster.terminal, cluster.training.
"""

from cluster.data_jobs.benchmark import make_benchmark
from cluster.data_jobs.checking import inspect_data, print_check, print_inspection, verify_data
from cluster.data_jobs.fetching import fetch_furniture
from cluster.data_jobs.packing import index_data, pack_data
from cluster.data_jobs.planning import print_explanation, print_replay
from cluster.data_jobs.rendering import render_data

__all__ = [
    "fetch_furniture",
    "index_data",
    "inspect_data",
    "make_benchmark",
    "pack_data",
    "print_check",
    "print_explanation",
    "print_inspection",
    "print_replay",
    "render_data",
    "verify_data",
]
