"""One number per pair: exact products, the same bits in every batch, the true distance."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evalsuite import EvaluationError
from evalsuite.scoring.canonical_distances import (
    distances,
    limb_bits,
    prepare_features,
    split_limbs,
)

WIDTHS = (1, 2, 3, 17, 128, 256, 2048)


def vectors(rows: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Rows of very different sizes, components spread over many powers of two."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, width)) * 2.0 ** rng.integers(-12, 3, (rows, width))
    return (x * 10.0 ** rng.integers(-4, 5, (rows, 1))).astype(np.float32)


@pytest.mark.parametrize("width", WIDTHS)
def test_limb_products_are_exact(width):
    """Each of the three matrix products equals the integer arithmetic of the limbs."""
    q, g = split_limbs(vectors(3, width)), split_limbs(vectors(4, width, seed=1))
    for left, right in ((q.high, g.high), (q.pair, g.swapped), (q.low, g.low)):
        product = left @ right.T
        for i, j in itertools.product(range(3), range(4)):
            exact = _exact_sum(left[i], right[j])
            numerator, denominator = product[i, j].item().as_integer_ratio()
            assert numerator * exact[1] == exact[0] * denominator


def _exact_sum(left: np.ndarray, right: np.ndarray) -> tuple[int, int]:
    total = 0
    scale = 2**600
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        (an, ad), (bn, bd) = a.as_integer_ratio(), b.as_integer_ratio()
        assert scale % (ad * bd) == 0
        total += an * bn * (scale // (ad * bd))
    return total, scale


@pytest.mark.parametrize("width", [1, 3, 256, 2048])
def test_worst_case_rows_stay_exact(width):
    """All components at the largest value of the grid: sums come closest to 2^53."""
    largest = np.nextafter(np.float32(1.0), np.float32(0.0))
    limbs = split_limbs(np.full((2, width), largest, dtype=np.float32))
    for left, right in ((limbs.high, limbs.high), (limbs.pair, limbs.swapped)):
        numerator, denominator = (left @ right.T)[0, 1].item().as_integer_ratio()
        exact = _exact_sum(left[0], right[1])
        assert numerator * exact[1] == exact[0] * denominator
    assert width * 4 ** limb_bits(width) <= 2**53 < width * 4 ** (limb_bits(width) + 1)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("width", WIDTHS)
def test_bits_do_not_depend_on_batch_size_or_position(width, metric):
    q, g = vectors(37, width), vectors(101, width, seed=1)
    whole = distances(split_limbs(q), split_limbs(g), metric=metric)
    rng = np.random.default_rng(2)
    for rows, items in [(1, 1), (2, 3), (8, 8), (5, 64), (37, 16), (31, 97)]:
        picked, found = rng.permutation(37)[:rows], rng.permutation(101)[:items]
        part = distances(split_limbs(q[picked]), split_limbs(g[found]), metric=metric)
        assert part.tobytes() == whole[np.ix_(picked, found)].tobytes()
    single = [[distances(split_limbs(q[i : i + 1]), split_limbs(g[j : j + 1]), metric=metric)[0, 0]
               for j in range(0, 101, 9)] for i in range(5)]  # fmt: skip
    assert np.array(single).tobytes() == whole[:5, ::9].tobytes()


@pytest.mark.parametrize("width", WIDTHS)
def test_distance_is_the_float64_distance_rounded(width):
    q, g = vectors(20, width), vectors(30, width, seed=1)
    found = distances(split_limbs(q), split_limbs(g))
    exact = np.sqrt(((q[:, None].astype(float) - g[None].astype(float)) ** 2).sum(-1))
    np.testing.assert_allclose(found, exact, rtol=2**-23)
    cosine = distances(split_limbs(q), split_limbs(g), metric="cosine")
    norms = np.linalg.norm(q.astype(float), axis=1)[:, None] * np.linalg.norm(
        g.astype(float), axis=1
    )
    np.testing.assert_allclose(cosine, -(q.astype(float) @ g.T.astype(float)) / norms, atol=1e-7)


def test_close_vectors_keep_their_order():
    """A collapsed network: vectors that agree to six digits still get accurate distances."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal(256)
    x = (centre + 1e-6 * rng.standard_normal((40, 256))).astype(np.float32)
    found = distances(split_limbs(x[:10]), split_limbs(x[10:]))
    exact = np.sqrt(((x[:10, None].astype(float) - x[None, 10:].astype(float)) ** 2).sum(-1))
    np.testing.assert_allclose(found, exact, rtol=1e-3)


