"""Features in, numbers and pictures out: exact cross-domain retrieval metrics on any gallery size.

``evaluate`` scores embeddings against a gallery; ``evaluate_distances`` scores a matrix;
``intervals`` and ``compare`` say how far the choice of queries explains a number or a difference.
``evalsuite.search`` (FAISS) and the reports are imported on their own.
"""

from evalsuite.compare import Comparison, Difference, compare, compare_classes
from evalsuite.embeddings import Embeddings, EvaluationError, read_embeddings, write_embeddings
from evalsuite.evaluate import evaluate
from evalsuite.evaluation import Evaluation
from evalsuite.gallery import GalleryShard, InProcess, Transport, partition, split_gallery
from evalsuite.intervals import Interval, bootstrap_difference, bootstrap_mean, intervals
from evalsuite.matrix import evaluate_distances
from evalsuite.query_scores import QueryScores, read_scores, scores_of

__all__ = [
    "Comparison",
    "Difference",
    "Embeddings",
    "Evaluation",
    "EvaluationError",
    "GalleryShard",
    "InProcess",
    "Interval",
    "QueryScores",
    "Transport",
    "bootstrap_difference",
    "bootstrap_mean",
    "compare",
    "compare_classes",
    "evaluate",
    "evaluate_distances",
    "intervals",
    "partition",
    "read_embeddings",
    "read_scores",
    "scores_of",
    "split_gallery",
    "write_embeddings",
]
