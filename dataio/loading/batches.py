"""Step number -> batches, as a map-style data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dataio.loading import plan
from dataio.loading.augment import draw, draw_views
from dataio.loading.batch import Batch, Stream
from dataio.loading.class_balance import Balance, BalancedOrder
from dataio.loading.fetch import FetchError, SampleTable
from dataio.loading.sources import (
    StreamSource,
    check_balanced,
    check_source,
    class_numbers,
    required_labels,
)
from dataio.records import DataError


@dataclass(frozen=True, eq=False)
class Places:
    """Which samples make up one stream's global batch of a step, in order, padding left out."""

    rows: np.ndarray  # int64 [n], rows in the manifest
    positions: np.ndarray  # int64 [n], places among the source's rows
    passes: np.ndarray  # int64 [n], the pass that numbers each sample's views and augmentation
    views: np.ndarray  # int64 [n, v], the views loaded; zeros [n, 1] for single pictures
    bounds: tuple[tuple[int, int], ...]  # start and end of each rank's part


class StepBatches:
    """Training: step -> {stream: Batch of this rank}, a pure function of its arguments.

    A sample that cannot be read gives a FetchError in its batch's place, for the caller to raise.
    """

    def __init__(
        self,
        sources: Mapping[str, StreamSource],
        *,
        batch: Mapping[str, int] | None = None,
        balance: Balance | None = None,
        seed: int,
        rank: int,
        world_size: int,
        cache_bytes: int,
        processes: int = 0,
        pixels: bool = True,
        block_shards: int,
    ) -> None:
        """The arguments are as in Loader; raises DataError for one that is out of range.

        `processes` workers share the cache; without `pixels` the batches hold all else.
        """
        plan.rank_bounds(1, rank, world_size)
        if (batch is None) == (balance is None):
            raise DataError("name either batch (rows) or balance (classes x samples)")
        for name, source in sources.items():
            check_source(name, source)
        shares = _shares(sources, cache_bytes)
        labels = {n: required_labels(n, s) if s.labelled else None for n, s in sources.items()}
        self._rank, self._world_size, self._with_pixels = rank, world_size, pixels
        self._wanted_views = {name: s.views for name, s in sources.items()}
        self._augment = {name: s.augment for name, s in sources.items()}
        self._seeds = {name: _stream_seed(seed, name) for name in sources}
        self._streams = {
            name: Stream(source, labels=labels[name], cache_bytes=shares[name], processes=processes)
            for name, source in sources.items()
        }
        if balance is not None:
            check_balanced(sources)
            class_ids = {name: ids for name, ids in labels.items() if ids is not None}
            self._plan = BalancedOrder(class_ids, balance=balance, seed=seed)
        else:
            tables = {name: stream.table for name, stream in self._streams.items()}
            self._plan = _Passes(tables, batch or {}, seed=seed, block_shards=block_shards)

    def __getitem__(self, step: int) -> dict[str, Batch | FetchError]:
        if self._with_pixels and isinstance(self._plan, _Passes):
            for name, stream in self._streams.items():
                if stream.shards.remote:
                    stream.shards.prefetch(self._plan.upcoming(name, step).tolist())
        return {name: self._one(name, step) for name in self._streams}

    @property
    def held_bytes(self) -> int:
        """Bytes of decoded samples in all streams' caches."""
        return sum(stream.held_bytes for stream in self._streams.values())

    def stream(self, name: str) -> Stream:
        """One stream's samples."""
        return self._streams[name]

    def places(self, step: int) -> dict[str, Places]:
        """The whole batches of `step`, over all ranks; no pixels are read."""
        found = {}
        for name, stream in self._streams.items():
            positions, passes = self._plan.draw(name, step)
            found[name] = Places(
                rows=stream.table.rows[positions],
                positions=positions,
                passes=passes,
                views=self._views(name, positions, passes),
                bounds=tuple(
                    plan.rank_bounds(len(positions), rank, self._world_size)
                    for rank in range(self._world_size)
                ),
            )
        return found

    def _one(self, name: str, step: int) -> Batch | FetchError:
        stream, augment = self._streams[name], self._augment[name]
        real, passes = self._plan.draw(name, step)
        start, end = plan.rank_bounds(len(real), self._rank, self._world_size)
        local, passes = real[start:end], passes[start:end]
        views = self._views(name, local, passes)
        jitter = None
        if augment is not None:
            jitter = draw(
                augment,
                seed=self._seeds[name],
                pass_index=passes,
                rows=stream.table.rows[local],
                views=views.shape[1] if stream.table.stacked else None,
            )
        try:
            return stream.batch(
                real, start, end, views=views, jitter=jitter, pixels=self._with_pixels
            )
        except FetchError as error:
            return error

    def _views(self, name: str, positions: np.ndarray, passes: np.ndarray) -> np.ndarray:
        """The views to load, int64 [n, v]."""
        stream, wanted = self._streams[name], self._wanted_views[name]
        if not stream.table.stacked:
            return np.zeros((len(positions), 1), dtype=np.int64)
        if wanted is None:
            return stream.all_views(positions)
        return draw_views(
            seed=self._seeds[name],
            pass_index=passes,
            rows=stream.table.rows[positions],
            available=stream.available(positions),
            count=wanted,
        )


