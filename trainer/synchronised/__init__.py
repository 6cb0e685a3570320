"""The collectives that make losses global, and statistics over all ranks: class sums and class
centres, moments, clusters and pseudo-labels.

May import: nothing of this project.
"""

from trainer.synchronised import collectives
from trainer.synchronised.class_centers import (
    ClassSums,
    RunningCenters,
    class_sums,
    euclidean_norm,
    full_precision,
    pool_sums,
)
from trainer.synchronised.clustering import distances, kmeans, log_odds, match_clusters, select
from trainer.synchronised.collectives import (
    all_gather_rows,
    all_reduce_sum,
    broadcast_object,
    ensure_process_group,
    global_mean,
    is_distributed,
    meet_on_loopback,
    process_group,
    rank,
    row_counts,
    world_size,
)
from trainer.synchronised.moments import class_covariances, class_moments, standardised
from trainer.synchronised.pseudo_labels import PseudoLabels
from trainer.synchronised.read_back import ReadBack

__all__ = [
    "ClassSums",
    "PseudoLabels",
    "ReadBack",
    "RunningCenters",
    "all_gather_rows",
    "all_reduce_sum",
    "broadcast_object",
    "class_covariances",
    "class_moments",
    "class_sums",
    "collectives",
    "distances",
    "ensure_process_group",
    "euclidean_norm",
    "full_precision",
    "global_mean",
    "is_distributed",
    "kmeans",
    "log_odds",
    "match_clusters",
    "meet_on_loopback",
    "pool_sums",
    "process_group",
    "rank",
    "row_counts",
    "select",
    "standardised",
    "world_size",
]
