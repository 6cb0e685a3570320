"""Positions of a stream to uint8 pixel arrays, with a bounded cache of decoded samples."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataio.decode import Fit, decode_image, decode_views, resize
from dataio.manifest import Manifest, Member
from dataio.records import DataError
from dataio.shards import CONTENT_SUFFIXES, ShardReader, content_member

__all__ = ["FetchError", "PixelReader", "SampleTable"]

_DIGEST_BYTES = 8


class FetchError(DataError):
    """A sample that could not be read; `row` is its row in the manifest."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row, self.reason = row, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return FetchError, (self.row, self.reason)


@dataclass(frozen=True, eq=False)
class SampleTable:
    """Where the pixels of N samples lie: plain arrays, small to send to another process."""

    rows: np.ndarray  # int64 [N], rows in the manifest
    shard_ids: np.ndarray  # int32 [N]
    offsets: np.ndarray  # int64 [N]
    sizes: np.ndarray  # int64 [N]
    suffixes: np.ndarray  # uint8 [N], index into CONTENT_SUFFIXES
    views: np.ndarray  # int16 [N], 0 = a single picture
    digests: np.ndarray  # uint8 [N, 8], first bytes of the SHA-256 of the encoded picture
    stacked: bool  # shapes rather than single pictures

    @classmethod
    def of(cls, manifest: Manifest, rows: np.ndarray) -> SampleTable:
        """The table of `rows`, all of one kind: single pictures or shapes."""
        members = [content_member(manifest, int(row)) for row in rows]
        views = manifest.views[rows]
        if len(set((views > 0).tolist())) > 1:
            raise DataError(f"{manifest.root}: a source mixes shapes with single pictures")
        return cls(
            rows=np.asarray(rows, dtype=np.int64),
            shard_ids=manifest.shard_ids[rows].astype(np.int32),
            offsets=np.array([m.offset for m in members], dtype=np.int64),
            sizes=np.array([m.size for m in members], dtype=np.int64),
            suffixes=np.array([CONTENT_SUFFIXES.index(m.suffix) for m in members], dtype=np.uint8),
            views=views.astype(np.int16),
            digests=_digests(manifest, rows),
            stacked=bool(views[0] > 0),
        )

    def member(self, position: int) -> Member:
        """The byte range of one sample's pixels."""
        suffix = CONTENT_SUFFIXES[self.suffixes[position]]
        return Member(suffix, int(self.offsets[position]), int(self.sizes[position]))


def _digests(manifest: Manifest, rows: np.ndarray) -> np.ndarray:
    """Enough of each hash to meet an accident; whole ones would double what workers are sent."""
    joined = "".join(manifest.content_sha256[row][: 2 * _DIGEST_BYTES] for row in rows)
    return np.frombuffer(bytes.fromhex(joined), dtype=np.uint8).reshape(len(rows), _DIGEST_BYTES)


