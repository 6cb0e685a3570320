"""A shape under construction: solids with a part id each, put together into one mesh."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import trimesh
from numpy.random import Generator

from dataio.datasets.shapes.primitives import Solid, box, join, tube

SIDES = (-1, 1)
CORNERS: tuple[tuple[int, int], ...] = tuple(product(SIDES, SIDES))


class Assembly:
    """Solids and their part ids: parts that would be of one material share an id."""

    def __init__(self) -> None:
        self._solids: list[Solid] = []
        self._parts: list[int] = []

    def add(self, solid: Solid, part: int = 0) -> None:
        self._solids.append(solid)
        self._parts.append(part)

    def add_legs(
        self,
        size: Sequence[float],
        *,
        thickness: float,
        style: int,
        inset: float = 0.04,
        splay: float = 0.0,
        part: int = 1,
    ) -> None:
        """Four legs under a rectangle of size (width, depth), `size[2]` high.

        Style 0 is square, 1 round and splayed outwards by `splay`, 2 tapers towards the floor.
        """
        width, depth, height = size
        for sx, sy in CORNERS:
            x, y = sx * (width / 2 - inset), sy * (depth / 2 - inset)
            if style == 0:
                leg = box((x, y, height / 2), (thickness, thickness, height))
            elif style == 1:
                foot = (x + sx * splay, y + sy * splay, 0.0)
                leg = tube(foot, (x, y, height), thickness * 0.45, thickness * 0.55, sides=8)
            else:
                thin = thickness * 0.5
                leg = box((x, y, height / 2), (thin, thin, height), taper=(1.8, 1.8))
            self.add(leg, part)

    def to_mesh(self, rng: Generator, *, stretch: float = 0.10) -> trimesh.Trimesh:
        """One mesh: stretched by exp(N(0, `stretch`)) along each axis, box centre at the origin,
        farthest vertex at radius 1; `face_attributes["part"]` is int64 [F].
        """
        solid = join(self._solids)
        vertices = solid.vertices * np.exp(rng.normal(0, stretch, 3))
        part = np.repeat(self._parts, [len(s.faces) for s in self._solids])
        a, b, c = (vertices[solid.faces[:, k]] for k in range(3))
        with_area = np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-12
        used, faces = np.unique(solid.faces[with_area], return_inverse=True)
        vertices = vertices[used]
        vertices -= (vertices.min(axis=0) + vertices.max(axis=0)) / 2
        vertices /= np.linalg.norm(vertices, axis=1).max()
        return trimesh.Trimesh(
            vertices=vertices,
            faces=faces.reshape(-1, 3),
            face_attributes={"part": part[with_area]},
            process=False,
        )
