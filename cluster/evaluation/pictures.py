"""Pictures: of samples by key for pages, and files as queries of a run, beside texts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from dataio.loading import StreamSource, apply, walk
from dataio.packing import encode
from dataio.records import Record
from dataio.shards import decode_image
from evalsuite.vectors import Embeddings
from trainer.building import DTYPES
from trainer.extraction import TrainedRun
from trainer.inputs import OpenData

SAMPLE_PIXELS = 96
VIEW = 1  # the second of twelve views: 30 degrees off the front shows two sides
THUMBNAIL_PIXELS = 240


class SamplePictures:
    """``pictures(keys)`` gives PNG bytes of those keys that the data sets of the runs hold.

    A query is its image, a shape its three-quarter view.
    """

    def __init__(self, runs: Sequence[OpenData]) -> None:
        self._sources = [
            data.evaluation_source(selection, pictures=True)
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
        image.thumbnail((SAMPLE_PIXELS, SAMPLE_PIXELS))
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        return file.getvalue()


def query_pixels(file: Path, source: StreamSource) -> np.ndarray:
    """The pixels uint8 [S, S, 3] of ``file`` as a query of ``source``.

    The file is encoded as ``img2shape data pack`` would (shrunk to the data set's size, coded anew
    where that changes it) and decoded as the loader does, so a packed picture and its original give
    the same pixels.

    Raises:
        DataError: naming the file: it cannot be read, or is no picture.
    """
    record = Record("query", "image", "test", None, image=file)
    packed = source.manifest.metadata.get("options")
    size = packed.get("image_size") if isinstance(packed, dict) else None  # a union has none
    stored = encode(record, image_size=size, views="stack", render=None)
    pixels = decode_image(
        stored.content,
        key=str(file),
        size=source.decoded_size,
        fit=source.fit,
        interpolation=source.preprocessing.interpolation,
    )
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


@torch.inference_mode()
def embed_pictures(run: TrainedRun, files: Sequence[Path], *, device: str = "cpu") -> Embeddings:
    """Embeddings of picture files by the run's network, as of its queries; float32 [n, D].

    Keys are "0", "1", ... in the order of ``files``; labels are empty, since they are unknown.

    Raises:
        DataError: a file cannot be read, or is no picture; or the data set cannot be read.
    """
    config = run.config
    source = run.data.evaluation_source(config.data.queries, pictures=True)
    # All files are read before the first one costs time in the network.
    pictures = [query_pixels(file, source) for file in files]
    method, dtype = run.method.to(device).eval(), DTYPES[config.training.precision]
    vectors = []
    for start in range(0, len(pictures), config.evaluation.batch):
        stack = np.stack(pictures[start : start + config.evaluation.batch]).transpose(0, 3, 1, 2)
        pixels = torch.from_numpy(np.ascontiguousarray(stack)).to(device)
        pixels = apply(pixels, None, size=source.image_size, preprocessing=source.preprocessing)
        vectors.append(method.embed_queries(pixels.to(dtype)).float().cpu().numpy())
    return Embeddings(
        [str(number) for number in range(len(files))], [""] * len(files), np.concatenate(vectors)
    )


@torch.inference_mode()
def embed_texts(run: TrainedRun, texts: Sequence[str], *, device: str = "cpu") -> Embeddings:
    """Embeddings of texts by the text tower of the run's trunk; float32 [n, D].

    Keys and labels as of :func:`embed_pictures`.

    Raises:
        NetworkError: the run's embeddings cannot be compared with texts.
    """
    vectors = run.method.to(device).eval().embed_texts(texts).float().cpu().numpy()
    return Embeddings([str(number) for number in range(len(texts))], [""] * len(texts), vectors)


def thumbnail(file: Path) -> bytes:
    """PNG bytes of a small square with the whole picture in it, upright, on white.

    Raises:
        DataError: as ``query_pixels``.
    """
    pixels = decode_image(file.read_bytes(), key=str(file))
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    written = io.BytesIO()
    ImageOps.pad(picture, (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), color="white").save(written, "PNG")
    return written.getvalue()
