"""Cut a gallery into shards, on a CPU or another device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from evalsuite.scoring.gallery import GalleryShard
from evalsuite.vectors import Embeddings, EvaluationError


def partition(labels: Sequence[str], shards: int) -> list[np.ndarray]:
    """Cut gallery rows into ``shards`` parts grouped by label, sizes differing by at most one.

    Returns ascending int64 row indices per shard; parts are empty if there are fewer rows.
    """
    if shards < 1:
        raise EvaluationError(f"shards={shards}: give 1 or more")
    order = np.argsort(np.asarray(labels, dtype=str), kind="stable")
    return [np.sort(part) for part in np.array_split(order, shards)]


def split_gallery(
    gallery: Embeddings, shards: int, *, device: str = "cpu", **options: str
) -> list[GalleryShard]:
    """Build the shards of ``gallery`` in this process, with ``options`` of ``GalleryShard``, in
    numpy or on another torch ``device``."""
    build: Callable[..., GalleryShard] = GalleryShard
    if device != "cpu":
        from evalsuite.scoring.device_gallery import DeviceShard  # imports torch

        build = partial(DeviceShard, device=device)
    return [
        build(
            gallery.vectors if shards == 1 else gallery.vectors[rows],
            [gallery.labels[row] for row in rows],
            rows,
            instances=[gallery.instances[row] for row in rows],
            **options,
        )
        for rows in partition(gallery.labels, shards)
    ]
