"""Photo-like images: a textured, lit shape before a cluttered ground, seen by a poor camera.

`level` moves the difficulty of every step; `tint` is a colour shortcut: a class tends to have its
own hue here, and none at all in the grey views of the target domain.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from dataio.datasets.pictures.grounds import ground, inside_blob
from dataio.datasets.pictures.materials import Surface, paint
from dataio.datasets.pictures.noise import fractal_noise, palette_colour
from dataio.meshes import Camera, Frame, Hits, Scene

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class PhotoSpec:
    """The two knobs of the domain gap, and the picture's size."""

    size: int = 64  # pixels a side
    level: float = 0.5  # 0 = studio, 1 = harsh
    tint: float = 0.7  # probability that a shape takes its class's hue
    samples: int = 2  # per pixel and axis


def photograph(
    scene: Scene, parts: NDArray[np.integer], rng: Generator, *, hue: float, spec: PhotoSpec
) -> NDArray[np.uint8]:
    """One photo, RGB uint8 [size, size, 3], of a scene whose faces belong to `parts` [F].

    `hue` (0..1) is the hue of the shape's class.
    """
    side = spec.size * spec.samples
    hits, eye = _snapshot(scene, rng, spec, side)
    picture = ground(rng, side)
    if len(hits.triangle):
        visible = parts[hits.triangle]
        surface = paint(
            rng, hits.points, visible, hue=hue, tint=spec.tint, roughness=0.9 * spec.level
        )
        lit, gleam = _light(rng, hits, surface, eye, spec.level)
        picture, lit = _set_apart(picture, lit, hits.mask)
        if rng.random() < 0.6:
            picture = picture * (1 - 0.5 * _contact_shadow(hits.mask)[..., None])
        picture[hits.mask] = np.clip(lit + gleam[:, None], 0, 1)
        if rng.random() < 0.3 * spec.level:
            _occlude(rng, picture, hits.mask, spec.level)
    coarse = picture.reshape(spec.size, spec.samples, spec.size, spec.samples, 3).mean(axis=(1, 3))
    return _degrade(rng, coarse, spec)


def _snapshot(scene: Scene, rng: Generator, spec: PhotoSpec, side: int) -> tuple[Hits, Floats]:
    """The cast from a random camera, and the camera's direction from the shape [3]."""
    level = spec.level
    anywhere = rng.random() >= 0.8
    camera = Camera(
        azimuth_degrees=rng.uniform(0, 360) if anywhere else rng.uniform(-100, 100),
        elevation_degrees=rng.uniform(4, 24 + 22 * level),
        roll_degrees=rng.normal(0, 5 * level),
        fov_degrees=rng.uniform(22, 30 + 35 * level),
    )
    shift = 2 * level * rng.uniform(-0.1, 0.1, 2)
    zoom = rng.uniform(1.2 - 0.25 * level, 1.25 + 0.1 * level)
    frame = Frame(shift[0] / zoom, shift[1] / zoom, 1 / zoom)
    return scene.cast(camera, frame.columns(side), frame.rows(side)), camera.axes()[2]


def _light(
    rng: Generator, hits: Hits, surface: Surface, eye: Floats, level: float
) -> tuple[Floats, Floats]:
    """Diffuse colour [K, 3] and white highlight [K] under one tinted light near the camera."""
    light = eye + rng.normal(size=3) * (0.5 + 0.5 * level)
    light[2] = abs(light[2]) + 0.4
    light /= np.linalg.norm(light)
    facing = np.clip(np.einsum("kc,c->k", hits.normals, light), 0, 1)
    shade = rng.uniform(0.3, 0.55) + rng.uniform(0.5, 0.8) * facing
    lit = surface.colour * shade[:, None] * rng.uniform(0.85, 1.15, 3)
    half = hits.to_viewer + light
    half /= np.maximum(np.sqrt((half**2).sum(axis=1, keepdims=True)), 1e-6)
    gleam = surface.gloss * np.clip((hits.normals * half).sum(axis=1), 0, 1) ** 20
    return lit, gleam


def _set_apart(picture: Floats, lit: Floats, mask: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Keep the shape visible: mean brightness >= .28 and about .16 or more from the ground's."""
    brightness, behind = lit.mean(), picture[mask].mean()
    if brightness < 0.28:
        lit = lit * (0.28 / max(brightness, 1e-3))
        brightness = lit.mean()
    if abs(brightness - behind) < 0.16:
        picture = np.clip(picture + (0.22 if behind > brightness else -0.22), 0, 1)
    return picture, lit


def _contact_shadow(mask: NDArray[np.bool_]) -> Floats:
    """A soft dark ellipse where the shape stands, 0..1 [S, S]."""
    size = len(mask)
    rows, columns = np.nonzero(mask)
    center = np.array([columns.mean(), rows.max() - 0.06 * size])
    half = np.array([max(2.0, np.ptp(columns) * 0.5), max(2.0, 0.07 * size)])
    shadow = inside_blob(size, center, half, oval=True).astype(np.float32)
    return ndimage.gaussian_filter(shadow, size * 0.03)


def _occlude(rng: Generator, picture: Floats, mask: NDArray[np.bool_], level: float) -> None:
    """Paint something over a part of the shape, in place."""
    size = len(mask)
    rows, columns = np.nonzero(mask)
    center = np.array([columns[rng.integers(len(columns))], rows[rng.integers(len(rows))]], float)
    half = rng.uniform(0.06, 0.06 + 0.16 * level, 2) * size
    field = fractal_noise(rng, size, 1.0)[..., None]
    cover = palette_colour(rng) * field + palette_colour(rng) * (1 - field)
    inside = inside_blob(size, center, half, oval=bool(rng.random() < 0.5))
    picture[inside] = cover[inside]


def _degrade(rng: Generator, picture: Floats, spec: PhotoSpec) -> NDArray[np.uint8]:
    """Contrast, brightness, blur, sensor noise and, on half, a hard JPEG pass."""
    level = spec.level
    contrast, brightness = rng.uniform(1 - 0.25 * level, 1 + 0.25 * level), rng.normal(0, 0.05)
    picture = np.clip((picture - 0.5) * contrast + 0.5 + brightness * level, 0, 1)
    if rng.random() < 0.5 * level:
        sigma = rng.uniform(0.3, 0.9) * spec.size / 64
        picture = ndimage.gaussian_filter(picture, (sigma, sigma, 0))
    noise = rng.normal(0, rng.uniform(0, 0.04 * level), picture.shape)
    pixels = (np.clip(picture + noise, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(40, 95)))
        pixels = np.asarray(Image.open(buffer))
    return pixels
