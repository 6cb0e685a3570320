"""Two ways to compute the numbers that are compared, tile by tile.

``exact``: sums without rounding (canonical_distances.py). The same bits on every machine; four
products in float64.

``float32``: one product in float32. A matrix product rounds an entry in an order that depends on
the shapes of the factors and on the place of the entry, because kernels treat edges differently. So
all products have one shape, and only those of its rows and columns hold vectors that round alike in
a trial (``like_places``). Then a pair of vectors gets the same bits for any cut into shards, blocks
or threads. The bits depend on the matrix library and the processor, as in any float32 program.

Shape letters: Q queries, G gallery items, D components, K = D + 1 or D, N rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from evalsuite.scoring.canonical_distances import (
    Limbs,
    distances,
    mark_non_finite,
    row_states,
    split_limbs,
)
from evalsuite.scoring.options import require_choice
from evalsuite.scoring.threads import run_in_threads
from evalsuite.vectors import EvaluationError

# The shape of a float32 product, queries by items. 48 is a multiple of the unrolling of common
# kernels; more items would pad small classes further.
PRODUCT = (96, 512)
# Items of a tile. Many, because the search tables of a query leave the cache between two tiles.
ITEM_TILE = 4096
CACHED_ITEMS = 512
PREPARED_AT_ONCE = 16_384
TRIALS = 48

_own = threading.local()


class Arithmetic(Protocol):
    """Prepared queries and items, and tiles of compared numbers; smaller is nearer.

    A tile is of at most ``query_tile`` queries; ``item_tile`` items make a good one.
    """

    query_tile: int
    item_tile: int

    def queries(self, vectors_QD: np.ndarray) -> Any:
        """At most ``query_tile`` queries as ``tile`` takes them."""
        ...

    def keep(self, vectors_GD: np.ndarray) -> Any:
        """What a shard keeps of its items; about 4 bytes a component."""
        ...

    def items(self, kept: Any, rows: slice | np.ndarray) -> Any:
        """Some of the kept items as ``tile`` takes them; a slice begins at a multiple of
        ``item_tile``."""
        ...

    def places(self, items: Any) -> slice | np.ndarray:
        """The columns of a tile where the items stand; the others hold NaN."""
        ...

    def tile(self, queries: Any, items: Any) -> np.ndarray:
        """Compared numbers float32 [q, columns]; the thread's next tile may overwrite them."""
        ...


def arithmetic(name: str, metric: str, *, width: int) -> Arithmetic:
    """The arithmetic ``name`` for a metric and vectors of ``width`` components.

    Raises ``EvaluationError`` naming the option for a value that is not a choice, or if float32
    products round by place here.
    """
    require_choice("metric", metric)
    require_choice("arithmetic", name)
    return _Exact(metric) if name == "exact" else _Float32(metric, width)


class _Exact:
    """Correctly rounded distances, see canonical_distances.py."""

    query_tile = 64
    item_tile = ITEM_TILE

    def __init__(self, metric: str) -> None:
        self._metric = metric

    def queries(self, vectors_QD: np.ndarray) -> Limbs:
        return split_limbs(vectors_QD)

    def keep(self, vectors_GD: np.ndarray) -> np.ndarray:
        return vectors_GD

    def items(self, kept: np.ndarray, rows: slice | np.ndarray) -> list[Limbs]:
        # Split on each call, so that memory stays at one tile; in parts whose float64 products
        # stay in the cache.
        limbs = split_limbs(kept[rows])
        return [limbs[g : g + CACHED_ITEMS] for g in range(0, len(limbs), CACHED_ITEMS)]

    def places(self, items: list[Limbs]) -> slice:
        return slice(None)

    def tile(self, queries: Limbs, items: list[Limbs]) -> np.ndarray:
        out = np.empty((len(queries), sum(map(len, items))), dtype=np.float32)
        first = 0
        for part in items:
            out[:, first : first + len(part)] = distances(queries, part, metric=self._metric)
            first += len(part)
        return out


@dataclass(frozen=True, eq=False)
class _Laid:
    """Vectors float32 [rows, K] at the rows ``places`` int64 [N]; ``state`` int8 [N] as in
    ``Limbs``."""

    vectors: np.ndarray
    places: np.ndarray
    state: np.ndarray


Prepared = Callable[[slice], tuple[np.ndarray, np.ndarray]]
"""Vectors float32 [n, K] and states int8 [n] of some rows."""


