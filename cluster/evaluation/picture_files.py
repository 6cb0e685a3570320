"""Picture files as queries of a run: the pixels and embeddings that packing them would give."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from dataio.loading import StreamSource, apply
from dataio.packing import encode
from dataio.records import Record
from dataio.shards import decode_image
from evalsuite.vectors import Embeddings
from trainer.building import DTYPES
from trainer.extraction import TrainedRun

THUMBNAIL_PIXELS = 240


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
    pixels = decode_image(stored.content, key=str(file), size=source.image_size, fit=source.fit)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


@torch.inference_mode()
def embed_pictures(run: TrainedRun, files: Sequence[Path], *, device: str = "cpu") -> Embeddings:
    """Embeddings of picture files by the run's network, as of its queries; float32 [n, D].

    Keys are "0", "1", ... in the order of ``files``; labels are empty, nobody knows them.

    Raises:
        DataError: a file cannot be read, or is no picture; or the data set cannot be read.
    """
    config = run.config
    source = run.data.evaluation_source(config.data.queries)
    # All files are read before the first one costs time in the network.
    pictures = [query_pixels(file, source) for file in files]
    method, dtype = run.method.to(device).eval(), DTYPES[config.training.precision]
    vectors = []
    for start in range(0, len(pictures), config.evaluation.batch):
        stack = np.stack(pictures[start : start + config.evaluation.batch]).transpose(0, 3, 1, 2)
        pixels = torch.from_numpy(np.ascontiguousarray(stack)).to(device)
        pixels = apply(pixels, None, size=source.image_size)
        vectors.append(method.embed_queries(pixels.to(dtype)).float().cpu().numpy())
    return Embeddings(
        [str(number) for number in range(len(files))], [""] * len(files), np.concatenate(vectors)
    )


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
