"""How early a query's own object is found: exact ranks of paired shapes, and what is made of them.

Where a query and items of the gallery show one object, those items are *right*, and all others are
wrong, those of the query's class included. The rank of a query is that of its best right item. It
follows from counts alone, as the ranks of the class metrics do (``rank_counting``), and under the
same tie rules (``tie_rules``). So a gallery in any number of shards gives the same bits.

Shape letters: Q evaluated queries, M right pairs (query after query), G gallery items.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evalsuite.scoring.assemble import require_countable
from evalsuite.scoring.evaluation import Progress, asked_in_order, blocks_of, held_by
from evalsuite.scoring.gallery import Transport
from evalsuite.scoring.options import Options
from evalsuite.scoring.rank_counting import Counted
from evalsuite.scoring.tally import mean
from evalsuite.scoring.tie_rules import (
    BEFORE,
    NEARER,
    NEARER_OR_EQUAL,
    TIE_RULES,
    WARNING_SHARE,
    TieReport,
)
from evalsuite.vectors import Embeddings, EvaluationError

logger = logging.getLogger(__name__)

RECALL_RANKS = (1, 5, 10)
INSTANCE_METRICS = (*(f"R@{k}" for k in RECALL_RANKS), "MRR", "median_rank")


@dataclass(frozen=True, eq=False)
class InstanceEvaluation:
    """Scores of queries whose own object is in the gallery.

    ``headline`` maps ``INSTANCE_METRICS`` to values under ``options.ties``. Of the evaluated
    queries, in order: ``keys``, ``instances``, ``ranks`` float64 [Q], and ``values`` float64 [Q] by
    name of the metrics that are means. ``rows`` int64 [Q] are their places among all queries.
    ``n_unnamed`` queries have no instance, and ``n_missing`` have one that the gallery lacks; both
    are in no number. ``ties`` counts queries whose best right item is as far as a wrong one.
    """

    options: Options
    headline: dict[str, float]
    n_queries: int
    n_unnamed: int
    n_missing: int
    n_gallery: int
    ties: TieReport
    rows: np.ndarray
    keys: tuple[str, ...]
    instances: tuple[str, ...]
    ranks: np.ndarray
    values: dict[str, np.ndarray]
    warnings: tuple[str, ...]

    @property
    def n_evaluated(self) -> int:
        """Q, the queries that every number is about."""
        return len(self.rows)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON types, without the values of single queries."""
        counts = ("n_queries", "n_evaluated", "n_unnamed", "n_missing", "n_gallery")
        return {
            **self.headline,
            **{name: getattr(self, name) for name in counts},
            "tie_report": asdict(self.ties),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, eq=False)
class BestRanks:
    """Where the best right items of Q queries stand, int64 [Q] each.

    ``nearer`` items are nearer than it; ``size`` are as far, itself included, of which ``right``
    are right; ``before`` come before it in the order of the gallery.
    """

    nearer: np.ndarray
    size: np.ndarray
    right: np.ndarray
    before: np.ndarray

    @property
    def tied(self) -> np.ndarray:
        """Whether a wrong item is as far, bool [Q]."""
        return self.size > self.right

    def ranks(self, ties: str) -> np.ndarray:
        """Ranks float64 [Q] from 1 on, under a tie rule; of ``expected`` the mean over all orders.

        The first of m right items in a random order of t is at (t + 1) / (m + 1) on average.
        """
        behind = {
            "index": self.before - self.nearer + 1.0,
            "optimistic": np.ones(len(self.nearer)),
            "pessimistic": self.size - self.right + 1.0,
            "expected": (self.size + 1.0) / (self.right + 1.0),
        }
        return self.nearer + behind[ties]

    def values(self, ties: str) -> dict[str, np.ndarray]:
        """The metrics that are means over queries, by name, float64 [Q].

        Under ``expected`` they are means over all orders of the items that are equally far.
        """
        ranks = self.ranks(ties)
        found = {f"R@{k}": (ranks <= k).astype(np.float64) for k in RECALL_RANKS}
        found["MRR"] = 1.0 / ranks
        if ties == "expected" and self.tied.any():
            rows = np.flatnonzero(self.tied)
            groups, of_row = np.unique(
                np.stack([self.nearer[rows], self.size[rows], self.right[rows]]),
                axis=1,
                return_inverse=True,
            )
            expected = [_expected(*group) for group in groups.T.tolist()]
            for column, name in enumerate(found):
                found[name][rows] = np.array([one[column] for one in expected])[of_row.ravel()]
        return found


