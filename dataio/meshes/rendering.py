"""Mesh -> views: the ring of pictures that stands for a shape.

The default preset `mvcnn_v1` follows the renderer released with MVCNN (Su et al., ICCV 2015,
`suhangpro/mvcnn`, `utils/render_views.m`): 12 views 30 degrees apart from 30 degrees above, flat
two-sided headlight with ambient .3 and diffuse .6, white ground, and each view scaled so that the
shape fills at most 90 % of the side and 30 % of the area. `mvcnn_pt` follows the later PyTorch
release's scene (orthographic, black, smooth). `fixed_scale` keeps one scale for all views.

View k (1-based) stands at azimuth 30 (k - 1) degrees: 001 looks from -Y, 004 from +X.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import trimesh
from numpy.typing import NDArray

from dataio.meshes.cameras import Camera, Floats, Frame, ring_camera
from dataio.meshes.ray_casting import Hits, Scene
from dataio.names import nearest
from dataio.records import DataError

MAX_FACES = 5_000_000  # of one mesh

_PROBE_LINES = 64  # per side, to estimate the silhouette's area before framing
_CREASE_COSINE = float(np.cos(np.radians(45)))
_MAX_FAN = 32  # faces round one vertex

Indices = NDArray[np.integer]


@dataclass(frozen=True)
class RenderSpec:
    """Everything that decides the pixels of a shape's views. Stored, with its hash, beside them."""

    name: str = "mvcnn_v1"
    views: int = 12  # equally spaced, counter-clockwise seen from above
    size: int = 224  # pixels a side
    first_azimuth_degrees: float = 0.0  # 0 looks from -Y
    elevation_degrees: float = 30.0
    fov_degrees: float = 12.0  # 0 = orthographic
    framing: Literal["silhouette", "sphere"] = "silhouette"  # per-view crop | one scale for all
    margin: float = 0.1  # share of the side that stays ground
    max_area: float = 0.3  # largest share of the pixels the shape may cover (silhouette framing)
    shading: Literal["flat", "phong"] = "flat"
    ambient: float = 0.3
    diffuse: float = 0.6
    specular: float = 0.0
    shininess: float = 20.0
    light: tuple[float, float, float] = (0.0, 0.0, 1.0)  # camera's right, up, back; (0,0,1) = head
    ground: float = 1.0  # grey level 0..1
    samples: int = 2  # per pixel and axis
    up_axis: Literal["+z", "+y"] = "+z"  # of the meshes; "+y" turns +y to +Z and -z to -Y

    def __post_init__(self) -> None:
        limits = {
            "views": self.views >= 1,
            "size": self.size >= 8,
            "samples": self.samples >= 1,
            "margin": 0 <= self.margin < 1,
            "max_area": 0 < self.max_area <= 1,
            "fov_degrees": 0 <= self.fov_degrees < 120,
            "elevation_degrees": -90 < self.elevation_degrees < 90,
            "light": any(self.light),
            "framing": self.framing in ("silhouette", "sphere"),
            "shading": self.shading in ("flat", "phong"),
            "up_axis": self.up_axis in ("+z", "+y"),
        }
        for option, allowed in limits.items():
            if not allowed:
                raise DataError(
                    f"render: {option}={getattr(self, option)!r} is out of range; "
                    f"start from a preset ({', '.join(PRESETS)})"
                )

    def to_json(self) -> dict[str, Any]:
        """Plain values, one entry a field."""
        return dataclasses.asdict(self)

    @property
    def digest(self) -> str:
        """12 hex digits that differ whenever any field except the name differs."""
        fields = {k: v for k, v in self.to_json().items() if k != "name"}
        text = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def camera(self, view: int) -> Camera:
        """The camera of view `view`, 0-based."""
        return ring_camera(
            view,
            self.views,
            first_azimuth_degrees=self.first_azimuth_degrees,
            elevation_degrees=self.elevation_degrees,
            fov_degrees=self.fov_degrees,
        )


