"""Pictures for the loader's benchmark: grey views of lit ellipsoids, and photos of noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dataio.records import Record

__all__ = ["SIDE", "VIEWS", "write_photos", "write_shapes"]

VIEWS, SIDE = 12, 224
_PHOTO_SIZE = (500, 375)


def write_shapes(folder: Path, *, count: int, suffix: str) -> Iterator[Record]:
    """Shapes as VIEWS grey pictures SIDE×SIDE each, one file a view; `suffix` is png or jpg."""
    for number in range(count):
        rng = np.random.default_rng([0, number])
        parts = rng.uniform([-0.5, -0.5, -0.3, 0.1], [0.5, 0.5, 0.3, 0.35], (6, 4))
        paths = []
        for view in range(VIEWS):
            path = folder / f"{number:05d}" / f"{view:02d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(_rendered(parts, 2 * np.pi * view / VIEWS))
            picture.save(path, quality=92)  # PNG has none
            paths.append(path)
        yield Record(f"s{number:05d}", "shape", "train", f"c{number % 10}", views=tuple(paths))


def write_photos(folder: Path, *, count: int) -> Iterator[Record]:
    """Colour JPEGs of 500×375 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = _PHOTO_SIZE
    for number in range(count):
        rng = np.random.default_rng([1, number])
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(_PHOTO_SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
        pixels = np.clip(smooth + rng.integers(-12, 13, (height, width, 3)), 0, 255)
        path = folder / f"{number:05d}.jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)
        yield Record(f"p{number:05d}", "image", "train", f"c{number % 10}", image=path)


def _rendered(parts: np.ndarray, angle: float) -> np.ndarray:
    """Ellipsoids [k, (x, y, z, radius)] lit from the front, seen from `angle`, on white."""
    grid = np.linspace(-1, 1, SIDE, dtype=np.float32)
    x, z = grid[None, :], grid[:, None]
    depth = np.full((SIDE, SIDE), np.inf, dtype=np.float32)
    shade = np.full((SIDE, SIDE), 255, dtype=np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    for px, py, pz, radius in parts:
        inside = 1 - ((x - (cos * px - sin * py)) ** 2 + (z - pz) ** 2) / radius**2
        height = np.sqrt(np.maximum(inside, 0))
        distance = (sin * px + cos * py) - radius * height
        front = (inside > 0) & (distance < depth)
        depth[front], shade[front] = distance[front], (77 + 153 * height)[front]
    return shade.astype(np.uint8)
