"""What a stream loads, what a batch holds, and step number -> batches as a map-style data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dataio import plan
from dataio.augment import AugmentConfig, draw, draw_views
from dataio.decode import Fit
from dataio.fetch import FetchError, PixelReader, SampleTable
from dataio.manifest import Manifest
from dataio.records import DataError
from dataio.sampling import Balance, BalancedOrder
from dataio.shards import ShardReader

__all__ = ["Batch", "StepBatches", "StreamSource", "WalkBatches"]


@dataclass(frozen=True, eq=False)
class StreamSource:
    """One stream of a run: which samples, and how they are loaded.

    `classes` defines the labels' numbers. With `labelled=False` the samples' labels are hidden:
    they never reach the code that makes the batches.
    """

    manifest: Manifest
    rows: np.ndarray  # int64 [N], distinct rows of the manifest
    classes: tuple[str, ...]
    labelled: bool
    image_size: int  # side in pixels of the decoded pictures, before augmentation
    views: int | None = None  # views drawn of each shape in training, None = all
    augment: AugmentConfig | None = None
    fit: Fit = "stretch"  # how pictures that are not square become square


@dataclass
class Batch:
    """This rank's part of one stream's global batch; n is 0 where the rank has no rows.

    Each view of a shape has its own augmentation. Labels of a hidden stream are all -1.
    """

    pixels: torch.Tensor  # uint8 [n, C, S, S], shapes [n, V, C, S, S]; C = 3, or 1 if all is grey
    label: torch.Tensor  # int64 [n], -1 = hidden, unlabelled or (in `walk`) not among the classes
    row: torch.Tensor  # int64 [n], rows in the manifest
    position: torch.Tensor  # int64 [n], places among the source's rows, in [0, N)
    offset: int  # place of the first local row in the global batch, padding excluded
    count: int  # real rows of the global batch, over all ranks
    keys: list[str]  # [n]
    jitter: torch.Tensor | None  # float32 [n, P] or [n, V, P] for augment.apply

    def __len__(self) -> int:
        return len(self.row)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        return self._mapped(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch with its tensors in page-locked memory."""
        return self._mapped(torch.Tensor.pin_memory)

    def _mapped(self, move: Any) -> Batch:
        jitter = None if self.jitter is None else move(self.jitter)
        return replace(
            self,
            pixels=move(self.pixels),
            label=move(self.label),
            row=move(self.row),
            position=move(self.position),
            jitter=jitter,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Only the pixels are worth a block of shared memory when a worker sends a batch.
        small = [_inline(t) for t in (self.label, self.row, self.position, self.jitter)]
        return _rebuilt, (self.pixels, *small, self.offset, self.count, self.keys)


def _inline(tensor: torch.Tensor | None) -> Any:
    return tensor if tensor is None or tensor.is_cuda else tensor.numpy()


def _rebuilt(
    pixels: torch.Tensor,
    label: Any,
    row: Any,
    position: Any,
    jitter: Any,
    offset: int,
    count: int,
    keys: list[str],
) -> Batch:
    jitter = None if jitter is None else torch.as_tensor(jitter)
    label, row, position = (torch.as_tensor(t) for t in (label, row, position))
    return Batch(pixels, label, row, position, offset, count, keys, jitter)


class _Stream:
    """Positions of one source to batches; holds no label that the source hides."""

    def __init__(
        self, source: StreamSource, *, labels: np.ndarray | None, cache_bytes: int
    ) -> None:
        self.table = SampleTable.of(source.manifest, np.asarray(source.rows))
        self._labels = labels
        self._pixels = PixelReader(
            self.table,
            ShardReader(source.manifest.root, source.manifest.shards),
            image_size=source.image_size,
            fit=source.fit,
            colour=bool((source.manifest.streams[source.rows] == "image").any()),
            cache_bytes=cache_bytes,
        )

    def all_views(self, positions: np.ndarray) -> np.ndarray:
        """Every view [n, V], V of the source's richest shape; others repeat theirs in turn."""
        view = np.arange(max(1, int(self.table.views.max())))
        return view[None, :] % np.maximum(1, self.available(positions))[:, None]

    def available(self, positions: np.ndarray) -> np.ndarray:
        """How many views each sample has, int64 [n]."""
        return self.table.views[positions].astype(np.int64)

    def batch(
        self, real: np.ndarray, start: int, end: int, *, views: np.ndarray, jitter: Any
    ) -> Batch:
        """The batch of positions `real[start:end]`, of a global batch `real` without padding."""
        positions = real[start:end]
        pixels = self._pixels.read(positions, views)
        if not self.table.stacked:
            pixels = pixels[:, 0]
        label = np.full(len(positions), -1) if self._labels is None else self._labels[positions]
        return Batch(
            pixels=torch.from_numpy(np.ascontiguousarray(pixels)),
            label=torch.from_numpy(label),
            row=torch.from_numpy(self.table.rows[positions]),
            position=torch.from_numpy(positions),
            offset=start,
            count=len(real),
            keys=[],  # filled in where the manifest is
            jitter=None if jitter is None else torch.from_numpy(jitter),
        )


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
        block_shards: int,
    ) -> None:
        """The arguments are as in Loader; raises DataError for one that is out of range."""
        plan.rank_bounds(1, rank, world_size)
        if (batch is None) == (balance is None):
            raise DataError("name either batch (rows) or balance (classes x samples)")
        for name, source in sources.items():
            _check_source(name, source)
        shares = _shares(sources, cache_bytes)
        labels = {n: _labels(n, s) if s.labelled else None for n, s in sources.items()}
        self._rank, self._world_size = rank, world_size
        self._options = {name: (s.views, s.augment) for name, s in sources.items()}
        self._seeds = {name: _stream_seed(seed, name) for name in sources}
        self._streams = {
            name: _Stream(source, labels=labels[name], cache_bytes=shares[name])
            for name, source in sources.items()
        }
        if balance is not None:
            _check_balanced(sources)
            class_ids = {name: ids for name, ids in labels.items() if ids is not None}
            self._plan = BalancedOrder(class_ids, balance=balance, seed=seed)
        else:
            tables = {name: stream.table for name, stream in self._streams.items()}
            self._plan = _Passes(tables, batch or {}, seed=seed, block_shards=block_shards)

    def __getitem__(self, step: int) -> dict[str, Batch | FetchError]:
        return {name: self._one(name, step) for name in self._streams}

    def _one(self, name: str, step: int) -> Batch | FetchError:
        stream = self._streams[name]
        real, passes = self._plan.draw(name, step)
        start, end = plan.rank_bounds(len(real), self._rank, self._world_size)
        local = real[start:end]
        wanted, augment = self._options[name]
        drawn = {
            "seed": self._seeds[name],
            "pass_index": passes[start:end],
            "rows": stream.table.rows[local],
        }
        if not stream.table.stacked:
            views, slots = np.zeros((len(local), 1), dtype=np.int64), None
        else:
            views = (
                stream.all_views(local)
                if wanted is None
                else draw_views(**drawn, available=stream.available(local), count=wanted)
            )
            slots = views.shape[1]
        jitter = None if augment is None else draw(augment, **drawn, views=slots)
        try:
            return stream.batch(real, start, end, views=views, jitter=jitter)
        except FetchError as error:
            return error


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


