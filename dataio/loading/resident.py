"""All pictures of a stream on the training device, decoded once, for data sets that fit there."""

from __future__ import annotations

import os

import numpy as np
import torch

from dataio.device import to_device
from dataio.loading.batch import Stream
from dataio.loading.fetch import FetchError, shown_channels
from dataio.records import DataError
from dataio.shards import HEADER_BYTES

_PART_BYTES = 8 << 20
_KEPT_FREE = 0.2  # share of the free memory that is left alone


class StreamParts:
    """All samples of a stream in order, cut into parts, as a map-style data set.

    An item is (position of its first sample, pixels uint8 [n, V, C, S, S], each sample's own C as
    uint8 [n]), or a FetchError in its place.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._samples = len(stream.table.rows)
        self.shape = self._samples, max(1, int(stream.table.views.max()))
        self._size = max(1, _PART_BYTES // (self.shape[1] * 3 * stream.image_size**2))

    def __len__(self) -> int:
        return -(-self._samples // self._size)

    @property
    def stored_bytes(self) -> int:
        """Bytes of shards that are read for all parts, headers included."""
        return int(self._stream.table.sizes.sum()) + HEADER_BYTES * self._samples

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, np.ndarray] | FetchError:
        start = index * self._size
        positions = np.arange(start, min(start + self._size, self._samples))
        try:
            return start, *self._stream.reader.read(positions, self._stream.all_views(positions))
        except FetchError as error:
            return error


class Resident:
    """One stream's pixels uint8 [N, V, C, S, S] on a device; fill it with `add` before use."""

    def __init__(self, stream: Stream, *, name: str, device: torch.device | str) -> None:
        """`name` is the stream's name in errors."""
        self.parts = StreamParts(stream)
        self._name, self._device = name, torch.device(device)
        self._colour, self._stacked = stream.reader.colour, stream.table.stacked
        self._channels = np.zeros(self.parts.shape[0], dtype=np.uint8)
        side = stream.image_size
        self._pixels = torch.empty(*self.parts.shape, 0, side, side, dtype=torch.uint8)

    def add(self, start: int, pixels: torch.Tensor, channels: np.ndarray) -> None:
        """Take one of `parts`; DataError if the stream does not fit on the device."""
        if pixels.shape[2] > self._pixels.shape[2]:  # the first part, or the first with colour
            self._pixels = self._widened(pixels.shape[2])
        end = start + len(pixels)
        self._pixels[start:end] = pixels.to(self._device)
        self._channels[start:end] = channels

    @property
    def held_bytes(self) -> int:
        """Bytes of pixels on the device."""
        return self._pixels.nbytes

    def pixels(self, positions: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """What PixelReader gives for these positions int64 [n] and views int64 [n, v]."""
        shown = shown_channels(self._channels[positions.numpy()], colour=self._colour)
        places = positions[:, None] * self.parts.shape[1] + views
        flat = self._pixels.flatten(0, 1).index_select(0, to_device(places.flatten(), self._device))
        found = flat.unflatten(0, places.shape)[:, :, :shown].expand(-1, -1, shown, -1, -1)
        return found if self._stacked else found[:, 0]

    def _widened(self, channels: int) -> torch.Tensor:
        shape = *self.parts.shape, channels, *self._pixels.shape[-2:]
        need, free = int(np.prod(shape)), free_bytes(self._device)
        if need > (1 - _KEPT_FREE) * free:
            raise DataError(
                f"training.cache=device: stream {self._name!r} needs {need / 2**30:.2f} GiB on "
                f"{self._device}, where {free / 2**30:.2f} GiB are free and a fifth of them is "
                "left alone; use training.cache=ram"
            )
        wide = torch.empty(shape, dtype=torch.uint8, device=self._device)
        if self._pixels.shape[2]:
            wide[:] = self._pixels
        return wide


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, or this machine's for the CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
