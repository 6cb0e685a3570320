"""Solids that the categories are put together from. Metres, Z up, front to -Y."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import mapbox_earcut
import numpy as np
from numpy.typing import ArrayLike, NDArray

Point = Sequence[float] | NDArray[np.floating]


class Solid(NamedTuple):
    """A triangle mesh; windings may be mixed, as in the public shape collections."""

    vertices: NDArray[np.float64]  # [V, 3]
    faces: NDArray[np.int64]  # [F, 3]


_HEXAHEDRON = np.array(
    [
        [0, 2, 1], [0, 3, 2], [4, 5, 6], [4, 6, 7], [0, 1, 5], [0, 5, 4],
        [1, 2, 6], [1, 6, 5], [2, 3, 7], [2, 7, 6], [3, 0, 4], [3, 4, 7],
    ]
)  # fmt: skip


def loft(lower: ArrayLike, upper: ArrayLike) -> Solid:
    """The block between two quadrilaterals [4, 3] with corners in the same order."""
    return Solid(np.vstack([np.asarray(lower, float), np.asarray(upper, float)]), _HEXAHEDRON)


def box(
    center: Point,
    size: Point,
    *,
    taper: tuple[float, float] = (1.0, 1.0),
    shear: tuple[float, float] = (0.0, 0.0),
    yaw: float = 0.0,
) -> Solid:
    """A block of `size`; its top is scaled by `taper` and moved by `shear` in x and y.

    `yaw` turns it about its vertical axis, radians.
    """
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.asarray(size, float)[:2] / 2
    low, high = corners, corners * taper + shear
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cos, sin], [-sin, cos]])
    half = np.full((4, 1), size[2] / 2)
    solid = loft(np.hstack([low @ turn, -half]), np.hstack([high @ turn, half]))
    return Solid(solid.vertices + np.asarray(center, float), solid.faces)


def tube(
    start: Point,
    end: Point,
    radius: float,
    end_radius: float | None = None,
    *,
    sides: int = 12,
    closed: bool = True,
) -> Solid:
    """A cylinder or cone frustum between two points, capped if `closed`."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    along = (b - a) / max(float(np.linalg.norm(b - a)), 1e-9)
    across = np.cross(along, (0.0, 0.0, 1.0))
    if np.linalg.norm(across) < 1e-6:
        across = np.array([1.0, 0.0, 0.0])
    across /= np.linalg.norm(across)
    angle = np.arange(sides) * 2 * np.pi / sides
    ring = np.outer(np.cos(angle), across) + np.outer(np.sin(angle), np.cross(along, across))
    vertices = [a + radius * ring, b + (radius if end_radius is None else end_radius) * ring]
    faces = [_band(sides, 0)]
    if closed:
        i, j = np.arange(sides), np.roll(np.arange(sides), -1)
        vertices.append(np.stack([a, b]))
        faces.append(np.stack([j, i, np.full(sides, 2 * sides)], axis=1))
        faces.append(np.stack([i + sides, j + sides, np.full(sides, 2 * sides + 1)], axis=1))
    return Solid(np.vstack(vertices), np.vstack(faces))


def path(points: Sequence[Point], radius: float, *, sides: int = 6) -> Solid:
    """A round bar along a polyline, one tube a segment."""
    pairs = itertools.pairwise(points)
    return join([tube(a, b, radius, sides=sides) for a, b in pairs])


def revolve(
    profile: Sequence[tuple[float, float]] | NDArray[np.floating],
    *,
    center: Point = (0.0, 0.0, 0.0),
    sides: int = 24,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Solid:
    """The profile of (radius, height) pairs turned about Z; `scale` stretches it in x and y."""
    outline = np.asarray(profile, float)
    angle = np.arange(sides) * 2 * np.pi / sides
    rings = np.empty((len(outline), sides, 3))
    rings[..., 0] = np.outer(outline[:, 0], np.cos(angle)) * scale[0]
    rings[..., 1] = np.outer(outline[:, 0], np.sin(angle)) * scale[1]
    rings[..., 2] = outline[:, 1:2]
    faces = [_band(sides, k * sides) for k in range(len(outline) - 1)]
    return Solid(rings.reshape(-1, 3) + np.asarray(center, float), np.vstack(faces))


def ellipsoid(center: Point, radii: Point, *, sides: int = 16, rings: int = 8) -> Solid:
    """An ellipsoid with half axes `radii`."""
    height = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)
    unit = revolve(np.stack([np.cos(height), np.sin(height)], axis=1), sides=sides)
    return Solid(unit.vertices * np.asarray(radii, float) + np.asarray(center, float), unit.faces)


def extrude(
    outline: ArrayLike, thickness: float, *, center: Point = (0.0, 0.0, 0.0), axis: str = "y"
) -> Solid:
    """A simple polygon [P, 2] given thickness along `axis`, half to each side of `center`.

    The outline's two coordinates are the remaining axes in order: (x, z) for axis y, (y, z) for
    axis x, (x, y) for axis z.
    """
    flat = np.ascontiguousarray(outline, dtype=np.float64)
    count = len(flat)
    through = "xyz".index(axis)
    plane = [k for k in range(3) if k != through]
    vertices = np.zeros((2, count, 3))
    vertices[:, :, plane] = flat
    vertices[:, :, through] = np.array([[-thickness / 2], [thickness / 2]])
    cap = mapbox_earcut.triangulate_float64(flat, np.array([count], np.uint32))
    cap = cap.reshape(-1, 3).astype(np.int64)
    faces = np.vstack([_band(count, 0), cap, cap[:, ::-1] + count])
    return Solid(vertices.reshape(-1, 3) + np.asarray(center, float), faces)


def join(solids: Sequence[Solid]) -> Solid:
    """Several solids as one, unmerged."""
    offsets = np.cumsum([0] + [len(s.vertices) for s in solids[:-1]])
    faces = [s.faces + offset for s, offset in zip(solids, offsets, strict=True)]
    return Solid(np.vstack([s.vertices for s in solids]), np.vstack(faces))


def _band(sides: int, first: int) -> NDArray[np.int64]:
    """Faces between two rings of `sides` vertices, the first of which starts at index `first`."""
    i = np.arange(sides) + first
    j = np.roll(np.arange(sides), -1) + first
    return np.vstack([np.stack([i, j, i + sides], 1), np.stack([j, j + sides, i + sides], 1)])
