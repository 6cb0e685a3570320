"""What a part looks like: a colour, a texture in object space, a gloss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dataio.datasets.pictures.noise import palette_colour, tinted_colour

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Surface:
    """Colour and gloss of the visible points."""

    colour: Floats  # [K, 3]
    gloss: Floats  # [K]


def paint(
    rng: Generator,
    points: Floats,
    parts: NDArray[np.integer],
    *,
    hue: float,
    tint: float,
    roughness: float,
) -> Surface:
    """Colours of visible points [K, 3] that belong to `parts` [K].

    With probability `tint` the shape takes the class's `hue` (0..1) on most parts, otherwise a
    random base colour that shows through less. `roughness` bounds the strength of the textures.
    """
    base, share = palette_colour(rng), 0.4
    if rng.random() < tint:
        base, share = tinted_colour(rng, hue), 0.85
    colour, gloss = np.zeros(points.shape), np.zeros(len(points))
    for part in np.unique(parts):
        inside = parts == part
        main = palette_colour(rng)
        if rng.random() < 0.5 + 0.5 * share:
            main = main * (1 - share) + base * share
        other = np.clip(main + rng.normal(0, 0.25, 3), 0, 1)
        blend = solid_texture(rng, points[inside]) * rng.uniform(0, roughness)
        colour[inside] = main + blend[:, None] * (other - main)
        gloss[inside] = rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0
    return Surface(colour, gloss)


def solid_texture(rng: Generator, points: Floats) -> Floats:
    """One of six textures at points [K, 3], values 0..1 [K]: plain, stripes, checker, marble,
    wood rings, blobs."""
    kind = rng.integers(6)
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    frequency = rng.uniform(4, 22)
    x, y, z = np.asarray(points, np.float64).T * frequency
    if kind == 0:
        return np.zeros(len(points))
    if kind == 1:
        return ((x * axis[0] + y * axis[1] + z * axis[2]) * 2 % (2 * np.pi) < np.pi).astype(float)
    if kind == 2:
        return (np.floor(x / 3) + np.floor(y / 3) + np.floor(z / 3)) % 2
    if kind == 3:
        return 0.5 + 0.5 * np.sin(x + 2 * np.sin(y / 2) + 1.5 * np.sin(z * 0.65))
    if kind == 4:
        return _wood_rings(rng, points, axis, frequency)
    return (np.sin(x) * np.sin(y) * np.sin(z) > 0.15).astype(float)


def _wood_rings(rng: Generator, points: Floats, axis: Floats, frequency: float) -> Floats:
    wave = np.einsum("kc,c->k", points, rng.normal(size=3) * 5)
    from_axis = np.cross(points, axis) + 0.1 * np.sin(wave)[:, None]
    return 0.5 + 0.5 * np.sin(3 * frequency * np.sqrt((from_axis**2).sum(axis=1)))