def described(
    spec: RenderSpec, up_axis: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Any]:
    """What decides the pixels of rendered views: spec, up axis, digest, versions of the libraries.

    `up_axis` has for each suffix of the meshes the `axis` and `because` why; the spec's own axis is
    left out, since each shape has its own. The digest differs where the axes do.
    """
    fields = {name: value for name, value in spec.to_json().items() if name != "up_axis"}
    digest = dataclasses.replace(spec, up_axis=RenderSpec().up_axis).digest
    if up_axis:
        axes = {suffix: one["axis"] for suffix, one in up_axis.items()}
        text = json.dumps([digest, axes], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    versions = {name: version(name) for name in ("embreex", "numpy", "pillow", "trimesh")}
    about = {"up_axis": {key: dict(one) for key, one in sorted(up_axis.items())}} if up_axis else {}
    return {"spec": fields, **about, "digest": digest, "versions": versions}


PRESETS: dict[str, RenderSpec] = {}
PRESETS["mvcnn_v1"] = RenderSpec()
PRESETS["mvcnn_pt"] = RenderSpec(
    name="mvcnn_pt",
    fov_degrees=0.0,
    margin=0.05,
    max_area=1.0,
    shading="phong",
    ambient=0.25,
    diffuse=0.7,
    light=(-0.3, 0.6, 0.75),
    ground=0.0,
)
PRESETS["fixed_scale"] = RenderSpec(name="fixed_scale", framing="sphere", max_area=1.0)


def preset(name: str, /, **changes: Any) -> RenderSpec:
    """The preset `name` with some fields changed, e.g. `preset("mvcnn_v1", size=64)`.

    Raises DataError for an unknown preset or field.
    """
    if name not in PRESETS:
        raise DataError(f"render: no preset {name!r}{nearest(name, PRESETS)}")
    known = {field.name for field in dataclasses.fields(RenderSpec)}
    for option in changes:
        if option not in known:
            raise DataError(f"render: no option {option!r}{nearest(option, sorted(known))}")
    return dataclasses.replace(PRESETS[name], **changes)


def checked_geometry(mesh: trimesh.Trimesh, name: str) -> tuple[Floats, NDArray[np.int64]]:
    """Vertices [V, 3] and faces [F, 3] of a usable mesh, unreferenced vertices dropped.

    Raises DataError, naming the shape, for a mesh with no faces, too many faces, a face index
    outside the vertices, NaN or infinity in a used vertex, or no extent at all.
    """
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    faces = np.asarray(mesh.faces, dtype=np.int64)
    if len(faces) == 0:
        raise DataError(f"shape {name}: the mesh has no faces; remove it or repair the file")
    if len(faces) > MAX_FACES:
        raise DataError(
            f"shape {name}: {len(faces)} faces, at most {MAX_FACES} are rendered; simplify it"
        )
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise DataError(
            f"shape {name}: a face points outside the {len(vertices)} vertices; repair the file"
        )
    used, remapped = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], remapped.reshape(-1, 3)
    if not np.isfinite(vertices).all():
        raise DataError(f"shape {name}: a vertex is NaN or infinite; remove it or repair the file")
    if np.ptp(vertices, axis=0).max() <= 0:
        raise DataError(f"shape {name}: zero extent (all vertices in one point); remove the shape")
    return vertices, faces


def normalised(vertices: Floats) -> Floats:
    """Vertices [V, 3] moved to the box centre and scaled so that the farthest is at radius 1."""
    moved = vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    return moved / np.linalg.norm(moved, axis=1).max()


def render_views(
    mesh: trimesh.Trimesh, spec: RenderSpec = PRESETS["mvcnn_v1"], *, name: str = "<mesh>"
) -> NDArray[np.uint8]:
    """Grey views of a mesh, uint8 [views, size, size], in ring order.

    Raises DataError naming the shape for a degenerate mesh (see `checked_geometry`) and naming the
    view, 1-based, if nothing is visible in it.
    """
    vertices, faces = checked_geometry(mesh, name)
    if spec.up_axis == "+y":
        vertices = vertices[:, [0, 2, 1]] * (-1, 1, 1)
    return render_scene(Scene(normalised(vertices), faces), spec, name=name)


def render_scene(scene: Scene, spec: RenderSpec, *, name: str = "<mesh>") -> NDArray[np.uint8]:
    """`render_views` for a scene already built from a checked and normalised mesh."""
    corners = _corner_normals(scene) if spec.shading == "phong" else None
    views = [_render_view(scene, spec, k, corners, name) for k in range(spec.views)]
    return np.stack(views)


def _render_view(
    scene: Scene, spec: RenderSpec, view: int, corners: Floats | None, name: str
) -> NDArray[np.uint8]:
    camera = spec.camera(view)
    box = _box(camera.project(scene.vertices))
    frame = _frame(scene, camera, spec, box)
    side = spec.size * spec.samples
    x, y = frame.columns(side), frame.rows(side)
    # Whole pixels only, and none that the shape cannot reach.
    columns = _pixel_range(x, box[0][0], box[1][0], spec.samples)
    rows = _pixel_range(-y, -box[1][1], -box[0][1], spec.samples)
    picture = np.full((spec.size, spec.size), spec.ground, np.float32)
    hits = scene.cast(camera, _samples(x, columns, spec), _samples(y, rows, spec))
    if not len(hits.triangle):
        raise DataError(f"shape {name} view {view + 1:03d}: nothing visible; remove or repair it")
    fine = np.full(hits.mask.shape, spec.ground, np.float32)
    fine[hits.mask] = _shade(hits, camera, spec, corners)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    coarse = fine.reshape(height, spec.samples, width, spec.samples).mean(axis=(1, 3))
    picture[rows, columns] = coarse
    return np.rint(picture * 255).astype(np.uint8)


def _box(plane: Floats) -> tuple[Floats, Floats]:
    return plane.min(axis=0), plane.max(axis=0)


