"""This rank's batches, step by step, and the walk over a gallery; the package's front door.

A step's batch is a pure function of (sources, seed, step, rank, world size). Loader workers take
whole steps, so their number changes nothing but the speed, and a run resumes at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch

from dataio.loading.batch import Batch
from dataio.loading.batches import Places, StepBatches, WalkBatches
from dataio.loading.class_balance import Balance
from dataio.loading.fetch import FetchError
from dataio.loading.resident import Resident
from dataio.loading.sources import StreamSource
from dataio.loading.workers import Running
from dataio.records import DataError
from dataio.shards import read_bytes

Cache = Literal["none", "ram", "device"]


class Loader:
    """Yields (step, {stream: Batch}) for steps `start_step` .. `steps` - 1.

    Worker processes end with the iteration, on an error, on Ctrl-C, and by `close` or leaving a
    `with` block. Iterating again starts again at `start_step`.
    """

    def __init__(
        self,
        sources: Mapping[str, StreamSource],
        *,
        batch: int | Mapping[str, int] | None = None,
        balance: Balance | None = None,
        seed: int,
        steps: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        prefetch: int = 2,
        pin_memory: bool = False,
        cache: Cache = "none",
        cache_bytes: int = 1 << 30,
        device: torch.device | str = "cpu",
        on_part: Callable[[], None] | None = None,
        block_shards: int = 4,
    ) -> None:
        """Prepare; no pixels are read yet.

        Args:
            sources: stream name -> what to load. A stream's order depends on its name.
            batch: global batch size, one for all streams or one for each. A stream is read in
                passes; a pass's last batch may be short.
            balance: instead of `batch`, P classes x K samples for every stream at every step: the
                same classes in all streams, class after class in the same order. All sources must
                be labelled with the same classes. A sample that a small class repeats within a
                batch is augmented differently each time.
            seed: of orders, view choice and augmentation, in [0, 2^64).
            steps: steps of the whole run, `start_step` included.
            start_step: first step to yield; resuming needs nothing else.
            rank, world_size: which slice of each global batch to load.
            workers: loader processes; 0 loads in this process.
            prefetch: steps that each worker prepares ahead.
            pin_memory: put batches into page-locked memory, for copies to a GPU.
            cache: "ram" keeps decoded pictures in memory that all workers share, so each is decoded
                once. "device" decodes all streams before the first step and holds them on `device`;
                workers then send everything but pixels. Neither changes a batch.
            cache_bytes: limit of "ram", all streams together.
            device: where "device" holds the pictures; the batches' pixels are then there.
            on_part: called for each part of the streams that "device" has decoded.
            block_shards: shards mixed with one another in a pass's order.

        Raises:
            DataError: an option out of range, both or neither of `batch` and `balance`, an empty
                source, a labelled source with a label that is missing or not among its classes,
                an unlabelled source or too few common classes for `balance`.
        """
        if not sources:
            raise DataError("sources is empty; name at least one stream")
        if not 0 <= start_step <= steps:
            raise DataError(f"start_step must be in [0, steps={steps}], got {start_step}")
        if cache not in get_args(Cache):
            raise DataError(f"cache must be one of {', '.join(get_args(Cache))}, got {cache!r}")
        _check_workers(workers, prefetch)
        self._sources, self._steps = dict(sources), range(start_step, steps)
        self._options = {"workers": workers, "prefetch": prefetch, "pin_memory": pin_memory}
        self._batches = StepBatches(
            self._sources,
            batch=dict.fromkeys(sources, batch) if isinstance(batch, int) else batch,
            balance=balance,
            seed=seed,
            rank=rank,
            world_size=world_size,
            cache_bytes=cache_bytes if cache == "ram" else 0,
            processes=workers,
            pixels=cache != "device",
            block_shards=block_shards,
        )
        self._running: list[Running] = []
        self._read_before = read_bytes.total()
        self._device = device if cache == "device" else None
        self._on_part = on_part or (lambda: None)
        self._resident: dict[str, Resident] = {}

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def read_bytes(self) -> int:
        """What this process and its workers have read of shards since this loader was made, walks
        of this process included; see :mod:`dataio.shards.read_bytes`."""
        return read_bytes.total() - self._read_before

    @property
    def held_bytes(self) -> int:
        """Bytes of decoded samples that the cache holds, for all workers of this process; without
        what workers keep to themselves where the system has no memory that they could share."""
        resident = sum(stream.held_bytes for stream in self._resident.values())
        return resident + self._batches.held_bytes

    def places(self, step: int) -> dict[str, Places]:
        """Which samples `step` has in each stream, over all ranks; no pixels are read."""
        return self._batches.places(step)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Batch]]]:
        if self._device is not None and not self._resident:
            for name in self._sources:
                self._resident[name] = self._moved(name, self._device)
        running = Running(self._batches, self._steps, **self._options)
        self._running.append(running)
        try:
            for step, results in zip(self._steps, running, strict=False):
                yield step, {name: self._whole(name, result) for name, result in results.items()}
        finally:
            running.close()
            if running in self._running:
                self._running.remove(running)

    def _moved(self, name: str, device: torch.device | str) -> Resident:
        """A whole stream on `device`."""
        resident = Resident(self._batches.stream(name), name=name, device=device)
        running = Running(resident.parts, range(len(resident.parts)), **self._options)
        try:
            for part in running:
                if isinstance(part, FetchError):
                    raise _named_error(self._sources[name], part)
                resident.add(*part)
                self._on_part()
            if self._options["workers"]:  # else they are counted where they were read
                read_bytes.add(resident.parts.stored_bytes)
        finally:
            running.close()
        return resident

    def _whole(self, name: str, result: Batch | FetchError) -> Batch:
        batch = _named(self._sources[name], result)
        if name in self._resident:
            batch.pixels = self._resident[name].pixels(batch.position, batch.views)
        elif batch.pixels.shape[-3] == 0:  # they are in the cache that workers share
            stream = self._batches.stream(name)
            pixels = stream.pixels(batch.position.numpy(), batch.views.numpy())
            batch.pixels = pixels.pin_memory() if self._options["pin_memory"] else pixels
        return batch

    def close(self) -> None:
        """End the worker processes of all iterations; those iterations stop."""
        while self._running:
            self._running.pop().close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def walk(
    source: StreamSource,
    *,
    batch: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    prefetch: int = 2,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Every sample of `source` exactly once over all ranks, in the order of its rows.

    No shuffling, no augmentation, all views; labels are visible whatever `source.labelled` says, -1
    where a sample has none or one outside `source.classes`. Each rank gets the same number of
    batches, the last ones possibly without rows. The arguments are as in Loader.

    Raises DataError for a bad option or a sample that cannot be read.
    """
    _check_workers(workers, prefetch)
    batches = WalkBatches(source, batch=batch, rank=rank, world_size=world_size)
    return _walk(source, batches, workers=workers, prefetch=prefetch, pin_memory=pin_memory)


def _walk(source: StreamSource, batches: WalkBatches, **options: Any) -> Iterator[Batch]:
    running = Running(batches, range(len(batches)), **options)
    try:
        for result in running:
            yield _named(source, result)
    finally:
        running.close()


def _check_workers(workers: int, prefetch: int) -> None:
    if workers < 0 or prefetch < 1:
        raise DataError(f"need workers >= 0 and prefetch >= 1, got {workers} and {prefetch}")


def _named(source: StreamSource, result: Batch | FetchError) -> Batch:
    """Fill in the keys, or raise the error with the sample's key."""
    if isinstance(result, FetchError):
        raise _named_error(source, result)
    keys = source.manifest.keys
    result.keys = [keys[row] for row in result.row.tolist()]
    return result


def _named_error(source: StreamSource, error: FetchError) -> DataError:
    return DataError(f"sample {source.manifest.keys[error.row]!r}: {error.reason}")
