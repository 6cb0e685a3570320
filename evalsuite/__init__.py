"""Features in, numbers and pictures out: exact cross-domain retrieval metrics on any gallery size.

``evaluate`` scores embeddings against a gallery; ``evaluate_distances`` scores a matrix.
``evalsuite.search`` (FAISS) and the reports are imported on their own.
"""

from evalsuite.compare import Interval, bootstrap_difference, bootstrap_mean
from evalsuite.embeddings import Embeddings, EvaluationError, read_embeddings, write_embeddings
from evalsuite.evaluate import evaluate
from evalsuite.evaluation import Evaluation
from evalsuite.gallery import GalleryShard, InProcess, Transport, partition, split_gallery
from evalsuite.matrix import evaluate_distances

__all__ = [
    "Embeddings",
    "Evaluation",
    "EvaluationError",
    "GalleryShard",
    "InProcess",
    "Interval",
    "Transport",
    "bootstrap_difference",
    "bootstrap_mean",
    "evaluate",
    "evaluate_distances",
    "partition",
    "read_embeddings",
    "split_gallery",
    "write_embeddings",
]
