"""Score queries against a sharded gallery: the loop over blocks of queries.

Each block of queries asks the shards twice (rank_counting.py), turns counts into ranks and sums
(relevant_ranks.py) and adds them to the totals (tally.py). A pair of vectors has one distance
wherever it is computed (arithmetic.py), counts add, and sums that round are added in one order of
the queries. So the result has the same bits for any number of shards and any ``query_block``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from evalsuite.scoring.assemble import assemble, population
from evalsuite.scoring.gallery import InProcess, LevelName, Transport
from evalsuite.scoring.gallery_split import split_gallery
from evalsuite.scoring.metrics import LEVELS, weight_tables
from evalsuite.scoring.options import Options
from evalsuite.scoring.rank_counting import Counted, count_before
from evalsuite.scoring.result import Evaluation
from evalsuite.scoring.tally import Tally, curve_ranks
from evalsuite.scoring.tie_rules import TIE_RULES
from evalsuite.vectors import (
    EmbeddingParts,
    Embeddings,
    EvaluationError,
    require_finite,
    require_same_width,
)

logger = logging.getLogger(__name__)

# The most relevant pairs of a block (about 0.2 GB), for any query_block.
PAIRS_IN_A_BLOCK = 2_000_000
# Blocks are cut at multiples of this, which are whole tiles of any arithmetic.
QUERIES_OF_TILES = 192

Progress = Callable[[int, int], None]


def evaluate(
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
) -> Evaluation:
    """Exact retrieval metrics of ``queries`` against ``gallery``.

    The result has the same bits for every ``shards``, ``query_block`` and transport.

    Args:
        gallery: None if the gallery lives behind ``transport``.
        options: how to score.
        shards: parts into which the gallery is cut in this process.
        query_block: queries that are scored at a time.
        transport: carries questions to shards that exist already.
        progress: called with (queries done, queries to do) after each block.
        own: int64 [Q], the gallery's row of every query itself, which then is not in that query's
            ranking (see ``own_items``); the gallery counts as one item smaller.
        choices: fields of ``Options`` by name, in place of those in ``options``.

    Raises ``EvaluationError``: an option that is not a choice; different widths; NaN or Inf under
    ``nan_policy="raise"``; a missing class under ``on_missing="error"``; no query left; shards
    that were built with other options or do not hold the gallery.
    """
    options = replace(options or Options(), **choices)
    transport, held = held_by(transport, queries, gallery, options=options, shards=shards)
    return score(
        transport,
        held,
        queries.vectors,
        keys=queries.keys,
        labels=queries.labels,
        options=options,
        query_block=query_block,
        progress=progress,
        own=own,
        notes=_collapsed(queries, gallery),
    )


def held_by(
    transport: Transport | None,
    queries: Embeddings,
    gallery: Embeddings | None,
    *,
    options: Options,
    shards: int,
) -> tuple[Transport, list[dict[str, Any]]]:
    """The transport to the shards, made of ``gallery`` if it is None, and what the shards describe.

    Raises ``EvaluationError`` for what cannot be compared, see :func:`evaluate`.
    """
    _check_embeddings(queries, gallery, options)
    if transport is None:
        if gallery is None:
            raise EvaluationError("gallery=None needs a transport whose shards hold the gallery")
        transport = InProcess(split_gallery(gallery, shards, **options.shard_options))
    held = transport.broadcast("describe")
    _check_shards(held, queries, gallery, options)
    return transport, held


def own_items(queries: Embeddings, gallery: Embeddings | EmbeddingParts) -> np.ndarray:
    """The gallery's row of the item that has a query's key, int64 [Q]; -1 where there is none."""
    row_of = {key: row for row, key in enumerate(gallery.keys)}
    return np.array([row_of.get(key, -1) for key in queries.keys], dtype=np.int64)


def require_own_items(
    queries: Embeddings,
    gallery: Embeddings | EmbeddingParts,
    own: np.ndarray,
    *,
    level: LevelName = "class",
) -> None:
    """Raise ``EvaluationError`` unless every query is in the gallery, in the same class.

    ``own`` int64 [Q] is what ``own_items`` found. At the level ``instance`` the objects have to be
    the same, too.
    """
    absent = np.flatnonzero(own < 0)
    if len(absent):
        raise EvaluationError(
            f"{len(absent)} of {len(own)} queries are not in the gallery under their key "
            f"({queries.keys[absent[0]]!r}); dropping each query itself needs all of them there"
        )
    sides = [("class", queries.labels, gallery.labels)]
    if level == "instance":
        sides.append(("instance", queries.instances, gallery.instances))
    for what, asked, held in sides:
        for query, row in enumerate(own.tolist()):
            if held[row] != asked[query]:
                raise EvaluationError(
                    f"{queries.keys[query]!r} is of {what} {asked[query]!r} among the queries and "
                    f"of {held[row]!r} in the gallery; give it one"
                )


def _collapsed(queries: Embeddings, gallery: Embeddings | None) -> list[str]:
    """Warnings about sides that have one vector for all items."""
    found = []
    for name, side in (("queries", queries), ("gallery items", gallery)):
        if side is not None and len(side) > 1 and (side.vectors == side.vectors[0]).all():
            which = " (zero)" if not side.vectors[0].any() else ""
            found.append(
                f"all {len(side)} {name} have one and the same vector{which}: the network has "
                "collapsed or was not loaded"
            )
    return found


def evaluate_arrays(
    query_vectors_QD: np.ndarray,
    query_labels: Sequence[str],
    gallery_vectors_GD: np.ndarray,
    gallery_labels: Sequence[str],
    **choices: Any,
) -> Evaluation:
    """:func:`evaluate` for plain arrays [Q, D] and [G, D] with one class name a row.

    ``choices`` are fields of ``Options`` and the other arguments of :func:`evaluate`. Keys of the
    per-query table are row numbers. Labels may be of any type and are compared as text.

    >>> import numpy as np
    >>> queries, gallery = np.array([[0.0, 1.0]]), np.array([[0.0, 2.0], [3.0, 0.0]])
    >>> result = evaluate_arrays(queries, ["chair"], gallery, ["chair", "sofa"], metric="cosine")
    >>> result.headline["NN"], result.headline["mAP"]
    (1.0, 1.0)

    Raises ``EvaluationError`` as :func:`evaluate`, and if labels and rows differ in number.
    """
    return evaluate(
        _embeddings(query_vectors_QD, query_labels),
        _embeddings(gallery_vectors_GD, gallery_labels),
        **choices,
    )


def _embeddings(vectors_ND: np.ndarray, labels: Sequence[str]) -> Embeddings:
    keys = [str(row) for row in range(len(vectors_ND))]
    return Embeddings(keys, [str(label) for label in labels], np.asarray(vectors_ND))


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
    own: np.ndarray | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Score query rows [Q, ...] that the shards understand; ``held`` is what they described.

    ``own`` is as in :func:`evaluate`, ``notes`` are warnings of the caller.
    """
    from evalsuite.scoring.relevant_ranks import score_block  # loads numba

    people = population(held, keys, labels, options.on_missing, without_self=own is not None)
    tables = weight_tables(people.gallery_size)
    curve = curve_ranks(people.gallery_size)
    tallies = {
        rule: Tally(
            rule,
            sizes=people.sizes,
            class_ids=people.class_ids,
            tables=tables,
            gallery_size=people.gallery_size,
            largest_class=people.largest_class,
            ap_cut=options.ap_cut,
        )
        for rule in TIE_RULES
    }
    levels = np.empty((len(people.rows), LEVELS))
    curve_hits = np.empty((len(people.rows), len(curve)), dtype=np.int32)
    tied = done = 0
    # Class by class, because the queries of a tile share their relevant items.
    order = np.argsort(people.class_ids, kind="stable")
    blocks = [order[block] for block in blocks_of(people.sizes[order], query_block)]
    asked = asked_in_order(
        transport,
        queries,
        np.asarray(labels, dtype=str),
        [people.rows[block] for block in blocks],
        own=own,
    )
    for block, counted in zip(blocks, asked, strict=True):
        if not np.array_equal(counted.sizes, people.sizes[block]):
            raise EvaluationError("shards return other relevant items than they described")
        found = score_block(
            counted,
            tables,
            gallery_size=people.gallery_size,
            largest_class=people.largest_class,
            ap_cut=options.ap_cut,
            curve=curve,
        )
        for tally in tallies.values():
            tally.add(block, found)
        tied += found.tied
        levels[block], curve_hits[block] = found.levels, found.curve_hits
        done += len(block)
        if progress is not None:
            progress(done, len(people.rows))
    result = assemble(
        options, people, tallies, levels=levels, curve_hits=curve_hits, tied=tied, notes=notes
    )
    for message in result.warnings:
        logger.warning("%s", message)
    return result


