"""Score queries against a sharded gallery: the loop over blocks of queries.

Each block of queries asks the shards twice (ranks.py), turns ranks into per-query values
(metrics.py) and adds to the pooled counts (pooled.py). Distances are exact-order-free
(distances.py), counts add, and means are taken at the end in query order, so the result has the
same bits for any number of shards and any ``query_block``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evalsuite.assemble import assemble
from evalsuite.embeddings import Embeddings, EvaluationError, require_finite
from evalsuite.evaluation import Evaluation
from evalsuite.gallery import InProcess, Transport, split_gallery
from evalsuite.metrics import interpolated_precision, weight_tables
from evalsuite.options import Options
from evalsuite.ranks import RelevantItems, relevant_items
from evalsuite.tally import Tally

__all__ = ["Population", "evaluate", "score"]

logger = logging.getLogger(__name__)

TIE_RULES = ("index", "expected", "optimistic", "pessimistic")
# A block also ends before this many relevant pairs, whatever query_block says (about 0.5 GB).
PAIRS_IN_A_BLOCK = 2_000_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Population:
    """Who is scored against what.

    ``keys``, ``labels`` of all queries; ``rows`` int64 [Q], the evaluated ones in query order;
    ``sizes`` int64 [Q], their numbers of relevant items; ``classes`` their sorted class names and
    ``class_ids`` int64 [Q]; ``largest_class`` over the whole gallery.
    """

    keys: Sequence[str]
    labels: Sequence[str]
    rows: np.ndarray
    sizes: np.ndarray
    classes: tuple[str, ...]
    class_ids: np.ndarray
    missing_labels: tuple[str, ...]
    gallery_size: int
    largest_class: int


def evaluate(
    queries: Embeddings,
    gallery: Embeddings | None,
    *,
    shards: int = 1,
    protocol: str = "mi3dor",
    features: str = "raw",
    metric: str = "euclidean",
    dcg: str = "protocol",
    anmrr: str = "tier",
    f_average: str = "pooled",
    average: str = "query",
    ties: str = "index",
    nan_policy: str = "raise",
    on_missing: str = "exclude",
    query_block: int = 1024,
    transport: Transport | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Exact retrieval metrics of ``queries`` against ``gallery``; see ``Options`` for the choices.

    The gallery is cut into ``shards`` in this process, or lives behind ``transport`` already (then
    ``gallery`` may be None). The result has the same bits for every ``shards``, ``query_block`` and
    transport. ``progress`` is called with (queries done, queries to do) after each block.

    Raises ``EvaluationError``: an option that is not a choice; different widths; NaN or Inf under
    ``nan_policy="raise"``; a missing class under ``on_missing="error"``; no query left; shards
    that were built with other options or do not hold the gallery.
    """
    options = Options(
        protocol=protocol,
        features=features,
        metric=metric,
        dcg=dcg,
        anmrr=anmrr,
        f_average=f_average,
        average=average,
        ties=ties,
        nan_policy=nan_policy,
        on_missing=on_missing,
    )
    _check_embeddings(queries, gallery, options)
    if transport is None:
        if gallery is None:
            raise EvaluationError("gallery=None needs a transport whose shards hold the gallery")
        transport = InProcess(split_gallery(gallery, shards, features=features, metric=metric))
    held = transport.broadcast("describe")
    _check_shards(held, queries, gallery, options)
    return score(
        transport,
        held,
        queries.vectors,
        keys=queries.keys,
        labels=queries.labels,
        options=options,
        query_block=query_block,
        progress=progress,
    )


def score(
    transport: Transport,
    held: Sequence[dict[str, Any]],
    queries: np.ndarray,
    *,
    keys: Sequence[str],
    labels: Sequence[str],
    options: Options,
    query_block: int = 1024,
    progress: Progress | None = None,
) -> Evaluation:
    """Score query rows [Q, ...] that the shards understand; ``held`` is what they described."""
    if query_block < 1:
        raise EvaluationError(f"query_block={query_block}: give 1 or more")
    people = _population(held, keys, labels, options.on_missing)
    tables = weight_tables(people.gallery_size)
    tallies = {rule: _new_tally(rule, people) for rule in TIE_RULES}
    levels = np.empty((len(people.rows), 20))
    tied = 0
    text = np.asarray(labels, dtype=str)
    for block in _blocks(people.sizes, query_block):
        rows = people.rows[block]
        found = relevant_items(
            transport, queries[rows], text[rows], gallery_size=people.gallery_size
        )
        if not np.array_equal(found.sizes, people.sizes[block]):
            raise EvaluationError("shards return other relevant items than they described")
        tied += found.tied
        _add_block(tallies, block, found, tables)
        levels[block] = interpolated_precision(found.groups("index"))
        if progress is not None:
            progress(block.stop, len(people.rows))
    result = assemble(options, people, tallies, levels=levels, tied=tied)
    for message in result.warnings:
        logger.warning("%s", message)
    return result


