"""This rank's batches, step by step, and the walk over a gallery.

A step's batch is a pure function of (plan, step, rank, world size). Loader workers take whole
steps, so their number changes nothing but the speed, and a run resumes at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from dataio.loading.batch import Batch
from dataio.loading.batches import StepBatches, WalkBatches
from dataio.loading.fetch import FetchError
from dataio.loading.loading_plan import LoadingPlan
from dataio.loading.resident import Resident, StreamParts
from dataio.loading.sources import StreamSource
from dataio.loading.workers import Running
from dataio.records import DataError
from dataio.shards import read_bytes

Cache = Literal["none", "ram", "device"]


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How this machine loads batches; nothing here changes what is in them.

    Args:
        workers: loader processes; 0 loads in this process.
        prefetch: steps that each worker prepares ahead.
        pin_memory: put batches into page-locked memory, for copies to a GPU.
        cache: "ram" keeps decoded pictures in memory that all workers share, so each is decoded
            once. "device" decodes all streams before the first step and holds them on `device`;
            workers then send everything but pixels.
        cache_bytes: limit of "ram", all streams together.
        device: where "device" holds the pictures; the batches' pixels are then there.

    Raises:
        DataError: an option out of range.
    """

    workers: int = 0
    prefetch: int = 2
    pin_memory: bool = False
    cache: Cache = "none"
    cache_bytes: int = 1 << 30
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.cache not in get_args(Cache):
            known = ", ".join(get_args(Cache))
            raise DataError(f"cache must be one of {known}, got {self.cache!r}")
        if self.workers < 0 or self.prefetch < 1:
            raise DataError(
                f"need workers >= 0 and prefetch >= 1, got {self.workers} and {self.prefetch}"
            )


class Loader:
    """Yields (step, {stream: Batch}) for the steps `start_step` .. `plan.steps` - 1 of a plan.

    Worker processes end with the iteration, on an error, on Ctrl-C, and by `close` or leaving a
    `with` block. Iterating again starts again at `start_step`.
    """

    def __init__(
        self,
        plan: LoadingPlan,
        options: LoaderOptions | None = None,
        *,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        on_part: Callable[[], None] | None = None,
    ) -> None:
        """Prepare; no pixels are read yet.

        Args:
            plan: the batches of the whole run.
            options: by default, load in this process and keep nothing.
            start_step: first step to yield; resuming needs nothing else.
            rank, world_size: which slice of each global batch to load.
            on_part: called for each part of the streams that the cache "device" has decoded.

        Raises:
            DataError: `start_step` or `rank` out of range.
        """
        if not 0 <= start_step <= plan.steps:
            raise DataError(f"start_step must be in [0, steps={plan.steps}], got {start_step}")
        self._options = options = options or LoaderOptions()
        self._sources, self._steps = plan.sources, range(start_step, plan.steps)
        self._batches = StepBatches(
            plan,
            rank=rank,
            world_size=world_size,
            cache_bytes=options.cache_bytes if options.cache == "ram" else 0,
            processes=options.workers,
            pixels=options.cache != "device",
        )
        self._running: list[Running] = []
        self._read_before = read_bytes.total()
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

    def __iter__(self) -> Iterator[tuple[int, dict[str, Batch]]]:
        if self._options.cache == "device" and not self._resident:
            for name, source in self._sources.items():
                if source.features is None:
                    self._resident[name] = self._moved(name)
        running = self._run(self._batches, self._steps)
        self._running.append(running)
        try:
            for step, results in zip(self._steps, running, strict=False):
                yield step, {name: self._whole(name, result) for name, result in results.items()}
        finally:
            running.close()
            if running in self._running:
                self._running.remove(running)

    def _run(self, data: StepBatches | StreamParts, steps: range) -> Running:
        options = self._options
        return Running(
            data,
            steps,
            workers=options.workers,
            prefetch=options.prefetch,
            pin_memory=options.pin_memory,
        )

    def _moved(self, name: str) -> Resident:
        """A whole stream on the device."""
        stream = self._batches.stream(name)
        resident = Resident(stream, name=name, device=self._options.device)
        running = self._run(resident.parts, range(len(resident.parts)))
        try:
            for part in running:
                if isinstance(part, FetchError):
                    raise _named_error(self._sources[name], part)
                resident.add(*part)
                self._on_part()
            if self._options.workers:  # else they are counted where they were read
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
            batch.pixels = pixels.pin_memory() if self._options.pin_memory else pixels
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
) -> Iterator[Batch]:
    """Every sample of `source` exactly once over all ranks, in the order of its rows.

    No shuffling, no augmentation, all views; labels are visible whatever `source.labelled` says, -1
    where a sample has none or one outside `source.classes`. Each rank gets the same number of
    batches, the last ones possibly without rows. The arguments are as in Loader and LoaderOptions.

    Raises DataError for a bad option or a sample that cannot be read.
    """
    options = LoaderOptions(workers=workers)
    batches = WalkBatches(source, batch=batch, rank=rank, world_size=world_size)
    return _walk(source, batches, options)


def _walk(source: StreamSource, batches: WalkBatches, options: LoaderOptions) -> Iterator[Batch]:
    running = Running(
        batches,
        range(len(batches)),
        workers=options.workers,
        prefetch=options.prefetch,
        pin_memory=False,
    )
    try:
        for result in running:
            yield _named(source, result)
    finally:
        running.close()


def _named(source: StreamSource, result: Batch | FetchError) -> Batch:
    """Fill in the keys, or raise the error with the sample's key."""
    if isinstance(result, FetchError):
        raise _named_error(source, result)
    keys = source.manifest.keys
    result.keys = [keys[row] for row in result.row.tolist()]
    return result


def _named_error(source: StreamSource, error: FetchError) -> DataError:
    return DataError(f"sample {source.manifest.keys[error.row]!r}: {error.reason}")