def asked_in_order(
    transport: Transport,
    queries: np.ndarray,
    names: np.ndarray,
    blocks: Sequence[np.ndarray],
    *,
    own: np.ndarray | None,
    level: LevelName = "class",
) -> Iterator[Counted]:
    """The counts of every block of queries (their rows, int64 [q]), in order.

    ``names`` [Q] are what ``level`` calls all queries.

    As many blocks are asked at a time as the transport takes, so that shards elsewhere do not wait
    for the work of this process.
    """

    def ask(rows: np.ndarray) -> Counted:
        dropped = None if own is None else own[rows]
        return count_before(transport, queries[rows], names[rows], own=dropped, level=level)

    ahead = getattr(transport, "in_flight", 1)
    if ahead == 1:
        yield from map(ask, blocks)
        return
    pool = ThreadPoolExecutor(ahead)
    waiting: deque[Future[Counted]] = deque()
    try:
        for block in blocks:
            if len(waiting) == ahead:
                yield waiting.popleft().result()
            waiting.append(pool.submit(ask, block))
        for answer in waiting:
            yield answer.result()
    finally:  # after Ctrl-C the transport ends the open questions
        pool.shutdown(wait=False, cancel_futures=True)


def blocks_of(sizes: np.ndarray, query_block: int) -> Iterator[slice]:
    """Consecutive slices of at most ``query_block`` queries and PAIRS_IN_A_BLOCK relevant pairs.

    ``sizes`` int64 [Q] are the relevant items of each query. A slice ends at a whole tile of
    queries where it holds one. Raises ``EvaluationError`` for a ``query_block`` below 1.
    """
    if query_block < 1:
        raise EvaluationError(f"query_block={query_block}: give 1 or more")
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        fits = int(np.searchsorted(ends, done + PAIRS_IN_A_BLOCK, side="right"))
        stop = min(max(fits, start + 1), start + query_block, len(sizes))
        if stop - start > QUERIES_OF_TILES and stop < len(sizes):
            stop -= (stop - start) % QUERIES_OF_TILES
        yield slice(start, stop)
        start = stop


def _check_embeddings(queries: Embeddings, gallery: Embeddings | None, options: Options) -> None:
    for name, embeddings in (("queries", queries), ("gallery", gallery)):
        if not isinstance(embeddings, Embeddings | None):
            raise EvaluationError(
                f"{name}: expected Embeddings, got {type(embeddings).__name__}; for arrays use "
                "evaluate_arrays(query_vectors, query_labels, gallery_vectors, gallery_labels)"
            )
        if embeddings is not None and options.nan_policy == "raise":
            try:
                require_finite(embeddings)
            except EvaluationError as error:
                raise EvaluationError(f"{name}: {error}") from None
    if gallery is not None:
        require_same_width(queries, gallery.width)


def _check_shards(
    held: Sequence[dict[str, Any]],
    queries: Embeddings,
    gallery: Embeddings | None,
    options: Options,
) -> None:
    for position, shard in enumerate(held):
        require_same_width(queries, shard["width"])
        for name, wanted in options.shard_options.items():
            if shard[name] != wanted:
                raise EvaluationError(
                    f"gallery shard {position} was built with {name}={shard[name]!r}, asked for "
                    f"{wanted!r}; build the shards with the same options"
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