def _new_tally(rule: str, people: Population) -> Tally:
    return Tally(
        rule,
        sizes=people.sizes,
        class_ids=people.class_ids,
        gallery_size=people.gallery_size,
        largest_class=people.largest_class,
    )


def _add_block(tallies: dict[str, Tally], block: slice, found: RelevantItems, tables: Any) -> None:
    # Without ties all rules agree to the bit: compute once.
    rules = TIE_RULES if found.tied else ("index",)
    for rule in rules:
        tallies[rule].add(block, found.groups(rule), tables)
    for rule in set(TIE_RULES) - set(rules):
        tallies[rule].copy(block, tallies["index"], found.groups("index"))


def _blocks(sizes: np.ndarray, query_block: int) -> Iterator[slice]:
    """Consecutive slices of at most ``query_block`` queries and PAIRS_IN_A_BLOCK relevant pairs."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        fits = int(np.searchsorted(ends, done + PAIRS_IN_A_BLOCK, side="right"))
        stop = min(max(fits, start + 1), start + query_block, len(sizes))
        yield slice(start, stop)
        start = stop


def _population(
    held: Sequence[dict[str, Any]], keys: Sequence[str], labels: Sequence[str], on_missing: str
) -> Population:
    class_sizes: dict[str, int] = {}
    for shard in held:
        for label, count in zip(shard["labels"], shard["counts"], strict=True):
            class_sizes[label] = class_sizes.get(label, 0) + int(count)
    sizes = np.array([class_sizes.get(label, 0) for label in labels], dtype=np.int64)
    rows = np.flatnonzero(sizes)
    missing = tuple(sorted({label for label in labels if label not in class_sizes}))
    if missing and on_missing == "error":
        raise EvaluationError(
            f"classes without a gallery item: {', '.join(map(repr, missing[:5]))}; "
            "add items or pass on_missing='exclude'"
        )
    if not len(rows):
        raise EvaluationError(
            f"no query has an item of its class in the gallery (query classes {missing[:3]}, "
            f"gallery classes {tuple(sorted(class_sizes)[:3])}); check the label names"
        )
    classes, class_ids = np.unique(np.asarray(labels, dtype=str)[rows], return_inverse=True)
    return Population(
        keys=keys,
        labels=labels,
        rows=rows,
        sizes=sizes[rows],
        classes=tuple(str(name) for name in classes),
        class_ids=class_ids,
        missing_labels=missing,
        gallery_size=sum(class_sizes.values()),
        largest_class=max(class_sizes.values()),
    )


def _check_embeddings(queries: Embeddings, gallery: Embeddings | None, options: Options) -> None:
    for name, embeddings in (("queries", queries), ("gallery", gallery)):
        if embeddings is not None and options.nan_policy == "raise":
            try:
                require_finite(embeddings)
            except EvaluationError as error:
                raise EvaluationError(f"{name}: {error}") from None
    if gallery is not None:
        _check_width(queries, gallery.width)


def _check_width(queries: Embeddings, width: int) -> None:
    if queries.width != width:
        raise EvaluationError(
            f"queries have {queries.width} components, the gallery has {width}; "
            "extract both with one network"
        )


def _check_shards(
    held: Sequence[dict[str, Any]],
    queries: Embeddings,
    gallery: Embeddings | None,
    options: Options,
) -> None:
    for position, shard in enumerate(held):
        _check_width(queries, shard["width"])
        for name in ("features", "metric"):
            if shard[name] != getattr(options, name):
                raise EvaluationError(
                    f"gallery shard {position} was built with {name}={shard[name]!r}, asked for "
                    f"{getattr(options, name)!r}; build the shards with the same options"
                )
        if len(shard["non_finite"]) and options.nan_policy == "raise":
            raise EvaluationError(
                f"gallery items {shard['non_finite'][:5].tolist()} hold NaN or Inf; "
                "fix the network, or pass nan_policy='last' to rank them last"
            )
    indices = np.concatenate([np.empty(0, dtype=np.int64), *(s["indices"] for s in held)])
    if len(np.unique(indices)) != len(indices):
        raise EvaluationError("two gallery shards hold the same index; give each item one shard")
    if gallery is not None and len(indices) != len(gallery):
        raise EvaluationError(
            f"the shards hold {len(indices)} items, the gallery has {len(gallery)}; "
            "build the shards from this gallery"
        )