class WalkBatches:
    """Evaluation: batch number -> Batch of this rank, in manifest order, all views, with labels."""

    def __init__(self, source: StreamSource, *, batch: int, rank: int, world_size: int) -> None:
        """The arguments are as in `walk`; raises DataError for one that is out of range."""
        plan.rank_bounds(1, rank, world_size)
        _check_source("source", source)
        self._batches = plan.sequential(len(source.rows), batch)
        self._rank, self._world_size = rank, world_size
        self._stream = _Stream(source, labels=_class_numbers(source), cache_bytes=0)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> Batch | FetchError:
        positions = self._batches[step]
        real = positions[positions != plan.PADDING]
        start, end = plan.rank_bounds(len(real), self._rank, self._world_size)
        try:
            views = self._stream.all_views(real[start:end])
            return self._stream.batch(real, start, end, views=views, jitter=None)
        except FetchError as error:
            return error


def _check_source(name: str, source: StreamSource) -> None:
    rows = np.asarray(source.rows)
    if len(rows) == 0:
        raise DataError(f"stream {name!r} has no rows; choose them with Manifest.select")
    if rows.min() < 0 or rows.max() >= len(source.manifest):
        raise DataError(f"stream {name!r}: rows outside the manifest's {len(source.manifest)}")
    if len(np.unique(rows)) != len(rows):
        raise DataError(f"stream {name!r}: a row is listed twice; rows must be distinct")
    if source.image_size < 1:
        raise DataError(f"stream {name!r}: image_size must be positive, got {source.image_size}")
    if source.views is not None and source.views < 1:
        raise DataError(f"stream {name!r}: views must be at least 1, got {source.views}")
    if source.fit not in ("stretch", "crop"):
        raise DataError(f"stream {name!r}: fit must be 'stretch' or 'crop', got {source.fit!r}")


def _class_numbers(source: StreamSource) -> np.ndarray:
    numbers = {name: i for i, name in enumerate(source.classes)}
    labels = source.manifest.labels[source.rows].tolist()
    return np.array([numbers.get(label, -1) for label in labels], dtype=np.int64)


def _labels(name: str, source: StreamSource) -> np.ndarray:
    """Class numbers of a labelled stream; DataError naming a sample that has none."""
    labels = _class_numbers(source)
    if (labels < 0).any():
        row = int(np.asarray(source.rows)[np.argmax(labels < 0)])
        label = source.manifest.labels[row]
        problem = "has no label" if label is None else f"has label {label!r}, not among the classes"
        raise DataError(
            f"stream {name!r} is labelled but sample {source.manifest.keys[row]!r} {problem}; "
            "leave it out of rows, extend classes, or pass labelled=False"
        )
    return labels


def _check_balanced(sources: Mapping[str, StreamSource]) -> None:
    first = next(iter(sources.values()))
    for name, source in sources.items():
        if not source.labelled:
            raise DataError(
                f"balance needs labels, but stream {name!r} is unlabelled; pass labelled=True, or "
                "name batch instead of balance"
            )
        if source.classes != first.classes:
            raise DataError(
                f"balance: stream {name!r} numbers its classes unlike the first stream; give all "
                "sources the same classes"
            )


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
