"""A gallery shard whose vectors live on a torch device.

Questions and answers are those of gallery.py: thresholds come in, counts go out, and nothing of
size queries x gallery leaves the device or stays on it. The distances are those of
canonical_distances.py: their sums do not round, and all other operations are single IEEE operations
in float64. So a GPU finds the same bits as a CPU, and shards of both kinds may serve one
evaluation. GPUs without fast float64 are slow at it.

Shape letters: Q queries of a block, G items of this shard, D components, M thresholds, T longest
list of thresholds of a query, K ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalsuite.scoring.canonical_distances import limb_bits
from evalsuite.scoring.gallery import GalleryShard
from evalsuite.scoring.tie_rules import BEFORE, NEARER, NEARER_OR_EQUAL
from evalsuite.vectors import EvaluationError

QUERIES_AT_ONCE = 256
ITEMS_AT_ONCE = 8192


class _Rows:
    """Limbs of vectors float32 [N, D] on their device, in the steps of ``split_limbs``."""

    def __init__(self, vectors_ND: Tensor) -> None:
        infinite, lost = vectors_ND.isinf().any(dim=1), vectors_ND.isnan().any(dim=1)
        self.state = torch.where(lost, 2, infinite.to(torch.int8))
        rest = vectors_ND.double().masked_fill((infinite | lost)[:, None], 0.0)
        _, exponent = torch.frexp(rest.abs().amax(dim=1))
        bits, limbs = limb_bits(vectors_ND.shape[1]), []
        for limb in (1, 2):
            grid = limb * bits - exponent.long()
            limbs.append((rest * _power_of_two(grid)).round() * _power_of_two(-grid))
            rest = rest - limbs[-1]
        self.high, self.low = limbs
        squared = (self.high * self.high).sum(dim=1)
        squared += 2.0 * (self.high * self.low).sum(dim=1)
        self.squared_norm = squared + (self.low * self.low).sum(dim=1)
        self.inverse_norm = torch.where(self.squared_norm > 0, 1.0 / self.squared_norm.sqrt(), 0.0)


def _power_of_two(exponent_N: Tensor) -> Tensor:
    """2^exponent as float64 [N, 1], for exponents of normal numbers.

    Not torch.ldexp, which may compute in float32.
    """
    return ((exponent_N + 1023) << 52).view(torch.float64)[:, None]


class _OnDevice:
    """The arithmetic ``exact`` on a device; its products have any shape."""

    def __init__(self, metric: str, device: str) -> None:
        self.query_tile, self.item_tile = QUERIES_AT_ONCE, ITEMS_AT_ONCE
        self.device = torch.device(device)
        self._metric = metric

    def queries(self, vectors_QD: np.ndarray) -> _Rows:
        return _Rows(self.keep(vectors_QD))

    def keep(self, vectors_GD: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(vectors_GD)).to(self.device)

    def items(self, kept: Tensor, rows: slice | np.ndarray) -> _Rows:
        chosen = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self.device)
        return _Rows(kept[chosen])

    def places(self, items: _Rows) -> slice:
        return slice(None)

    def tile(self, queries: _Rows, items: _Rows) -> np.ndarray:
        return self.compare(queries, items).cpu().numpy()

    def compare(self, queries: _Rows, items: _Rows) -> Tensor:
        """The tile on the device, in the steps of ``canonical_distances.distances``."""
        product = queries.high @ items.high.T
        product += queries.high @ items.low.T + queries.low @ items.high.T
        product += queries.low @ items.low.T
        if self._metric == "euclidean":
            product *= -2.0
            product += queries.squared_norm[:, None]
            product += items.squared_norm
            product.clamp_(min=0.0).sqrt_()
            lost = torch.inf
        else:
            product *= -queries.inverse_norm[:, None]
            product *= items.inverse_norm
            lost = torch.nan
        tile = product.float() + 0.0  # -0.0 + 0.0 is 0.0
        state = queries.state[:, None] + items.state
        return tile.masked_fill_(state == 1, lost).masked_fill_(state > 1, torch.nan)


class DeviceShard(GalleryShard):
    """Vectors float32 [G, D] on ``device``, otherwise as ``GalleryShard``.

    Raises ``EvaluationError`` for an arithmetic other than exact.
    """

    arithmetic: _OnDevice

    def __init__(
        self,
        vectors: np.ndarray,
        labels: Sequence[str],
        indices: np.ndarray,
        *,
        device: str,
        instances: Sequence[str] = (),
        **options: str,
    ) -> None:
        if options.get("arithmetic", "exact") != "exact":
            raise EvaluationError(
                f"arithmetic={options['arithmetic']!r} is for CPUs; on {device} use 'exact'"
            )
        super().__init__(vectors, labels, indices, instances=instances, **options)
        self.arithmetic = _OnDevice(self._options["metric"], device)
        self._kept = self.arithmetic.keep(self._kept)

    def count(
        self, queries: np.ndarray, offsets: np.ndarray, distance: np.ndarray, index: np.ndarray
    ) -> np.ndarray:
        """As ``BaseShard.count``."""
        query_tile, item_tile = self.arithmetic.query_tile, self.arithmetic.item_tile
        device = self.arithmetic.device
        counts = np.zeros((3, len(distance)), dtype=np.int32)
        for q in range(0, len(queries), query_tile):
            ends = offsets[q : q + query_tile + 1]
            own = slice(ends[0], ends[-1])
            thresholds = _Thresholds(ends - ends[0], distance[own], index[own], device)
            prepared = self.prepare(queries[q : q + query_tile])
            for g in range(0, len(self.indices), item_tile):
                part = slice(g, g + item_tile)
                place = torch.from_numpy(self.indices[part]).to(device)
                thresholds.add(self.arithmetic.compare(prepared, self.items(part)), place)
            counts[:, own] = thresholds.counts()
        return counts


class _Thresholds:
    """Sorted thresholds of q queries on the device, and the counts of items among them."""

    def __init__(
        self, offsets: np.ndarray, distance: np.ndarray, index: np.ndarray, device: torch.device
    ) -> None:
        sizes = np.diff(offsets)
        longest = max(int(sizes.max(initial=0)), 1)
        self._held = np.arange(longest) < sizes[:, None]
        values = np.full(self._held.shape, np.inf, dtype=np.float32)
        places = np.zeros(self._held.shape, dtype=np.int64)
        values[self._held], places[self._held] = distance, index
        lost = np.isnan(values)
        known = sizes - lost.sum(axis=1)
        values[lost] = np.inf
        # A key is the start of a run of equal thresholds, over all queries, with the gallery index.
        # Keys rise over runs and within them, so one search finds a place within a run.
        at = np.arange(values.size).reshape(values.shape)
        new = np.ones(values.shape, dtype=bool)
        new[:, 1:] = values[:, 1:] != values[:, :-1]
        run = np.maximum.accumulate(np.where(new, at, 0).ravel())
        beyond = np.arange(longest) >= known[:, None]
        keys = (run << 32) + np.where(beyond, (1 << 32) - 1, places).ravel()
        self._values, self._keys, self._known = (
            torch.from_numpy(part).to(device) for part in (values, keys, known[:, None])
        )
        # One more place a query, for items that come before no threshold.
        self._counts = torch.zeros((3, len(sizes), longest + 1), dtype=torch.int64, device=device)

    def add(self, tile: Tensor, place: Tensor) -> None:
        """Count the items of ``tile`` float32 [q, g] with gallery indices ``place`` int64 [g]."""
        lost = tile.isnan()
        tile = torch.where(lost, torch.inf, tile)
        behind = torch.searchsorted(self._values, tile, right=True).clamp_(max=self._known)
        front = torch.searchsorted(self._values, tile).clamp_(max=self._known)
        longest = self._values.shape[1]
        one = torch.ones((), dtype=torch.int64, device=tile.device).expand_as(tile)
        self._counts[NEARER].scatter_add_(1, behind.masked_fill(lost, longest), one)
        query, item = torch.nonzero((front < behind) & ~lost, as_tuple=True)
        if len(query):
            first, end = front[query, item], behind[query, item]
            run = query * longest + first
            after = torch.searchsorted(self._keys, (run << 32) + place[item], right=True)
            after -= query * longest
            for row, begin in ((NEARER_OR_EQUAL, first), (BEFORE, after)):
                flat = self._counts[row].view(-1)
                flat.index_add_(0, query * (longest + 1) + begin, torch.ones_like(begin))
                flat.index_add_(0, query * (longest + 1) + end, -torch.ones_like(begin))

    def counts(self) -> np.ndarray:
        """int32 [3, M], the counts of ``tie_rules``."""
        total = self._counts.cumsum(dim=2)
        total[NEARER_OR_EQUAL] += total[NEARER]
        total[BEFORE] += total[NEARER]
        found: Any = total[:, :, :-1].to(torch.int32).cpu().numpy()
        return found[:, self._held]
