"""Step number -> batches, as a map-style data set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dataio.loading import plan
from dataio.loading.batch import Batch, Stream
from dataio.loading.fetch import FetchError
from dataio.loading.loading_plan import LoadingPlan
from dataio.loading.sources import SampleTable, StreamSource, check_source, class_numbers


class StepBatches:
    """Training: step -> {stream: Batch of this rank}, a pure function of its arguments.

    A sample that cannot be read gives a FetchError in its batch's place, for the caller to raise.
    """

    def __init__(
        self,
        loading: LoadingPlan,
        *,
        rank: int,
        world_size: int,
        cache_bytes: int,
        processes: int = 0,
        pixels: bool = True,
    ) -> None:
        """`processes` workers share the cache; without `pixels` the batches hold all else.

        Raises DataError for a rank outside [0, world_size).
        """
        plan.rank_bounds(1, rank, world_size)
        shares = _shares(loading.sources, cache_bytes)
        self._rank, self._world_size, self._with_pixels = rank, world_size, pixels
        self._draws = loading.draws
        self._streams = {
            name: Stream(
                source,
                loading.tables[name],
                labels=loading.labels[name],
                cache_bytes=shares[name],
                processes=processes,
                stores=() if source.features is None else source.features(True),
            )
            for name, source in loading.sources.items()
        }

    def __getitem__(self, step: int) -> dict[str, Batch | FetchError]:
        if self._with_pixels:
            for name, stream in self._streams.items():
                ahead = self._draws.upcoming(name, step) if stream.reads_shards else []
                if ahead:
                    stream.shards.prefetch(ahead)
        return {name: self._one(name, step) for name in self._streams}

    @property
    def held_bytes(self) -> int:
        """Bytes of decoded samples in all streams' caches."""
        return sum(stream.held_bytes for stream in self._streams.values())

    def stream(self, name: str) -> Stream:
        """One stream's samples."""
        return self._streams[name]

    def _one(self, name: str, step: int) -> Batch | FetchError:
        real, passes = self._draws.samples(name, step)
        start, end = plan.rank_bounds(len(real), self._rank, self._world_size)
        local, passes = real[start:end], passes[start:end]
        views = self._draws.views(name, local, passes)
        jitter = self._draws.jitter(name, local, passes, views=views.shape[1])
        try:
            return self._streams[name].batch(
                real,
                start,
                end,
                views=views,
                passes=passes,
                jitter=jitter,
                pixels=self._with_pixels,
            )
        except FetchError as error:
            return error


class WalkBatches:
    """Evaluation: batch number -> Batch of this rank, in manifest order, all views, with labels."""

    def __init__(self, source: StreamSource, *, batch: int, rank: int, world_size: int) -> None:
        """The arguments are as in `walk`; raises DataError for one that is out of range."""
        plan.rank_bounds(1, rank, world_size)
        check_source("source", source)
        self._batches = plan.sequential(len(source.rows), batch)
        self._rank, self._world_size = rank, world_size
        self._stream = Stream(
            source,
            SampleTable.of(source),
            labels=class_numbers(source),
            stores=() if source.features is None else source.features(False),
        )
        self._shards = np.array(list(dict.fromkeys(self._stream.table.shard_ids.tolist())))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> Batch | FetchError:
        positions = self._batches[step]
        real = positions[positions != plan.PADDING]
        start, end = plan.rank_bounds(len(real), self._rank, self._world_size)
        if self._stream.reads_shards:
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
        needs[name] = len(source.rows) * views * 3 * source.decoded_size**2
    total = sum(needs.values())
    return {name: min(need, cache_bytes * need // total) for name, need in needs.items()}
