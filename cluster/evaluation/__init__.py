"""Extraction and scoring over many processes: actors that embed, actors that hold gallery shards,
search, comparison and reports.

May import: dataio, trainer, evalsuite, cluster, cluster.terminal, cluster.training.
"""

from cluster.evaluation.comparing import compare_runs, print_comparisons
from cluster.evaluation.extraction import embed_run
from cluster.evaluation.jobs import evaluate_run, score_files, write_report
from cluster.evaluation.pictures import SamplePictures
from cluster.evaluation.searching import index_run, print_index, print_search, search_run

__all__ = [
    "SamplePictures",
    "compare_runs",
    "embed_run",
    "evaluate_run",
    "index_run",
    "print_comparisons",
    "print_index",
    "print_search",
    "score_files",
    "search_run",
    "write_report",
]
