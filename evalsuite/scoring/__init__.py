"""From distances to metrics: arithmetic, counting, ranks, sharded galleries, tie rules, the result.

May import: evalsuite, evalsuite.vectors.
"""

from evalsuite.scoring.canonical_distances import Limbs, distances, prepare_features, split_limbs
from evalsuite.scoring.distance_matrix import evaluate_distances
from evalsuite.scoring.evaluation import (
    evaluate,
    evaluate_arrays,
    own_items,
    require_own_items,
    score,
)
from evalsuite.scoring.gallery import GalleryShard, InProcess, LevelName, Transport, require_level
from evalsuite.scoring.gallery_split import partition, split_gallery
from evalsuite.scoring.instance_level import (
    INSTANCE_METRICS,
    InstanceEvaluation,
    evaluate_instance_arrays,
    evaluate_instances,
    require_pairs,
)
from evalsuite.scoring.options import (
    HEADLINES,
    LOWER_IS_BETTER,
    FeaturesName,
    MetricName,
    Options,
    ProtocolName,
    require_choice,
)
from evalsuite.scoring.query_scores import QueryScores, items_fingerprint, read_scores, scores_of
from evalsuite.scoring.result import CURVES, CurveName, Evaluation, read_evaluation
from evalsuite.scoring.threads import run_in_threads, single_threaded_products

__all__ = [
    "CURVES",
    "HEADLINES",
    "INSTANCE_METRICS",
    "LOWER_IS_BETTER",
    "CurveName",
    "Evaluation",
    "FeaturesName",
    "GalleryShard",
    "InProcess",
    "InstanceEvaluation",
    "LevelName",
    "Limbs",
    "MetricName",
    "Options",
    "ProtocolName",
    "QueryScores",
    "Transport",
    "distances",
    "evaluate",
    "evaluate_arrays",
    "evaluate_distances",
    "evaluate_instance_arrays",
    "evaluate_instances",
    "items_fingerprint",
    "own_items",
    "partition",
    "prepare_features",
    "read_evaluation",
    "read_scores",
    "require_choice",
    "require_level",
    "require_own_items",
    "require_pairs",
    "run_in_threads",
    "score",
    "scores_of",
    "single_threaded_products",
    "split_gallery",
    "split_limbs",
]
