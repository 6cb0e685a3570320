"""The compiled loops against counting and ranking by hand; compiled or not, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from evalsuite.scoring import tile_counting as counting
from evalsuite.scoring.compiled import COMPILED


def before(item: tuple[float, int], threshold: tuple[float, int]) -> tuple[bool, bool, bool]:
    """Nearer, nearer or equally far, ordered before; NaN is behind everything."""
    (d, i), (t, j) = item, threshold
    if np.isnan(d):
        return False, False, False
    if np.isnan(t):
        return True, True, True
    return d < t, d <= t, (d, i) < (t, j)


def by_hand(tile, place, offsets, distance, index) -> np.ndarray:
    counts = np.zeros((3, len(distance)), dtype=int)
    for q in range(len(offsets) - 1):
        for k in range(offsets[q], offsets[q + 1]):
            for d, i in zip(tile[q], place, strict=True):
                counts[:, k] += before((d, i), (distance[k], index[k]))
    return counts


def counted(tile, place, offsets, distance, index, *, strips, rows, call=lambda f: f) -> np.ndarray:
    tables = call(counting.search_tables)(offsets, distance)
    counts = np.zeros((3, len(distance) + len(offsets) - 1), dtype=np.int32)
    for part in np.array_split(np.arange(len(place)), strips):
        for first in range(0, len(tile), rows):
            block = np.ascontiguousarray(tile[first : first + rows][:, part])
            call(counting.count_tile)(block, place[part], first, offsets, index, *tables, counts)
    total = np.zeros((3, len(distance)), dtype=np.int32)
    call(counting.cumulate)(offsets, counts, total)
    return total


def problem(kind: str, seed: int):
    """Thresholds of 5 queries, from none to 40, and a tile of 70 items; many of them tie."""
    random = np.random.default_rng(seed)
    sizes = [0, 1, 7, 40, 3]

    def draw(shape):
        values = {
            "spread": lambda: random.standard_normal(shape),
            "few": lambda: random.integers(0, 4, shape),
            "constant": lambda: np.full(shape, 0.5),
            "crowded": lambda: np.where(random.random(shape) < 0.05, 1e30, random.random(shape)),
            "huge": lambda: random.choice([-3e38, 0.0, 3e38, 1.0], shape),
            "tiny": lambda: random.integers(0, 3, shape) * 1e-45,
            "infinite": lambda: random.choice([np.inf, -np.inf, 1.0, 2.0], shape),
            "lost": lambda: random.choice([np.nan, np.inf, 1.0, 2.0, 3.0], shape),
            "all lost": lambda: np.full(shape, np.nan),
        }[kind]()
        with np.errstate(over="ignore"):
            return np.asarray(values, dtype=np.float32)

    offsets = np.concatenate(([0], np.cumsum(sizes)))
    place = random.permutation(200)[:70]
    pairs = []
    for n in sizes:
        own = list(zip(draw(n).tolist(), random.permutation(200)[:n].tolist(), strict=True))
        pairs += sorted(own, key=lambda pair: (np.isnan(pair[0]), pair))
    distance = np.array([d for d, _ in pairs], dtype=np.float32)
    index = np.array([i for _, i in pairs], dtype=np.int64)
    return draw((5, 70)), place, offsets, distance, index


KINDS = [
    "spread",
    "few",
    "constant",
    "crowded",
    "huge",
    "tiny",
    "infinite",
    "lost",
    "all lost",
]


@pytest.mark.parametrize("kind", KINDS)
def test_counts_equal_comparing_every_pair(kind):
    for seed in range(3):
        given = problem(kind, seed)
        wanted = by_hand(*given)
        for strips, rows in [(1, 5), (4, 2), (70, 1)]:
            np.testing.assert_array_equal(counted(*given, strips=strips, rows=rows), wanted)


@pytest.mark.skipif(not COMPILED, reason="numba is not installed: nothing is compiled")
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_compiler_the_counts_are_the_same(kind, monkeypatch):
    given = problem(kind, 7)
    for name in ("_search", "_count_tie"):
        monkeypatch.setattr(counting, name, getattr(counting, name).py_func)
    with np.errstate(all="ignore"):
        found = counted(*given, strips=2, rows=3, call=lambda f: f.py_func)
    np.testing.assert_array_equal(found, by_hand(*given))


def test_counts_that_contradict_each_other_are_noticed():
    """An item of the query itself is not nearer than itself."""
    from evalsuite.scoring.metrics import weight_tables
    from evalsuite.scoring.rank_counting import Counted
    from evalsuite.scoring.relevant_ranks import score_block
    from evalsuite.vectors.embeddings import EvaluationError

    distance = np.array([1.0, 2.0], dtype=np.float32)
    counts = np.array([[0, 0], [1, 1], [0, 0]], dtype=np.int32)
    with pytest.raises(EvaluationError, match="disagree"):
        score_block(
            Counted(np.array([0, 2]), distance, counts),
            weight_tables(9),
            gallery_size=9,
            largest_class=2,
            ap_cut=20,
            curve=np.arange(1, 10),
        )
