"""Five kinds of background for the photos."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dataio.datasets.pictures.noise import fractal_noise, palette_colour

Floats = NDArray[np.floating]


def ground(rng: Generator, size: int) -> Floats:
    """A random background, RGB 0..1 [size, size, 3]."""
    kind = rng.integers(5)
    make = (_two_colour_noise, _gradient, _room, _coloured_noise, _clutter)[kind]
    return np.clip(make(rng, size) * rng.uniform(0.6, 1.1), 0, 1)


def inside_blob(
    size: int, center: Floats, half: Floats, *, oval: bool, angle: float = 0.0
) -> NDArray[np.bool_]:
    """Pixels [size, size] inside an ellipse (`oval`) or rectangle with half sides (x, y)."""
    x, y = np.arange(size)[None] - center[0], np.arange(size)[:, None] - center[1]
    along = (x * np.cos(angle) + y * np.sin(angle)) / half[0]
    across = (y * np.cos(angle) - x * np.sin(angle)) / half[1]
    if oval:
        return along**2 + across**2 < 1
    return (np.abs(along) < 1) & (np.abs(across) < 1)


def _mixed(a: Floats, b: Floats, share: Floats) -> Floats:
    return b + (a - b) * share[..., None]


def _two_colour_noise(rng: Generator, size: int) -> Floats:
    field = fractal_noise(rng, size, rng.uniform(0.7, 1.6))
    return _mixed(palette_colour(rng), palette_colour(rng), field)


def _gradient(rng: Generator, size: int) -> Floats:
    down = np.repeat(np.linspace(0, 1, size)[:, None], size, axis=1)
    return _mixed(palette_colour(rng), palette_colour(rng), down)


def _room(rng: Generator, size: int) -> Floats:
    """Wall with up to three rectangles, floor textured on 70 %."""
    horizon = int(size * rng.uniform(0.35, 0.75))
    picture = np.empty((size, size, 3))
    picture[:horizon], picture[horizon:] = palette_colour(rng), palette_colour(rng)
    if rng.random() < 0.7:
        picture[horizon:] *= 0.75 + 0.5 * fractal_noise(rng, size, 1.2)[horizon:, :, None]
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.integers(0, size), rng.integers(0, horizon)
        width, height = rng.integers(4, size // 3, 2)
        picture[max(0, y - height) : y, x : x + width] = palette_colour(rng)
    return picture


def _coloured_noise(rng: Generator, size: int) -> Floats:
    return np.stack([fractal_noise(rng, size, 1.0) for _ in range(3)], axis=-1)


def _clutter(rng: Generator, size: int) -> Floats:
    picture = np.broadcast_to(palette_colour(rng), (size, size, 3)).copy()
    for _ in range(int(rng.integers(6, 22))):
        center, half = rng.uniform(0, size, 2), rng.uniform(size * 0.05, size * 0.35, 2)
        angle, oval = rng.uniform(0, np.pi), bool(rng.random() < 0.5)
        picture[inside_blob(size, center, half, oval=oval, angle=angle)] = palette_colour(rng)
    return picture
