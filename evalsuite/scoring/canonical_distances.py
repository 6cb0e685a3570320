r"""One float32 distance per (query, item) pair, whatever the batch.

A BLAS product does not promise the same bits for the same pair in another batch: kernels for tile
edges, thread counts and fused operations change the order of additions. Here the order cannot
matter, because no addition rounds. Every vector is split into two limbs on a grid of its own,

    x  =  high + low + rest,   high = k 2^(e-b),   low = l 2^(e-2b),   |k| <= 2^b, |l| <= 2^(b-1),

with max|x| < 2^e and D 4^b <= 2^53. All partial sums of the three products high.high',
high.low' + low.high' and low.low' are then integers below 2^53 times one power of two, which
float64 holds exactly (the error-free splitting of Ozaki, Ogita, Oishi and Rump, Numerical
Algorithms 59, 2012). The products are exact in any order, so the distance made from them
elementwise depends on nothing but the two vectors: not on batch, tile position, thread count, or
BLAS library. The rest is below 2^-(2b+1) of the largest component (2^-45 for D = 256), far below
float32 rounding. Two equal vectors have distance exactly 0, and duplicates tie exactly.

Shape letters: N rows, Q queries, G gallery items, D components.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evalsuite.scoring.options import require_choice

_FINITE, _INFINITE, _NAN = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Limbs:
    """N vectors split for exact products.

    ``pair`` float64 [N, 2D] holds high and low side by side, ``squared_norm`` float64 [N],
    ``state`` int8 [N] is 0 for finite rows, 1 for rows with an infinity, 2 for rows with NaN
    (their limbs are 0).
    """

    pair: np.ndarray
    squared_norm: np.ndarray
    state: np.ndarray

    def __len__(self) -> int:
        return len(self.pair)

    def __getitem__(self, rows: slice | np.ndarray) -> Limbs:
        return Limbs(self.pair[rows], self.squared_norm[rows], self.state[rows])

    @property
    def high(self) -> np.ndarray:
        """float64 [N, D], the leading limb."""
        return self.pair[:, : self.pair.shape[1] // 2]

    @property
    def low(self) -> np.ndarray:
        """float64 [N, D], the trailing limb."""
        return self.pair[:, self.pair.shape[1] // 2 :]

    @cached_property
    def swapped(self) -> np.ndarray:
        """float64 [N, 2D], low and high side by side: ``pair @ swapped.T`` is both cross terms."""
        return np.concatenate((self.low, self.high), axis=1)


def limb_bits(width: int) -> int:
    """The largest b with D 4^b <= 2^53 for D = ``width``: 26 for D = 1, 22 for 256, 21 for 2048."""
    return (53 - (width - 1).bit_length()) // 2


def split_limbs(vectors_ND: np.ndarray) -> Limbs:
    """Split float32 [N, D] into limbs; each row depends on that row only."""
    state = row_states(vectors_ND)
    x_ND = vectors_ND.astype(np.float64)
    x_ND[state != _FINITE] = 0.0
    width = x_ND.shape[1]
    _, exponent = np.frexp(np.abs(x_ND).max(axis=1, initial=0.0))
    bits = limb_bits(width)
    pair = np.empty((len(x_ND), 2 * width))
    rest_ND = x_ND
    for limb in range(2):
        grid = (limb + 1) * bits - exponent
        part = pair[:, limb * width : (limb + 1) * width]
        np.multiply(rest_ND, np.ldexp(1.0, grid)[:, None], out=part)
        np.rint(part, out=part)
        part *= np.ldexp(1.0, -grid)[:, None]
        rest_ND = rest_ND - part
    return Limbs(pair, _squared_norm(pair[:, :width], pair[:, width:]), state)


def row_states(vectors_ND: np.ndarray) -> np.ndarray:
    """int8 [N]: 0 for rows of numbers, 1 for rows with an infinity, 2 for rows with NaN."""
    finite_ND = np.isfinite(vectors_ND)
    state = np.where(finite_ND.all(axis=1), _FINITE, _INFINITE).astype(np.int8)
    state[np.isnan(vectors_ND).any(axis=1)] = _NAN
    return state


def _squared_norm(high_ND: np.ndarray, low_ND: np.ndarray) -> np.ndarray:
    # The same three exact sums, added in the same order as in _products: |x|^2 is x.x to the bit.
    squared = np.einsum("nd,nd->n", high_ND, high_ND)
    squared += 2.0 * np.einsum("nd,nd->n", high_ND, low_ND)
    squared += np.einsum("nd,nd->n", low_ND, low_ND)
    return squared


def _products(queries: Limbs, items: Limbs) -> np.ndarray:
    """Inner products float64 [Q, G]: three exact matrix products and two rounded additions."""
    product_QG = queries.high @ items.high.T
    product_QG += queries.pair @ items.swapped.T
    product_QG += queries.low @ items.low.T
    return product_QG


def distances(queries: Limbs, items: Limbs, *, metric: str = "euclidean") -> np.ndarray:
    """The compared numbers, float32 [Q, G]; smaller is nearer.

    ``euclidean``: |q - g|, computed in float64 and rounded once. ``cosine``: minus the
    cosine similarity (1 - s would add ties near s = 0 for no gain); a zero vector has similarity
    0 to everything, i.e. cosine distance 1. A pair with a NaN row is NaN; a Euclidean pair of one
    finite and one infinite row is +inf, all other pairs with an infinite row are NaN. There is no
    negative zero in the result.
    """
    require_choice("metric", metric)
    out_QG = _products(queries, items)
    if metric == "euclidean":
        out_QG *= -2.0
        out_QG += queries.squared_norm[:, None]
        out_QG += items.squared_norm
        np.maximum(out_QG, 0.0, out=out_QG)
        np.sqrt(out_QG, out=out_QG)
    else:
        out_QG *= -_inverse_norm(queries)[:, None]
        out_QG *= _inverse_norm(items)
    with np.errstate(over="ignore"):
        result_QG = out_QG.astype(np.float32)
    result_QG += np.float32(0.0)  # -0.0 + 0.0 is 0.0
    mark_non_finite(result_QG, queries.state, items.state, metric)
    return result_QG


def _inverse_norm(limbs: Limbs) -> np.ndarray:
    norm = np.sqrt(limbs.squared_norm)
    return np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)


def mark_non_finite(
    result_QG: np.ndarray, query_state: np.ndarray, item_state: np.ndarray, metric: str
) -> None:
    """Overwrite the entries of rows and columns whose state is not 0: see ``distances``."""
    if not (query_state.any() or item_state.any()):
        return
    total_QG = query_state[:, None] + item_state[None, :]
    # 1 is one infinite row; 2 and more is two infinite rows or at least one NaN row.
    result_QG[total_QG == _INFINITE] = np.inf if metric == "euclidean" else np.nan
    result_QG[total_QG > _INFINITE] = np.nan


def prepare_features(vectors_ND: np.ndarray, features: str) -> np.ndarray:
    """Post-process features before they are compared: float32 [N, D] to float32 [N, D].

    ``raw`` leaves them as they are; ``l2`` divides by the Euclidean norm; ``clamp-l2`` sets
    negative components to 0 first, as the MI3DOR benchmark's script does. Zero rows stay zero.
    """
    require_choice("features", features)
    if features == "raw":
        return vectors_ND
    if features == "clamp-l2":
        vectors_ND = np.maximum(vectors_ND, np.float32(0.0))
    limbs = split_limbs(vectors_ND)
    with np.errstate(invalid="ignore"):
        unit_ND = (vectors_ND * _inverse_norm(limbs)[:, None]).astype(np.float32)
    unit_ND[limbs.state != _FINITE] = np.nan
    return unit_ND
