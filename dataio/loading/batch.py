"""What a batch holds, and chosen samples of one source to a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from dataio.loading.augment import all_views
from dataio.loading.features import StoredFeatures, read_copies
from dataio.loading.fetch import PixelReader
from dataio.loading.ram_cache import RamCache
from dataio.loading.recycled_batches import packed, unpacked
from dataio.loading.sources import SampleTable, StreamSource
from dataio.shards import ShardReader, read_bytes


@dataclass
class Batch:
    """This rank's part of one stream's global batch; n is 0 where the rank has no rows.

    Each view of a shape has its own augmentation. Labels of a hidden stream are all -1.
    """

    # uint8 [n, C, S, S], shapes [n, V, C, S, S]; C = 3, or 1 if all is grey. Where a stream has
    # features: floats [n, A, B, C], shapes [n, V, A, B, C].
    pixels: torch.Tensor
    label: torch.Tensor  # int64 [n], -1 = hidden, unlabelled or (in `walk`) not among the classes
    row: torch.Tensor  # int64 [n], rows in the manifest
    position: torch.Tensor  # int64 [n], places among the source's rows, in [0, N)
    views: torch.Tensor  # int64 [n, V], the views that `pixels` are; zeros [n, 1] for pictures
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

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of tensors on a GPU from other use until ``stream`` is done with them."""
        self._mapped(lambda t: t.record_stream(stream) if t.is_cuda else None)

    def _mapped(self, move: Any) -> Batch:
        jitter = None if self.jitter is None else move(self.jitter)
        return replace(
            self,
            pixels=move(self.pixels),
            label=move(self.label),
            row=move(self.row),
            position=move(self.position),
            views=move(self.views),
            jitter=jitter,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Only the pixels are worth shared memory when a worker sends a batch.
        small = [_inline(t) for t in (self.label, self.row, self.position, self.views, self.jitter)]
        read = read_bytes.hand_over() if get_worker_info() is not None else 0
        rest = self.offset, self.count, self.keys, read
        return _rebuilt, (packed(self.pixels), small, *rest)


def _inline(tensor: torch.Tensor | None) -> Any:
    return tensor if tensor is None or tensor.is_cuda else tensor.numpy()


def _rebuilt(
    pixels: Any, small: list[Any], offset: int, count: int, keys: list[str], read: int
) -> Batch:
    read_bytes.add(read)  # in the worker that has sent the batch
    *most, jitter = (None if part is None else torch.as_tensor(part) for part in small)
    label, row, position, views = (part for part in most if part is not None)
    return Batch(unpacked(pixels), label, row, position, views, offset, count, keys, jitter)


class Stream:
    """Positions of one source to batches; holds no label that the source hides."""

    def __init__(
        self,
        source: StreamSource,
        table: SampleTable,
        *,
        labels: np.ndarray | None,
        cache_bytes: int = 0,
        processes: int = 0,
        stores: tuple[StoredFeatures, ...] = (),
    ) -> None:
        """`cache_bytes` limits a RamCache that `processes` workers share; 0 bytes = none.
        `stores` are read in place of pixels."""
        self.table, self.stores = table, stores
        self.image_size, self._labels = source.decoded_size, labels
        self.shards = ShardReader(source.manifest.root, source.manifest.shards)
        cache = None
        if cache_bytes > 0:
            cache = RamCache(
                len(self.table.rows),
                side=source.decoded_size,
                limit_bytes=cache_bytes,
                processes=processes,
            )
        self.reader = PixelReader(
            self.table,
            self.shards,
            image_size=source.decoded_size,
            fit=source.fit,
            interpolation=source.preprocessing.interpolation,
            colour=bool((source.manifest.streams[source.rows] == "image").any()),
            cache=cache,
        )

    @property
    def reads_shards(self) -> bool:
        """Whether shards far away are read, so that fetching them ahead pays."""
        return self.shards.remote and not self.stores

    @property
    def held_bytes(self) -> int:
        """Bytes of decoded samples in the cache, those of workers that share it included."""
        return self.reader.held_bytes

    def all_views(self, positions: np.ndarray) -> np.ndarray:
        """Every view [n, V], V of the source's richest shape; others repeat theirs in turn."""
        return all_views(self.table.views, positions)

    def pixels(self, positions: np.ndarray, views: np.ndarray) -> torch.Tensor:
        """`Batch.pixels` of samples int64 [n] and their views int64 [n, v]."""
        pixels, _ = self.reader.read(positions, views)
        return pixels if self.table.stacked else pixels[:, 0]

    def batch(
        self,
        real: np.ndarray,
        start: int,
        end: int,
        *,
        views: np.ndarray,
        passes: np.ndarray | None = None,
        jitter: np.ndarray | None = None,
        pixels: bool = True,
    ) -> Batch:
        """The batch of positions `real[start:end]`, of a global batch `real` without padding.

        Features are those of the samples' `passes`, int64 [n]; None: of the pictures as they are.

        C is 0 without `pixels`, and in a loader worker where the cache holds them for the parent
        process. Raises FetchError for a sample that cannot be read.
        """
        positions = real[start:end]
        if self.stores:
            passes = np.zeros_like(positions) if passes is None else passes
            shown = read_copies(self.stores, self.table.rows[positions], views, passes)
            shown, jitter = shown if self.table.stacked else shown[:, 0], None
        elif pixels and not self.reader.share(positions):
            shown = self.pixels(positions, views)
        else:
            shown = torch.empty(len(positions), 0, self.image_size, self.image_size).byte()
        label = np.full(len(positions), -1) if self._labels is None else self._labels[positions]
        return Batch(
            pixels=shown,
            label=torch.from_numpy(label),
            row=torch.from_numpy(self.table.rows[positions]),
            position=torch.from_numpy(positions),
            views=torch.from_numpy(views),
            offset=start,
            count=len(real),
            keys=[],  # filled in where the manifest is
            jitter=None if jitter is None else torch.from_numpy(jitter),
        )
