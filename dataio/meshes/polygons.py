"""Polygons to triangles that cover the polygon's own area, concave or not.

Shape legend: R polygons, F triangles, V vertices, C corners of one polygon.
"""

from __future__ import annotations

import mapbox_earcut
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_SLIVER = 1e-9  # share of a polygon's area that rounding may fold over


def fans(first: Indices, corners: Indices) -> tuple[Indices, Indices]:
    """Where the corners of triangles stand, [F, 3], and the polygon [F] of each triangle.

    Polygon r has `corners[r]` corners, which stand from `first[r]` on; it becomes a fan round its
    first corner. Polygons of fewer than three corners give no triangle.
    """
    count = np.maximum(corners - 2, 0)
    polygon = np.repeat(np.arange(len(count)), count)
    step = np.arange(len(polygon)) - np.repeat(np.cumsum(count) - count, count)
    return first[polygon, None] + np.stack([0 * step, step + 1, step + 2], axis=1), polygon


def strip(corners: Indices) -> Indices:
    """Triangles [F, 3] of one strip [F + 2], all turning as the first."""
    if len(corners) < 3:
        return np.zeros((0, 3), np.int64)
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    faces[1::2] = faces[1::2, [0, 2, 1]]
    return faces


def unfolded(vertices: Floats, faces: Indices, polygon: Indices) -> Indices:
    """The fans `faces` [F, 3] with those that fold cut anew, polygons in their order.

    A fan folds where it is no triangulation of its polygon: one of its triangles turns against the
    polygon's Newell normal. Such a polygon is cut by ear clipping in the plane of that normal, also
    one whose hole is joined to its outline by a double edge. One that crosses itself has no area of
    its own; it keeps its fan.

    `vertices` is [V, 3], `polygon` [F] ascending numbers the fan that each face is of.
    """
    if not len(faces):
        return faces
    first = np.flatnonzero(np.diff(polygon, prepend=polygon[0] - 1))
    several = np.diff(first, append=len(faces)) > 1
    if not several.any():
        return faces
    number = np.cumsum(np.bincount(first, minlength=len(faces))) - 1  # 0, 1, .. of each fan
    origin = vertices[faces[:, 0]]
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are refused later
        turned = np.cross(vertices[faces[:, 1]] - origin, vertices[faces[:, 2]] - origin)
        normals = np.add.reduceat(turned, first)  # Newell's, twice the area long
        along = (turned * normals[number]).sum(axis=1)
        folded = along < -_SLIVER * (normals[number] ** 2).sum(axis=1)
    pieces = []
    done = 0
    for fan in np.unique(number[folded]).tolist():
        start = first[fan]
        end = first[fan + 1] if fan + 1 < len(first) else len(faces)
        corners = np.concatenate([faces[start, :2], faces[start:end, 2]])
        cut = _ears(vertices[corners], normals[fan])
        if cut is not None:
            pieces += [faces[done:start], corners[cut]]
            done = end
    return np.concatenate([*pieces, faces[done:]])


def _ears(points: Floats, normal: Floats) -> Indices | None:
    """Triangles [F, 3] of the corners of a polygon [C, 3]; None if it crosses itself."""
    length = np.linalg.norm(normal)
    if not (length > 0 and np.isfinite(points).all()):
        return None
    across = np.eye(3)[np.argmin(np.abs(normal))]
    right = np.cross(normal, across)
    right /= np.linalg.norm(right)
    up = np.cross(normal, right) / length
    flat = (points - points[0]) @ np.stack([right, up], axis=1)
    found = mapbox_earcut.triangulate_float64(flat, np.array([len(flat)], np.uint32))
    cut = found.astype(np.int64).reshape(-1, 3)
    a, b, c = (flat[cut[:, k]] for k in range(3))
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    turned = ux * vy - uy * vx
    if not np.isclose(np.abs(turned).sum(), length, rtol=1e-6):
        return None
    return np.where((turned < 0)[:, None], cut[:, ::-1], cut)