def _expected(nearer: int, size: int, right: int) -> tuple[float, ...]:
    """The mean hit within each of ``RECALL_RANKS`` and mean 1 / rank, over all orders of a group.

    ``nearer`` items stand before the group, which has ``size`` items, ``right`` of them right.
    """
    place = np.arange(1, size - right + 2)  # where the first right item may stand in the group
    after = np.cumprod((size - right - place + 1.0) / (size - place + 1.0))  # it stands behind
    at = np.concatenate(([1.0], after[:-1])) * right / (size - place + 1.0)
    hits = [math.fsum(at[: max(0, k - nearer)]) for k in RECALL_RANKS]
    return (*hits, math.fsum(at / (nearer + place)))


def best_ranks(counted: Counted, *, gallery_size: int) -> BestRanks:
    """Where each query's best right item stands; every query of ``counted`` has one.

    NaN distances come last, and among NaN the wrong items come first.

    Raises ``EvaluationError`` if the counts contradict each other.
    """
    first = counted.offsets[:-1]
    at = counted.distance[first]
    level = counted.distance == np.repeat(at, counted.sizes)
    right = np.add.reduceat(level.astype(np.int64), first)
    nearer, up_to, before = (
        counted.counts[row, first].astype(np.int64) for row in (NEARER, NEARER_OR_EQUAL, BEFORE)
    )
    size = up_to - nearer
    lost = np.isnan(at)
    nearer[lost] = before[lost] = gallery_size - counted.sizes[lost]
    size[lost] = right[lost] = counted.sizes[lost]
    found = BestRanks(nearer, size, right, before)
    if (nearer < 0).any() or (size < right).any() or not _within(found):
        raise EvaluationError(
            "gallery shards disagree about distances; build all of them with one version"
        )
    return found


def _within(found: BestRanks) -> bool:
    behind = found.before - found.nearer
    return bool(((behind >= 0) & (behind <= found.size - found.right)).all())


def evaluate_instances(
    queries: Embeddings,
    gallery: Embeddings | None,
    *,
    options: Options | None = None,
    shards: int = 1,
    query_block: int = 1024,
    transport: Transport | None = None,
    progress: Progress | None = None,
    own: np.ndarray | None = None,
    **choices: Any,
) -> InstanceEvaluation:
    """How early each query finds an item of its own instance: recall at 1, 5 and 10, mean
    reciprocal rank and median rank.

    Queries without an instance, or whose instance the gallery lacks, are counted and left out. Of
    several items of the instance the best rank counts. The result has the same bits for every
    ``shards``, ``query_block`` and transport.

    Args:
        queries, gallery: with ``instances``; ``gallery`` is None if it lives behind ``transport``.
        options: how to compare and rank; those of class metrics alone say nothing here.
        shards: parts into which the gallery is cut in this process.
        query_block: queries that are scored at a time.
        transport: carries questions to shards that exist already.
        progress: called with (queries done, queries to do) after each block.
        own: int64 [Q], the gallery's row of every query itself, which then is not in that query's
            ranking; it must have the query's instance.
        choices: fields of ``Options`` by name, in place of those in ``options``.

    Raises ``EvaluationError`` as ``evaluate``, and if no query has an item of its instance in the
    gallery.
    """
    options = replace(options or Options(), **choices)
    transport, held = held_by(transport, queries, gallery, options=options, shards=shards)
    names = np.asarray(queries.instances, dtype=str)
    sizes = _sizes(transport, names, own=own)
    rows = np.flatnonzero(sizes)
    unnamed = int((names == "").sum())
    missing = len(names) - unnamed - len(rows)
    if not len(rows):
        raise _no_pairs(queries.instances)
    if missing and options.on_missing == "error":
        raise EvaluationError(
            f"the gallery lacks the objects of {missing} queries; add them or pass "
            "on_missing='exclude'"
        )
    total = sum(len(shard["indices"]) for shard in held) - (own is not None)
    require_countable(total)
    parts: list[BestRanks] = []
    order = rows[np.argsort(names[rows], kind="stable")]  # queries of a tile share their items
    blocks = [order[block] for block in blocks_of(sizes[order], query_block)]
    done = 0
    asked = asked_in_order(transport, queries.vectors, names, blocks, own=own, level="instance")
    for block, counted in zip(blocks, asked, strict=True):
        if not np.array_equal(counted.sizes, sizes[block]):
            raise EvaluationError("shards return other relevant items than they described")
        parts.append(best_ranks(counted, gallery_size=total))
        done += len(block)
        if progress is not None:
            progress(done, len(rows))
    found = _joined(parts, np.argsort(order))
    warnings = _warnings(found, options, unnamed=unnamed, missing=missing)
    for message in warnings:
        logger.warning("%s", message)
    return InstanceEvaluation(
        options=options,
        headline=_headline(found, options.ties),
        n_queries=len(queries),
        n_unnamed=unnamed,
        n_missing=missing,
        n_gallery=total,
        ties=_tie_report(found, options),
        rows=rows,
        keys=tuple(queries.keys[row] for row in rows),
        instances=tuple(queries.instances[row] for row in rows),
        ranks=found.ranks(options.ties),
        values=found.values(options.ties),
        warnings=tuple(warnings),
    )