class _Float32:
    """One float32 product. Euclidean: (-2 q, 1) . (g, |g|^2) = |q - g|^2 - |q|^2, which orders the
    items of a query as their distances do. Cosine: minus the product of unit vectors. Rows with NaN
    or Inf are kept out of the product and marked as ``exact`` marks them.
    """

    def __init__(self, metric: str, width: int) -> None:
        self._metric = metric
        self._width = width + (metric == "euclidean")
        self._rows, self._columns = like_places(self._width)
        self.query_tile = len(self._rows)
        self.item_tile = ITEM_TILE // PRODUCT[1] * len(self._columns)

    def queries(self, vectors_QD: np.ndarray) -> _Laid:
        def prepared(rows: slice) -> tuple[np.ndarray, np.ndarray]:
            if self._metric == "cosine":
                vectors, state = _unit(vectors_QD[rows])
                return -vectors, state
            ones = np.ones(len(vectors_QD[rows]))
            return _with_column(-2.0 * vectors_QD[rows], ones)

        return _laid(prepared, len(vectors_QD), self._width, self._rows, PRODUCT[0], fill=0.0)

    def keep(self, vectors_GD: np.ndarray) -> _Laid:
        def prepared(rows: slice) -> tuple[np.ndarray, np.ndarray]:
            if self._metric == "cosine":
                return _unit(vectors_GD[rows])
            return _with_column(vectors_GD[rows], None)

        return self._laid_items(prepared, len(vectors_GD))

    def items(self, kept: _Laid, rows: slice | np.ndarray) -> _Laid:
        if isinstance(rows, slice):
            product = PRODUCT[1]
            first = rows.start // len(self._columns) * product
            places, state = kept.places[rows], kept.state[rows]
            count = -(-len(places) // len(self._columns)) * product
            return _Laid(kept.vectors[first : first + count], places - first, state)
        own, state = kept.vectors[kept.places[rows]], kept.state[rows]
        return self._laid_items(lambda part: (own[part], state[part]), len(own))

    def places(self, items: _Laid) -> np.ndarray:
        return items.places

    def tile(self, queries: _Laid, items: _Laid) -> np.ndarray:
        product = _scratch(PRODUCT[0], len(items.vectors))
        for first in range(0, len(items.vectors), PRODUCT[1]):
            place = slice(first, first + PRODUCT[1])
            np.matmul(queries.vectors, items.vectors[place].T, out=product[:, place])
        if len(self._rows) == PRODUCT[0]:
            tile = product[: len(queries.places)]
        else:
            tile = product[queries.places]
        if queries.state.any() or items.state.any():
            known = tile[:, items.places]
            mark_non_finite(known, queries.state, items.state, self._metric)
            tile[:, items.places] = known
        return tile

    def _laid_items(self, prepared: Prepared, count: int) -> _Laid:
        return _laid(prepared, count, self._width, self._columns, PRODUCT[1], fill=np.nan)


def _laid(
    prepared: Prepared, count: int, width: int, usable: np.ndarray, size: int, *, fill: float
) -> _Laid:
    """``count`` vectors [N, K = width] at the usable rows of as many products as they need.

    A product has ``size`` rows. Vectors are prepared in blocks, so that a gallery is not in memory
    twice.
    """
    at = np.arange(count)
    places = at // len(usable) * size + usable[at % len(usable)]
    products = max(1, -(-count // len(usable)))
    vectors = np.full((products * size, width), fill, dtype=np.float32)
    state = np.zeros(count, dtype=np.int8)
    for first in range(0, count, PREPARED_AT_ONCE):
        rows = slice(first, first + PREPARED_AT_ONCE)
        vectors[places[rows]], state[rows] = prepared(rows)
    return _Laid(vectors, places, state)


def _scratch(rows: int, columns: int) -> np.ndarray:
    """Memory of this thread for a product. A new array would be mapped page by page each time."""
    room: np.ndarray | None = getattr(_own, "room", None)
    if room is None or len(room) < rows * columns:
        room = _own.room = np.empty(rows * columns, dtype=np.float32)
    return room[: rows * columns].reshape(rows, columns)


def _unit(vectors_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of unit length, and the states of their rows. Zero vectors stay zero, and rows that
    are not finite become zero."""
    state = row_states(vectors_ND)
    rows = np.where(state[:, None] == 0, vectors_ND, np.float32(0.0))
    norm = np.sqrt(_squared_length(rows))
    inverse = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    return (rows * inverse[:, None]).astype(np.float32), state


def _with_column(
    vectors_ND: np.ndarray, column_N: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors with one more component, ``column_N`` or their squared length, [N, D+1], and the
    states of their rows. Rows that are not finite become zero."""
    state = row_states(vectors_ND)
    width = vectors_ND.shape[1]
    rows = np.zeros((len(vectors_ND), width + 1), dtype=np.float32)
    rows[:, :width] = vectors_ND
    rows[state != 0] = 0.0
    squared = _squared_length(rows[:, :width])
    if (squared > np.finfo(np.float32).max / 8).any():
        raise EvaluationError(
            "vectors too long for arithmetic='float32': their squared length leaves its range; "
            "use arithmetic='exact'"
        )
    rows[:, width] = squared if column_N is None else column_N
    return rows, state


def _squared_length(vectors_ND: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", vectors_ND, vectors_ND, dtype=np.float64)


@lru_cache(maxsize=32)
def like_places(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a float32 product where every entry rounds alike, int64 each.

    A trial multiplies copies of one vector with copies of another. Entries that differ from the
    majority were rounded in another order. The result is kept for each number of components.

    Raises ``EvaluationError`` if less than half of the product is left.
    """
    random = np.random.default_rng(width)
    alike = np.ones(PRODUCT, dtype=bool)

    def try_out(_: int) -> None:
        query, item = (random.standard_normal(width).astype(np.float32) for _ in PRODUCT)
        queries = np.repeat(query[None], PRODUCT[0], axis=0)
        items = np.repeat(item[None], PRODUCT[1], axis=0)
        product = np.empty(PRODUCT, dtype=np.float32)
        np.matmul(queries, items.T, out=product)
        values, counts = np.unique(product, return_counts=True)
        np.logical_and(alike, product == values[counts.argmax()], out=alike)

    for trial in range(TRIALS):  # one after another, because all of them write to one array
        run_in_threads(try_out, [trial])
    rows = np.flatnonzero(alike.mean(axis=1) > 0.5)
    columns = np.flatnonzero(alike[rows].all(axis=0))
    if 2 * len(rows) < PRODUCT[0] or 2 * len(columns) < PRODUCT[1]:
        raise EvaluationError(
            "this machine's matrix library rounds a float32 product by where an entry stands, so "
            "the result would depend on how the gallery is cut; use arithmetic='exact'"
        )
    return rows, columns
