"""The view cameras: where they stand, which rays they cast, and the ring of a shape's views.

Conventions: Z is up, the front of a shape looks to -Y, the shape lies in the unit sphere at the
origin. A camera's image plane is scaled so that the square [-1, 1]² just holds that sphere.
:class:`~dataio.meshes.rendering.RenderSpec` says how many views there are, from which height and at
which first angle: by default twelve views from 30 degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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


def ring_camera(
    view: int,
    views: int,
    *,
    first_azimuth_degrees: float,
    elevation_degrees: float,
    fov_degrees: float,
) -> Camera:
    """Camera `view`, 0-based, of `views` equally spaced ones, counter-clockwise seen from above."""
    azimuth = first_azimuth_degrees + 360.0 * view / views
    return Camera(azimuth, elevation_degrees, fov_degrees)
