"""Positions of a stream to uint8 pixels."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from dataio.loading.ram_cache import RamCache
from dataio.loading.recycled_batches import empty
from dataio.loading.sources import DIGEST_BYTES, SampleTable
from dataio.records import DataError
from dataio.shards import (
    Fit,
    Interpolation,
    ShardReader,
    decode_image,
    decode_views,
    resize,
)


class FetchError(DataError):
    """A sample that could not be read; `row` is its row in the manifest."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row, self.reason = row, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return FetchError, (self.row, self.reason)


def shown_channels(channels: np.ndarray, *, colour: bool) -> int:
    """C of a batch of samples of `channels`, uint8 [n]: 1 if all are grey; `colour` forces 3."""
    return 1 if not colour and len(channels) > 0 and bool((channels == 1).all()) else 3


class PixelReader:
    """Reads, decodes and resizes samples; keeps decoded ones in `cache`.

    A single picture counts as one view here, so everything is [n, V, C, S, S].
    """

    def __init__(
        self,
        table: SampleTable,
        reader: ShardReader,
        *,
        image_size: int,
        fit: Fit = "stretch",
        interpolation: Interpolation = "bilinear",
        colour: bool = False,
        cache: RamCache | None = None,
    ) -> None:
        """`colour` asks for C = 3 always, else C = 1 where all pictures of a batch are grey."""
        self.colour = colour
        self._table, self._reader, self._cache = table, reader, cache
        self._resizing: dict[str, Any] = {"fit": fit, "interpolation": interpolation}
        self._size = image_size
        self._wide = colour  # whether colour is expected in the next batch

    def read(self, positions: np.ndarray, views: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Pixels uint8 [n, v, C, S, S] of the chosen views, and each sample's own C, uint8 [n].

        Args:
            positions: int64 [n], samples of the table; one that is repeated is decoded once.
            views: int64 [n, v], view numbers; zeros for single pictures.

        Raises:
            FetchError: a sample cannot be read or decoded.
        """
        starts, channels = self._held(positions)
        self._wide = self._wide or bool((channels == 3).any())
        pixels = empty(*views.shape, 3 if self._wide else 1, self._size, self._size)
        array = pixels.numpy()
        missing: dict[int, list[int]] = {}  # position -> its places in the batch
        for i, held in enumerate(channels.tolist()):
            if held:
                assert self._cache is not None
                self._cache.copy(int(starts[i]), held, views[i], out=array[i])
            else:
                missing.setdefault(int(positions[i]), []).append(i)
        for position, places in missing.items():
            tiles = self._decode(position)
            channels[places] = tiles.shape[3]
            if tiles.shape[3] > pixels.shape[2]:
                self._wide = True
                pixels = pixels.expand(-1, -1, 3, -1, -1).contiguous()
                array = pixels.numpy()
            self._fill(position, tiles, {i: views[i].tolist() for i in places}, out=array)
        shown = shown_channels(channels, colour=self.colour)
        if shown < pixels.shape[2]:
            self._wide = False
            pixels = pixels[:, :, :1].contiguous()
        return pixels.expand(-1, -1, shown, -1, -1), channels

    @property
    def held_bytes(self) -> int:
        """Bytes of pixels in the cache."""
        return 0 if self._cache is None else self._cache.used_bytes

    def share(self, positions: np.ndarray) -> bool:
        """In a loader worker: bring samples int64 [n] to where the parent process can read them.

        False if there is no cache that both share, or no room in it; then send the pixels. Raises
        FetchError as `read`.
        """
        if self._cache is None or not self._cache.shared or get_worker_info() is None:
            return False
        missing = np.unique(positions[self._cache.places(positions)[1] == 0])
        for position in missing.tolist():
            if not self._cache.has_room(3 * max(1, int(self._table.views[position]))):
                return False
            tiles = self._decode(position)
            pictures = [resize(tile, self._size, **self._resizing) for tile in tiles]
            self._cache.add(position, pictures)
        return bool((self._cache.places(positions)[1] > 0).all())

    def _held(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._cache is not None:
            return self._cache.places(positions)
        return np.zeros(len(positions), dtype=np.int64), np.zeros(len(positions), dtype=np.uint8)

    def _fill(
        self, position: int, tiles: np.ndarray, chosen: dict[int, list[int]], *, out: np.ndarray
    ) -> None:
        """Write views of one sample to their places `out[i]`; into the cache go all of them."""
        count, _, _, channels = tiles.shape
        keep = self._cache is not None and self._cache.has_room(count * channels)
        needed = range(count) if keep else {v for views in chosen.values() for v in views}
        pictures = {v: resize(tiles[v], self._size, **self._resizing) for v in needed}
        for i, views in chosen.items():
            for slot, view in enumerate(views):
                out[i, slot] = pictures[view].transpose(2, 0, 1)
        if self._cache is not None and keep:
            self._cache.add(position, list(pictures.values()))

    def _decode(self, position: int) -> np.ndarray:
        """All views of one sample as stored, uint8 [V, H, W, C]."""
        try:
            return self._decoded(position)
        except DataError as error:
            raise FetchError(int(self._table.rows[position]), str(error)) from error

    def _decoded(self, position: int) -> np.ndarray:
        shard_id = int(self._table.shard_ids[position])
        data = self._reader.read(shard_id, self._table.member(position))
        name = self._reader.path(shard_id)
        # Most flipped bytes decode to a slightly wrong picture; hashing takes a twentieth of the
        # time that decoding does.
        digest = hashlib.sha256(data).digest()[:DIGEST_BYTES]
        if digest != self._table.digests[position].tobytes():
            raise DataError(
                f"{name}: other content than when it was packed; copy the shard again or pack again"
            )
        if self._table.stacked:
            return decode_views(data, key=name, views=int(self._table.views[position]))
        return decode_image(data, key=name, size=self._size, **self._resizing)[None]
