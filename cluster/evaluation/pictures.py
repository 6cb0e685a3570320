"""Pictures of samples by key, for reports: the query image, or a three-quarter view of a shape."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from dataio.loading import StreamSource, walk
from trainer.inputs import OpenData

VIEW = 1  # the second of twelve views: 30 degrees off the front shows two sides


class Pictures:
    """``pictures(keys)`` gives PNG bytes for those keys that the runs' data sets hold."""

    def __init__(self, runs: Sequence[OpenData], *, side: int = 96) -> None:
        self._side = side
        self._sources = [
            data.evaluation_source(selection)
            for data in runs
            for selection in (data.config.data.queries, data.config.data.gallery)
        ]

    def __call__(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        found: dict[str, bytes] = {}
        for source in self._sources:
            wanted = set(keys) - set(found)
            rows = [row for row in source.rows if source.manifest.keys[row] in wanted]
            found |= self._read(replace(source, rows=np.array(rows)), len(rows))
        return found

    def _read(self, source: StreamSource, count: int) -> dict[str, bytes]:
        if count == 0:
            return {}
        return {
            key: self._png(pixels.numpy())
            for batch in walk(source, batch=64)
            for key, pixels in zip(batch.keys, batch.pixels, strict=True)
        }

    def _png(self, pixels: np.ndarray) -> bytes:
        """PNG of ``[C, H, W]``, or of one view of ``[V, C, H, W]``."""
        if pixels.ndim == 4:
            pixels = pixels[min(VIEW, len(pixels) - 1)]
        array = pixels.transpose(1, 2, 0)
        image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
        image.thumbnail((self._side, self._side))
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        return file.getvalue()