def _frame(scene: Scene, camera: Camera, spec: RenderSpec, box: tuple[Floats, Floats]) -> Frame:
    if spec.framing == "sphere":
        return Frame(half=1 / (1 - spec.margin))
    low, high = box
    center, longest = (low + high) / 2, float((high - low).max())
    half = longest / 2 / (1 - spec.margin)
    if spec.max_area < 1:
        probe = Frame(center[0], center[1], longest / 2)
        covered = scene.covered(camera, probe.columns(_PROBE_LINES), probe.rows(_PROBE_LINES))
        area = covered.mean() * longest**2
        half = max(half, float(np.sqrt(area / spec.max_area)) / 2)
    return Frame(float(center[0]), float(center[1]), half)


def _pixel_range(centers: Floats, low: float, high: float, samples: int) -> slice:
    """The pixels, at least one, that may have a sample in [low, high]; `centers` are the samples'
    coordinates, ascending."""
    size = len(centers) // samples
    start = (int(np.searchsorted(centers, low)) - 1) // samples
    stop = -(-(int(np.searchsorted(centers, high)) + 1) // samples)
    start = min(max(start, 0), size - 1)
    return slice(start, max(min(stop, size), start + 1))


def _samples(centers: Floats, pixels: slice, spec: RenderSpec) -> Floats:
    return centers[pixels.start * spec.samples : pixels.stop * spec.samples]


def _shade(hits: Hits, camera: Camera, spec: RenderSpec, corners: Floats | None) -> Floats:
    """Grey levels 0..1 [K]: ambient + diffuse (n·l) + specular (n·h)^shininess, two-sided."""
    normals = hits.normals
    if corners is not None:
        normals = _smooth(hits, corners)
    light = np.asarray(spec.light, float) @ camera.axes()
    light = (light / np.linalg.norm(light)).astype(np.float32)
    grey = spec.ambient + spec.diffuse * np.clip(np.einsum("kc,c->k", normals, light), 0, None)
    if spec.specular:
        half = hits.to_viewer + light
        half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-6)
        gleam = np.clip((normals * half).sum(axis=1), 0, 1)
        grey = grey + spec.specular * gleam**spec.shininess
    return np.clip(grey, 0, 1)


def _smooth(hits: Hits, corners: Floats) -> Floats:
    """Corner normals [F, 3, 3] interpolated at the hits and turned to the viewer, [K, 3]."""
    chosen = corners[hits.triangle]
    # Mixed windings leave the three corner normals with mixed signs; align them with the hit's.
    side = np.sign((chosen * hits.normals[:, None]).sum(axis=2, keepdims=True))
    smooth = (chosen * side * hits.barycentric[:, :, None]).sum(axis=1)
    length = np.linalg.norm(smooth, axis=1, keepdims=True)
    return np.where(length > 1e-3, smooth / np.maximum(length, 1e-3), hits.normals)


def _corner_normals(scene: Scene) -> Floats:
    """Normals of the face corners, float32 [F, 3, 3].

    A corner's normal is the mean, weighted by area, of the normals of those faces at its vertex
    that differ from its own face by less than the crease angle; faces of opposite winding are
    flipped first.
    """
    normals = scene.face_normals
    _, merged = np.unique(np.round(scene.vertices, 5), axis=0, return_inverse=True)
    corner_vertex = merged.reshape(-1)[scene.faces].ravel()
    here, there = _corners_round_a_vertex(corner_vertex)
    own, other = normals[here // 3], normals[there // 3]
    cosine = np.einsum("nc,nc->n", own, other)
    a, b, c = (scene.vertices[scene.faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    weight = np.where(np.abs(cosine) > _CREASE_COSINE, np.sign(cosine) * area[there // 3], 0)
    total = np.stack(
        [np.bincount(here, weight * other[:, k], len(corner_vertex)) for k in range(3)], axis=1
    )
    length = np.linalg.norm(total, axis=1, keepdims=True)
    smooth = np.where(length > 0, total / np.maximum(length, 1e-30), np.repeat(normals, 3, axis=0))
    return smooth.reshape(-1, 3, 3).astype(np.float32)


def _corners_round_a_vertex(corner_vertex: NDArray[np.int64]) -> tuple[Indices, Indices]:
    """All ordered pairs of corners that share a vertex; each corner is paired with itself too.

    A vertex with more than `_MAX_FAN` corners gives no pairs, since their number grows with the
    square; it is shaded flat.
    """
    order = np.argsort(corner_vertex, kind="stable")
    count = np.bincount(corner_vertex)
    start = np.cumsum(count) - count
    kept = order[count[corner_vertex[order]] <= _MAX_FAN]
    partners = count[corner_vertex[kept]]
    here = np.repeat(kept, partners)
    within = np.arange(len(here)) - np.repeat(np.cumsum(partners) - partners, partners)
    return here, order[start[corner_vertex[here]] + within]