@pytest.mark.parametrize("width", WIDTHS)
def test_equal_vectors_have_distance_zero_and_duplicates_tie(width):
    x = vectors(25, width)
    doubled = np.concatenate([x, x])
    found = distances(split_limbs(x), split_limbs(doubled))
    assert (np.diagonal(found) == 0).all()
    assert found[:, :25].tobytes() == found[:, 25:].tobytes()
    assert not np.signbit(found).any()


def test_zero_vectors_have_similarity_zero():
    x = np.array([[0.0, 0.0], [1.0, 0.0], [-0.0, 0.0]], dtype=np.float32)
    found = distances(split_limbs(x), split_limbs(x), metric="cosine")
    assert found.tolist() == [[0, 0, 0], [0, -1, 0], [0, 0, 0]]
    assert not np.signbit(found[0]).any()


def test_non_finite_rows():
    x = np.array([[1, 2], [np.inf, 0], [np.nan, 0], [np.nan, np.inf]], dtype=np.float32)
    euclidean = distances(split_limbs(x), split_limbs(x))
    nan = np.nan
    wanted = [[0, np.inf, nan, nan], [np.inf, nan, nan, nan], [nan] * 4, [nan] * 4]
    np.testing.assert_array_equal(euclidean, wanted)
    cosine = distances(split_limbs(x), split_limbs(x), metric="cosine")
    assert np.isnan(cosine).sum() == 15
    assert np.isposinf(distances(*[split_limbs(np.float32([[s * 3e38]])) for s in (1, -1)]))[0, 0]


def test_tiny_and_huge_vectors_neither_vanish_nor_overflow():
    x = np.array([[1e-45, 0], [0, 1e-45], [3e38, 0], [1e38, 0]], dtype=np.float32)
    found = distances(split_limbs(x), split_limbs(x))
    assert found[0, 1] > 0
    assert found[2, 3] == pytest.approx(2e38, rel=1e-6)
    assert distances(split_limbs(x), split_limbs(x), metric="cosine")[0, 0] == -1


def test_features():
    x = np.array([[3, 4], [-3, 4], [-1, -2], [0, 0]], dtype=np.float32)
    np.testing.assert_array_equal(prepare_features(x, "raw"), x)
    unit = np.float32([[0.6, 0.8], [-0.6, 0.8], [-(0.2**0.5), -2 * 0.2**0.5], [0, 0]])
    np.testing.assert_allclose(prepare_features(x, "l2"), unit, rtol=1e-6)
    np.testing.assert_allclose(
        prepare_features(x, "clamp-l2"), np.float32([[0.6, 0.8], [0, 1], [0, 0], [0, 0]]), rtol=1e-6
    )
    big = vectors(50, 33)
    whole = prepare_features(big, "l2")
    assert whole[7:8].tobytes() == prepare_features(big[7:8], "l2").tobytes()
    assert np.isnan(prepare_features(np.float32([[np.inf, 1]]), "l2")).all()


def test_unknown_options():
    with pytest.raises(EvaluationError, match="features='clamp'"):
        prepare_features(np.zeros((1, 1), dtype=np.float32), "clamp")
    one = split_limbs(np.zeros((1, 1), dtype=np.float32))
    with pytest.raises(EvaluationError, match="metric='dot'"):
        distances(one, one, metric="dot")


def test_same_bits_with_another_matrix_kernel_and_thread_count():
    """OpenBLAS chooses kernels by processor; older kernels add up in another order."""
    program = (
        "import hashlib, numpy as np\n"
        "from evalsuite.scoring.canonical_distances import distances, split_limbs\n"
        "x = np.random.Generator(np.random.Philox(0)).random((300, 257)).astype(np.float32)\n"
        "d = distances(split_limbs(x[:90]), split_limbs(x[90:]))\n"
        "print(hashlib.sha256(d.tobytes()).hexdigest())\n"
    )
    found = set()
    for settings in ({}, {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **settings},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout)
    assert len(found) == 1
