"""Two evaluations on the same queries: paired differences with bootstrap intervals.

Both sides see the same resampled queries. What makes a query easy or hard for both cancels, so the
interval of the difference is narrower than the interval of either run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evalsuite.scoring import Options, QueryScores
from evalsuite.statistics.bootstrap import check_request
from evalsuite.statistics.resampling import Resampled, resampled
from evalsuite.vectors import EvaluationError

# How queries and shapes are compared. Runs may differ here, and a note says so. All other options
# decide what a number means: a difference between two meanings is no difference between runs.
_SEARCH = (*Options().shard_options, "nan_policy")
# Queries without a shape of their class are in no comparison.
_WITHOUT_EFFECT = ("on_missing",)
_NAMED = 3


@dataclass(frozen=True)
class Difference:
    """A metric of both runs, and second - first with its percentile bootstrap interval."""

    first: float
    second: float
    low: float
    high: float
    share_above_zero: float
    """Share of the resamples in which the second run's value is the greater one."""
    confidence: float
    resamples: int

    @property
    def difference(self) -> float:
        """second - first."""
        return self.second - self.first

    @property
    def beyond_queries(self) -> bool:
        """True if 0 is outside the interval: more than the choice of queries explains."""
        return self.low > 0.0 or self.high < 0.0


@dataclass(frozen=True)
class ClassComparison:
    """The queries of one class; ``n_relevant`` shapes have it. F is pooled within the class."""

    label: str
    n_queries: int
    n_relevant: int
    metrics: dict[str, Difference]


@dataclass(frozen=True)
class Comparison:
    """Every metric that both runs have; ``left_out`` names the others with the reason."""

    first: str
    second: str
    n_queries: int
    n_gallery: int
    metrics: dict[str, Difference]
    left_out: dict[str, str]
    notes: tuple[str, ...]


def compare(
    first: QueryScores,
    second: QueryScores,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Comparison:
    """Paired differences second - first of every headline metric, pooled ones included.

    Queries are paired by key. The same seed gives the same intervals. ``progress`` is called with
    the number of resamples done.

    Raises ``EvaluationError`` naming what differs: queries, their classes, the gallery, or an
    option that decides what a number means; as ``bootstrap_mean`` for a bad request.
    """
    check_request(confidence=confidence, resamples=resamples)
    second = _aligned(first, second)
    sides = Resampled(first), Resampled(second)
    found = resampled(sides, len(first), resamples=resamples, seed=seed, progress=progress)
    headlines = first.headline, second.headline
    return Comparison(
        first=first.name,
        second=second.name,
        n_queries=len(first),
        n_gallery=first.n_gallery,
        metrics=_differences(headlines, found, confidence),
        left_out={**second.left_out, **first.left_out},
        notes=tuple(
            f"{option} differs: {first.options[option]} in {first.name}, "
            f"{second.options[option]} in {second.name}"
            for option in _SEARCH
            if first.options[option] != second.options[option]
        ),
    )


def compare_classes(
    first: QueryScores,
    second: QueryScores,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[ClassComparison]:
    """``compare`` within each class, drawing from the queries of the class, sorted by name.

    AUC is not among the metrics: the curve of a class is not part of an evaluation. Raises as
    ``compare``.
    """
    check_request(confidence=confidence, resamples=resamples)
    second = _aligned(first, second)
    rows = []
    for label in np.unique(first.labels):
        chosen = np.flatnonzero(first.labels == label)
        own = [_class_scores(side, chosen) for side in (first, second)]
        sides = [Resampled(side) for side in own]
        found = resampled(sides, len(chosen), resamples=resamples, seed=seed)
        rows.append(
            ClassComparison(
                label=str(label),
                n_queries=len(chosen),
                n_relevant=int(own[0].sizes[0]),
                metrics=_differences((own[0].headline, own[1].headline), found, confidence),
            )
        )
    return rows


def _class_scores(scores: QueryScores, chosen: np.ndarray) -> QueryScores:
    """The queries of one class, with their own means as the headline and F pooled."""
    part = scores.rows(
        chosen,
        left_out={**scores.left_out, "AUC": "not computed per class"},
        options={**scores.options, "average": "query", "f_average": "pooled"},
    )
    headline = {m: float(part.values[m].mean()) for m in part.metrics if m in part.values}
    if part.f_hits is not None:
        hits, relevant = float(part.f_hits.sum()), int(part.sizes.sum())
        headline["F"] = 2.0 * hits / (len(part) * part.f_cut + relevant)
    return part.rows(np.arange(len(part)), headline=headline)


def _differences(
    headlines: tuple[dict[str, float], dict[str, float]],
    found: list[dict[str, np.ndarray]],
    confidence: float,
) -> dict[str, Difference]:
    tail = (1.0 - confidence) / 2.0
    result = {}
    for metric in found[0]:
        if metric not in found[1]:
            continue
        values = found[1][metric] - found[0][metric]
        low, high = np.quantile(values, [tail, 1.0 - tail])
        result[metric] = Difference(
            first=headlines[0][metric],
            second=headlines[1][metric],
            low=float(low),
            high=float(high),
            share_above_zero=float((values > 0.0).mean()),
            confidence=confidence,
            resamples=len(values),
        )
    return result


def _aligned(first: QueryScores, second: QueryScores) -> QueryScores:
    """``second`` with its queries in the order of ``first``."""
    both = f"{first.name} and {second.name}"
    for option, mine in first.options.items():
        other = second.options[option]
        if mine != other and option not in (*_SEARCH, *_WITHOUT_EFFECT):
            raise EvaluationError(
                f"{both} were evaluated with {option} {mine} and {other}; evaluate both with one"
            )
    _require_same_gallery(first, second)
    for one, two in ((first, second), (second, first)):
        alone = np.setdiff1d(one.keys, two.keys)
        if len(alone):
            raise EvaluationError(
                f"{both} were evaluated on different queries: {len(alone)} only in {one.name} "
                f"({_some(alone)}); evaluate both on the same queries"
            )
    if len(first) != len(second):
        raise EvaluationError(
            f"{both} hold {len(first)} and {len(second)} queries, so some key comes twice; "
            "evaluate both again"
        )
    order = np.argsort(second.keys)[np.argsort(np.argsort(first.keys))]
    paired = second.rows(order)
    differ = np.flatnonzero(paired.labels != first.labels)
    if len(differ):
        raise EvaluationError(
            f"{both} were evaluated with different classes of {len(differ)} queries "
            f"({_some(first.keys[differ])}); evaluate both with the same labels"
        )
    differ = np.flatnonzero(paired.sizes != first.sizes)
    if len(differ):
        q = differ[0]
        raise EvaluationError(
            f"{both} were evaluated on different galleries: {first.sizes[q]} and {paired.sizes[q]} "
            f"shapes of class {first.labels[q]}; evaluate both on the same gallery"
        )
    return paired


def _require_same_gallery(first: QueryScores, second: QueryScores) -> None:
    for name, words in (
        ("n_gallery", "numbers of shapes"),
        ("n_max", "sizes of the largest class"),
        ("gallery_fingerprint", "fingerprints of keys and classes"),
    ):
        mine, other = getattr(first, name), getattr(second, name)
        if mine is not None and other is not None and mine != other:
            raise EvaluationError(
                f"{first.name} and {second.name} were evaluated on different galleries, "
                f"{words} {mine} and {other}; evaluate both on the same gallery"
            )


def _some(keys: np.ndarray) -> str:
    shown = ", ".join(map(str, keys[:_NAMED]))
    return f"{shown}, ..." if len(keys) > _NAMED else shown
