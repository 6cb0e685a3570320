"""Line sketches: the edges of a shape, bent by an unsteady hand and broken into strokes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from dataio.datasets.pictures.noise import fractal_noise
from dataio.meshes import Camera, Frame, Hits, Scene

Floats = NDArray[np.floating]

_AZIMUTHS_DEGREES = (0, 30, 45, -30, -45, 90)
_ELEVATIONS_DEGREES = (8, 20, 30)
_DEPTH_STEP = 0.05  # unit sphere radii
_INK = 0.92  # darkness of a stroke
_PAGE_MARGIN = 0.12


@dataclass(frozen=True)
class SketchSpec:
    """The sketch's size; it is drawn `scale` times larger and reduced."""

    size: int = 64  # pixels a side
    scale: int = 4


def draw_sketch(scene: Scene, rng: Generator, *, spec: SketchSpec) -> NDArray[np.uint8]:
    """One sketch, dark strokes on white, grey uint8 [size, size]."""
    side = spec.size * spec.scale
    camera = Camera(
        azimuth_degrees=rng.choice(_AZIMUTHS_DEGREES) + rng.normal(0, 12),
        elevation_degrees=rng.choice(_ELEVATIONS_DEGREES) + rng.normal(0, 6),
        fov_degrees=30.0,
    )
    frame = Frame(half=1.05)  # room for the hand's swing at the sides
    hits = scene.cast(camera, frame.columns(side), frame.rows(side))
    edges = _edges(hits, turn=rng.uniform(0.12, 0.5))
    strokes = _unsteady(rng, edges) * _lifted_pen(rng, side)
    width = int(rng.integers(2, 5)) * spec.scale // 4 + 1
    drawn = strokes > 0.3
    if not drawn.any():  # every stroke was dropped; keep the edges whole
        drawn = edges
    ink = np.asarray(ndimage.maximum_filter(drawn, size=width), dtype=bool)
    return _page(ink, spec.size)


def _edges(hits: Hits, *, turn: float) -> NDArray[np.bool_]:
    """Pixels where the silhouette ends, the depth jumps or the surface turns, [S, S]."""
    mask = hits.mask
    normals = np.zeros((*mask.shape, 3), np.float32)
    normals[mask] = hits.normals
    far = hits.depth[mask].max() + 1 if mask.any() else 1.0
    depth = np.where(mask, hits.depth, far)
    edges = np.zeros(mask.shape, bool)
    for here, before in (
        (np.s_[1:, :], np.s_[:-1, :]),
        (np.s_[:, 1:], np.s_[:, :-1]),
    ):
        turned = 1 - np.einsum("ijc,ijc->ij", normals[here], normals[before]) > turn
        jumped = np.abs(depth[here] - depth[before]) > _DEPTH_STEP
        edges[here] |= jumped | (turned & mask[here])
    return edges


def _unsteady(rng: Generator, edges: NDArray[np.bool_]) -> Floats:
    """The edges bent by a slow and a quick random field, 0..1 [S, S]."""
    size = len(edges)
    at = np.indices(edges.shape).astype(np.float32)
    for axis in range(2):
        for swing, slope in ((0.07, 1.9), (0.012, 1.2)):
            at[axis] += (fractal_noise(rng, size, slope) - 0.5) * swing * size
    return ndimage.map_coordinates(edges.astype(np.float32), at, order=1)


def _lifted_pen(rng: Generator, size: int) -> NDArray[np.bool_]:
    field = fractal_noise(rng, size, 1.2)
    return field > rng.uniform(0.0, 0.42)


def _page(ink: NDArray[np.bool_], size: int) -> NDArray[np.uint8]:
    """The drawing scaled to the page less its margin, centred on white."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = size * (1 - _PAGE_MARGIN) / max(crop.shape)
    height, width = (max(1, round(side * scale)) for side in crop.shape)
    image = Image.fromarray(crop.astype(np.float32))
    small = np.asarray(image.resize((width, height), Image.Resampling.BOX))
    page = np.zeros((size, size), np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    page[top : top + height, left : left + width] = small
    return np.rint(255 * (1 - _INK * page)).astype(np.uint8)