def evaluate_instance_arrays(
    query_vectors_QD: ArrayLike,
    query_instances: Sequence[str],
    gallery_vectors_GD: ArrayLike,
    gallery_instances: Sequence[str],
    **choices: Any,
) -> InstanceEvaluation:
    """:func:`evaluate_instances` for plain arrays [Q, D] and [G, D] with one instance a row.

    ``choices`` are fields of ``Options`` and the other arguments of :func:`evaluate_instances`.
    Keys are row numbers; instances may be of any type and are compared as text, "" is none.

    >>> import numpy as np
    >>> shapes = np.array([[1.0], [2.0], [3.0]])
    >>> result = evaluate_instance_arrays(np.array([[0.0]]), ["b"], shapes, ["a", "b", "c"])
    >>> result.headline["R@1"], result.headline["R@5"], result.headline["median_rank"]
    (0.0, 1.0, 2.0)

    Raises ``EvaluationError`` as :func:`evaluate_instances`, and if instances and rows differ in
    number.
    """
    return evaluate_instances(
        _embeddings(query_vectors_QD, query_instances),
        _embeddings(gallery_vectors_GD, gallery_instances),
        **choices,
    )


def _embeddings(rows: ArrayLike, instances: Sequence[str]) -> Embeddings:
    vectors_ND = np.asarray(rows)
    keys, names = [str(row) for row in range(len(vectors_ND))], [str(name) for name in instances]
    if len(names) != len(keys):
        raise EvaluationError(f"{len(keys)} vectors and {len(names)} instances; give one a row")
    return Embeddings(keys, [""] * len(keys), vectors_ND, instances=names)


def require_pairs(query_instances: Sequence[str], gallery_instances: Sequence[str]) -> None:
    """Raise ``EvaluationError`` that says how pairs come about unless there is one.

    Both are names of objects, [Q] and [G], "" where none is known.
    """
    if not (set(query_instances) & set(gallery_instances)) - {""}:
        raise _no_pairs(query_instances)


def _no_pairs(query_instances: Sequence[str]) -> EvaluationError:
    known = sum(map(bool, query_instances))
    return EvaluationError(
        f"instance level: no query shows an object of the gallery ({known} of "
        f"{len(query_instances)} queries say which object they show). sh3f and pix3d have pairs, "
        "and so have your own folders where a picture and a shape of one class have one name, as "
        "images/chair/oslo.jpg and meshes/chair/oslo.obj; what an older version packed gets them "
        "from the same pack command, given again. The gallery must hold those shapes "
        "(data.gallery.split=all). Parquet files have them in the column 'instance'"
    )


def _sizes(transport: Transport, names: np.ndarray, *, own: np.ndarray | None) -> np.ndarray:
    """How many items of its instance the gallery has for each query, int64 [Q]; 0 for no name."""
    held: dict[str, int] = {}
    for shard in transport.broadcast("describe", "instance"):
        for name, count in zip(shard["labels"], shard["counts"], strict=True):
            held[name] = held.get(name, 0) + int(count)
    sizes = np.array([held.get(str(name), 0) for name in names], dtype=np.int64)
    return sizes if own is None else np.maximum(sizes - 1, 0)


def _joined(parts: Sequence[BestRanks], order: np.ndarray) -> BestRanks:
    """The queries of all parts, in ``order`` int64 [Q]."""
    names = [field.name for field in fields(BestRanks)]
    return BestRanks(*(np.concatenate([getattr(p, n) for p in parts])[order] for n in names))


def _headline(found: BestRanks, ties: str) -> dict[str, float]:
    values = {name: mean(column) for name, column in found.values(ties).items()}
    return {**values, "median_rank": float(np.median(found.ranks(ties)))}


def _tie_report(found: BestRanks, options: Options) -> TieReport:
    tied = int(found.tied.sum())
    others = [rule for rule in TIE_RULES if rule != options.ties] if tied else []
    return TieReport(
        pairs=tied,
        share=tied / len(found.tied),
        headlines={rule: _headline(found, rule) for rule in others},
    )


def _warnings(found: BestRanks, options: Options, *, unnamed: int, missing: int) -> list[str]:
    share, messages = float(found.tied.mean()), []
    if share > WARNING_SHARE:
        order = "the gallery order" if options.ties == "index" else "averaged out"
        messages.append(
            f"instance level: for {share:.1%} of the queries another shape is as far as the right "
            f"one; the order among equal distances is {order}: read the bounds in tie_report"
        )
    for count, why in (
        (unnamed, "they do not say which object they show"),
        (missing, "the gallery does not hold their object"),
    ):
        if count:
            messages.append(f"instance level: {count} queries left out: {why}")
    return messages
