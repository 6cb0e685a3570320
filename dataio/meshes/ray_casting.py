"""Rays against triangle meshes: one Embree cast per picture.

Shape legend: N rays, K rays that hit, F faces, V vertices, H and W picture rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from dataio.meshes.cameras import Camera, Floats


@dataclass(frozen=True)
class Hits:
    """What one cast found. The [K, ...] arrays run over the hit pixels in row-major order."""

    mask: NDArray[np.bool_]  # [H, W] the ray met the shape
    depth: Floats  # [H, W] along the optical axis; inf where nothing was hit
    triangle: NDArray[np.int32]  # [K] face index
    barycentric: Floats  # [K, 3] weights of the face's three corners
    points: Floats  # [K, 3] world coordinates
    normals: Floats  # [K, 3] unit face normals, turned to the viewer
    directions: Floats  # [K, 3] of the rays, not of unit length

    @property
    def to_viewer(self) -> Floats:
        """Unit vectors from the hit points to the camera, [K, 3]."""
        length = np.sqrt(_dot(self.directions, self.directions))
        return -self.directions / length[:, None]


@lru_cache(maxsize=1)
def _device() -> EmbreeDevice:
    return EmbreeDevice()


def face_normals(vertices: Floats, faces: NDArray[np.integer]) -> Floats:
    """Unit normals [F, 3] by the right-hand rule; zero for a face without area."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)


class Scene:
    """A mesh ready for casting; build once, cast any number of pictures.

    `vertices` [V, 3] should lie in the unit sphere; `faces` [F, 3] index them.
    """

    def __init__(self, vertices: Floats, faces: NDArray[np.integer]) -> None:
        self.vertices = np.ascontiguousarray(vertices, dtype=np.float32)
        self.faces = np.ascontiguousarray(faces, dtype=np.int32)
        self.face_normals = face_normals(self.vertices, self.faces)
        self._scene = EmbreeScene(_device())
        self._mesh = TriangleMesh(self._scene, self.vertices, self.faces)

    def cast(self, camera: Camera, x: Floats, y: Floats) -> Hits:
        """Cast one ray through each point of the grid of plane columns x [W] and rows y [H]."""
        origins, directions = camera.rays(x, y)
        found = self._scene.run(origins, directions, output=True)
        hit = np.flatnonzero(found["primID"] >= 0)
        towards, ray_depth = directions[hit], found["tfar"][hit]
        triangle = found["primID"][hit]
        depth = np.full(len(origins), np.inf, np.float32)
        depth[hit] = ray_depth
        u, v = found["u"][hit], found["v"][hit]
        normals = self.face_normals[triangle]
        normals[_dot(normals, towards) > 0] *= -1
        shape = (len(y), len(x))
        return Hits(
            mask=(found["primID"] >= 0).reshape(shape),
            depth=depth.reshape(shape),
            triangle=triangle,
            barycentric=np.stack([1 - u - v, u, v], axis=1),
            points=origins[hit] + ray_depth[:, None] * towards,
            normals=normals,
            directions=towards,
        )

    def covered(self, camera: Camera, x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Hit mask only, bool [H, W]; cheaper than `cast`."""
        origins, directions = camera.rays(x, y)
        return (self._scene.run(origins, directions) >= 0).reshape(len(y), len(x))


def _dot(a: Floats, b: Floats) -> Floats:
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]