class PixelReader:
    """Reads, decodes and resizes samples; keeps decoded ones up to `cache_bytes`.

    A single picture counts as one view here, so every array is [n, V, C, S, S].
    """

    def __init__(
        self,
        table: SampleTable,
        reader: ShardReader,
        *,
        image_size: int,
        fit: Fit = "stretch",
        colour: bool = False,
        cache_bytes: int = 0,
    ) -> None:
        """`colour` asks for C = 3 always, else C = 1 where all pictures of a batch are grey."""
        self._table, self._reader = table, reader
        self._fit: Fit = fit
        self._size, self._colour = image_size, colour
        self._most_views = max(1, int(table.views.max()))
        self._budget_bytes = cache_bytes
        self._forget()

    def _forget(self) -> None:
        # Pixels of cached samples by channel count, and each position's place: -1 = not cached.
        self._pools: dict[int, np.ndarray] = {}
        self._used = {1: 0, 3: 0}
        self._channels = np.zeros(len(self._table.rows), dtype=np.uint8)
        self._place = np.full(len(self._table.rows), -1, dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        cache = ("_pools", "_used", "_channels", "_place")
        return {name: value for name, value in self.__dict__.items() if name not in cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def read(self, positions: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Pixels uint8 [n, v, C, S, S] of the chosen views.

        Args:
            positions: int64 [n], samples of the table; one that is repeated is decoded once.
            views: int64 [n, v], view numbers; zeros for single pictures.

        Raises:
            FetchError: a sample cannot be read or decoded.
        """
        places = self._place[positions]
        missing: dict[int, list[int]] = {}  # position -> its places in the batch
        for i in np.flatnonzero(places < 0).tolist():
            missing.setdefault(int(positions[i]), []).append(i)
        fresh = [(at, self._load(position, views[at])) for position, at in missing.items()]
        channels = self._channels[positions]
        grey = not self._colour and len(positions) > 0 and bool((channels == 1).all())
        shape = (len(positions), views.shape[1], 1 if grey else 3, self._size, self._size)
        if not fresh and len(positions) > 0 and bool((channels == shape[2]).all()):
            return self._pools[shape[2]][places[:, None], views]
        out = np.empty(shape, dtype=np.uint8)
        for count, pool in self._pools.items():
            chosen = np.flatnonzero((channels == count) & (places >= 0))
            out[chosen] = pool[places[chosen, None], views[chosen]]
        for at, pixels in fresh:
            out[at] = pixels
        return out

    def _load(self, position: int, views: np.ndarray) -> np.ndarray:
        """One sample's `views` [m, v], uint8 [m, v, C, S, S]; all are cached if they fit."""
        try:
            tiles = self._decode(position)
        except DataError as error:
            raise FetchError(int(self._table.rows[position]), str(error)) from error
        channels = tiles.shape[3]
        self._channels[position] = channels
        if not self._has_room(channels):
            chosen, index = np.unique(views, return_inverse=True)
            pixels = _planes([resize(tiles[v], self._size, fit=self._fit) for v in chosen])
            return pixels[index.reshape(views.shape)]
        pixels = _planes([resize(t, self._size, fit=self._fit) for t in tiles])
        pool, place = self._pools[channels], self._used[channels]
        pool[place, : len(pixels)] = pixels
        self._place[position] = place
        self._used[channels] += 1
        return pixels[views]

    def _decode(self, position: int) -> np.ndarray:
        shard_id = int(self._table.shard_ids[position])
        data = self._reader.read(shard_id, self._table.member(position))
        name = self._reader.path(shard_id)
        # Most flipped bytes decode to a slightly wrong picture; hashing takes a twentieth of the
        # time that decoding does.
        digest = hashlib.sha256(data).digest()[:_DIGEST_BYTES]
        if digest != self._table.digests[position].tobytes():
            raise DataError(
                f"{name}: other content than when it was packed; copy the shard again or pack again"
            )
        if self._table.stacked:
            return decode_views(data, key=name, views=int(self._table.views[position]))
        return decode_image(data, key=name, size=self._size, fit=self._fit)[None]

    def _has_room(self, channels: int) -> bool:
        """Whether one more sample may be kept; makes its pool on first use."""
        item_bytes = self._most_views * self._size**2  # of one channel
        used_bytes = sum(item_bytes * c * n for c, n in self._used.items())
        if used_bytes + item_bytes * channels > self._budget_bytes:
            return False
        if channels not in self._pools:
            room = min(len(self._table.rows), self._budget_bytes // (item_bytes * channels))
            # Memory is taken page by page as samples arrive, not here.
            shape = (room, self._most_views, channels, self._size, self._size)
            self._pools[channels] = np.empty(shape, dtype=np.uint8)
        return True


def _planes(pictures: list[np.ndarray]) -> np.ndarray:
    """[H, W, C] pictures to one contiguous [V, C, H, W]."""
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
