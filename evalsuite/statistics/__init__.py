"""Intervals over queries and over seeds, paired comparisons, and the distance between two domains.

May import: evalsuite.scoring, evalsuite.vectors.
"""

from evalsuite.statistics.bootstrap import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    instance_intervals,
    intervals,
)
from evalsuite.statistics.comparison import Comparison, Difference, compare, compare_classes
from evalsuite.statistics.domain_distance import even_sample, proxy_a_distance, tsne
from evalsuite.statistics.seeds import SeedDifference, seed_difference, seed_half_width

__all__ = [
    "Comparison",
    "Difference",
    "Interval",
    "SeedDifference",
    "bootstrap_difference",
    "bootstrap_mean",
    "compare",
    "compare_classes",
    "even_sample",
    "instance_intervals",
    "intervals",
    "proxy_a_distance",
    "seed_difference",
    "seed_half_width",
    "tsne",
]