class _Passes:
    """Every sample once a pass: positions of a step's global batch, and the pass they belong to."""

    def __init__(
        self,
        tables: Mapping[str, SampleTable],
        batch: Mapping[str, int],
        *,
        seed: int,
        block_shards: int,
    ) -> None:
        if set(batch) != set(tables) or any(size < 1 for size in batch.values()):
            raise DataError(f"batch needs a size >= 1 for each of {sorted(tables)}, got {batch}")
        self._batch = dict(batch)
        self._orders = {
            name: plan.StreamOrder(
                table.shard_ids,
                seed=seed,
                stream_id=plan.stream_number(name),
                block_shards=block_shards,
            )
            for name, table in tables.items()
        }

    def draw(self, name: str, step: int) -> tuple[np.ndarray, np.ndarray]:
        order, size = self._orders[name], self._batch[name]
        positions = plan.batch_at(order, step, size)
        real = positions[positions != plan.PADDING]
        return real, np.full(len(real), step // plan.steps_per_pass(order.samples, size))

    def upcoming(self, name: str, step: int) -> np.ndarray:
        """Shards to have at hand, in order, int64 [k]: this step's and those of the block after."""
        return self._orders[name].upcoming(step, self._batch[name])


class WalkBatches:
    """Evaluation: batch number -> Batch of this rank, in manifest order, all views, with labels."""

    def __init__(self, source: StreamSource, *, batch: int, rank: int, world_size: int) -> None:
        """The arguments are as in `walk`; raises DataError for one that is out of range."""
        plan.rank_bounds(1, rank, world_size)
        check_source("source", source)
        self._batches = plan.sequential(len(source.rows), batch)
        self._rank, self._world_size = rank, world_size
        self._stream = Stream(source, labels=class_numbers(source))
        self._shards = np.array(list(dict.fromkeys(self._stream.table.shard_ids.tolist())))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> Batch | FetchError:
        positions = self._batches[step]
        real = positions[positions != plan.PADDING]
        start, end = plan.rank_bounds(len(real), self._rank, self._world_size)
        if self._stream.shards.remote:
            current = self._stream.table.shard_ids[real]
            ahead = plan.blocks_ahead(self._shards, current, block_shards=1, then=self._shards[:0])
            self._stream.shards.prefetch(ahead.tolist())
        try:
            views = self._stream.all_views(real[start:end])
            return self._stream.batch(real, start, end, views=views)
        except FetchError as error:
            return error


def _shares(sources: Mapping[str, StreamSource], cache_bytes: int) -> dict[str, int]:
    """Split the cache by need: everything fits, or each stream gets its proportion."""
    needs = {}
    for name, source in sources.items():
        views = max(1, int(source.manifest.views[source.rows].max()))
        needs[name] = len(source.rows) * views * 3 * source.image_size**2
    total = sum(needs.values())
    return {name: min(need, cache_bytes * need // total) for name, need in needs.items()}


def _stream_seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
