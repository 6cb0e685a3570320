"""Features in, numbers and pictures out: exact cross-domain retrieval metrics on any gallery size.

``evaluate`` scores embeddings against a gallery, ``evaluate_arrays`` plain arrays, and
``evaluate_distances`` a distance matrix. ``evaluate_instances`` looks for the query's own object
instead of its class. ``intervals`` and ``compare`` say how far the choice of queries explains a
number or a difference. ``evalsuite.search`` (FAISS) and ``evalsuite.pages`` are imported on their
own.
"""

from evalsuite.scoring import (
    Evaluation,
    GalleryShard,
    InProcess,
    InstanceEvaluation,
    QueryScores,
    Transport,
    evaluate,
    evaluate_arrays,
    evaluate_distances,
    evaluate_instance_arrays,
    evaluate_instances,
    partition,
    read_evaluation,
    read_scores,
    scores_of,
    split_gallery,
)
from evalsuite.statistics import (
    Comparison,
    Difference,
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    compare,
    compare_classes,
    instance_intervals,
    intervals,
)
from evalsuite.vectors import Embeddings, EvaluationError, read_embeddings, write_embeddings

__all__ = [
    "Comparison",
    "Difference",
    "Embeddings",
    "Evaluation",
    "EvaluationError",
    "GalleryShard",
    "InProcess",
    "InstanceEvaluation",
    "Interval",
    "QueryScores",
    "Transport",
    "bootstrap_difference",
    "bootstrap_mean",
    "compare",
    "compare_classes",
    "evaluate",
    "evaluate_arrays",
    "evaluate_distances",
    "evaluate_instance_arrays",
    "evaluate_instances",
    "instance_intervals",
    "intervals",
    "partition",
    "read_embeddings",
    "read_evaluation",
    "read_scores",
    "scores_of",
    "split_gallery",
    "write_embeddings",
]
