"""Rays against triangle meshes: cameras round the unit sphere and one Embree cast per picture.

Conventions: Z is up, the front of a shape looks to -Y, the shape lies in the unit sphere at the
origin. A camera's image plane is scaled so that the square [-1, 1]² just holds that sphere.
Shape legend: N rays, K rays that hit, H and W picture rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

_ORTHOGRAPHIC_DISTANCE = 4.0  # anywhere outside the unit sphere

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Camera:
    """A camera that looks at the origin.

    Azimuth 0 stands at -Y and grows counter-clockwise seen from above, so 90 degrees stands at +X.
    `fov_degrees` 0 means orthographic; otherwise the distance is the one at which the unit sphere
    touches the sides of the field of view.
    """

    azimuth_degrees: float
    elevation_degrees: float
    fov_degrees: float = 0.0
    roll_degrees: float = 0.0

    @property
    def distance(self) -> float:
        if self.fov_degrees == 0:
            return _ORTHOGRAPHIC_DISTANCE
        return float(1.0 / np.sin(np.radians(self.fov_degrees) / 2))

    def axes(self) -> Floats:
        """float64 [3, 3]: rows are the unit vectors right, up and back (towards the camera)."""
        azimuth, elevation, roll = np.radians(
            [self.azimuth_degrees, self.elevation_degrees, self.roll_degrees]
        )
        sin_a, cos_a = np.sin(azimuth), np.cos(azimuth)
        sin_e, cos_e = np.sin(elevation), np.cos(elevation)
        back = np.array([sin_a * cos_e, -cos_a * cos_e, sin_e])
        right = np.array([cos_a, sin_a, 0.0])
        up = np.array([-sin_e * sin_a, sin_e * cos_a, cos_e])
        turned_right = right * np.cos(roll) + up * np.sin(roll)
        return np.stack([turned_right, up * np.cos(roll) - right * np.sin(roll), back])

    def project(self, points: Floats) -> Floats:
        """Image plane coordinates (right, up) [N, 2] of world points [N, 3]."""
        # Element by element: a BLAS product may round differently with another thread count.
        seen = np.einsum("nk,ck->nc", points, self.axes())
        if self.fov_degrees == 0:
            return seen[:, :2]
        tangent = np.tan(np.radians(self.fov_degrees) / 2)
        return seen[:, :2] / ((self.distance - seen[:, 2:]) * tangent)

    def rays(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Origins and directions, float32 [H * W, 3], through the grid of x [W] and y [H].

        A direction has length 1 along the optical axis, so a hit's ray parameter is its depth.
        """
        right, up, back = self.axes()
        across = np.outer(x, right).astype(np.float32) + np.outer(y, up).astype(np.float32)[:, None]
        across = across.reshape(-1, 3)
        eye = (self.distance * back).astype(np.float32)
        forward = -back.astype(np.float32)
        origins, directions = np.empty_like(across), np.empty_like(across)
        if self.fov_degrees == 0:
            np.add(across, eye, out=origins)
            directions[:] = forward
        else:
            origins[:] = eye
            across *= np.float32(np.tan(np.radians(self.fov_degrees) / 2))
            np.add(across, forward, out=directions)
        return origins, directions


@dataclass(frozen=True)
class Frame:
    """The square of the image plane that a picture shows."""

    center_x: float = 0.0
    center_y: float = 0.0
    half: float = 1.0

    def columns(self, size: int) -> Floats:
        """Plane x of the pixel centres of a picture `size` wide, float64 [size]."""
        return self.center_x + self.half * ((2 * np.arange(size) + 1) / size - 1)

    def rows(self, size: int) -> Floats:
        """Plane y of the pixel centres, top row first, float64 [size]."""
        return self.center_y - self.half * ((2 * np.arange(size) + 1) / size - 1)


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
