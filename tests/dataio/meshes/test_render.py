"""Views: where the cameras stand, what a ray hits, how a view is framed and lit."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from dataio.meshes.cameras import Camera, Frame
from dataio.meshes.ray_casting import Scene
from dataio.meshes.rendering import PRESETS, normalised, preset, render_views
from dataio.records import DataError

SMALL = preset("mvcnn_v1", size=48)


def block(size, center=(0, 0, 0)) -> trimesh.Trimesh:
    mesh = trimesh.creation.box(extents=size)
    mesh.apply_translation(center)
    return mesh


def together(*meshes: trimesh.Trimesh) -> trimesh.Trimesh:
    return trimesh.util.concatenate(meshes)


def silhouette(view: np.ndarray, ground: int = 255) -> np.ndarray:
    return view != ground


def extent(mask: np.ndarray) -> tuple[int, int]:
    """Width and height of the silhouette in pixels."""
    return int(np.ptp(np.nonzero(mask)[1])) + 1, int(np.ptp(np.nonzero(mask)[0])) + 1


def test_view_001_stands_at_minus_y_and_004_at_plus_x():
    back = [SMALL.camera(k).axes()[2] for k in range(12)]
    level = np.cos(np.radians(30))
    np.testing.assert_allclose(back[0], [0, -level, 0.5], atol=1e-12)
    np.testing.assert_allclose(back[3], [level, 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(back[6], [0, level, 0.5], atol=1e-12)


@pytest.mark.parametrize("roll", [0.0, 25.0])
def test_camera_axes_are_a_right_handed_frame(roll):
    axes = Camera(40, 20, 12, roll).axes()
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.cross(axes[0], axes[1]), axes[2], atol=1e-12)


@pytest.mark.parametrize(("view", "knob"), [(0, (0.9, 0, 0.0)), (3, (0, 0.9, 0.0))])
def test_the_ring_runs_counter_clockwise(view, knob):
    """+X lies to the right in view 001, +Y to the right in view 004."""
    mesh = together(block((1, 1, 1)), block((0.6, 0.6, 0.6), knob))
    picture = silhouette(render_views(mesh, SMALL)[view])
    columns = np.nonzero(picture.any(axis=0))[0]
    heights = picture.sum(axis=0)
    assert heights[columns[-4:]].mean() < 0.8 * heights[columns[:4]].mean()


def brute_force(camera: Camera, frame: Frame, size: int, scene: Scene):
    """Möller and Trumbore's test of every ray with every triangle, in float64."""
    right, up, back = camera.axes()
    tangent = np.tan(np.radians(camera.fov_degrees) / 2)
    corner = scene.vertices[scene.faces].astype(float)
    depth = np.full((size, size), np.inf)
    triangle = np.full((size, size), -1)
    for i, y in enumerate(frame.rows(size)):
        for j, x in enumerate(frame.columns(size)):
            eye = camera.distance * back
            ray = (x * right + y * up) * tangent - back
            if camera.fov_degrees == 0:
                eye, ray = eye + x * right + y * up, -back
            for k, (a, b, c) in enumerate(corner):
                matrix = np.stack([-ray, b - a, c - a], axis=1)
                if abs(np.linalg.det(matrix)) < 1e-12:
                    continue
                t, u, v = np.linalg.solve(matrix, eye - a)
                if u >= 0 and v >= 0 and u + v <= 1 and 0 < t < depth[i, j]:
                    depth[i, j], triangle[i, j] = t, k
    return depth, triangle


@pytest.mark.parametrize("fov", [0.0, 35.0])
def test_a_cast_agrees_with_testing_every_triangle(fov):
    rng = np.random.default_rng(3)
    vertices = normalised(rng.normal(size=(60, 3)))
    scene = Scene(vertices, np.arange(60).reshape(20, 3))
    camera, frame, size = Camera(70, 25, fov, 10), Frame(0.1, -0.05, 0.9), 12
    depth, triangle = brute_force(camera, frame, size, scene)
    hits = scene.cast(camera, frame.columns(size), frame.rows(size))
    assert 20 < hits.mask.sum() < size * size
    np.testing.assert_array_equal(hits.mask, np.isfinite(depth))
    np.testing.assert_array_equal(hits.triangle, triangle[hits.mask])
    np.testing.assert_allclose(hits.depth[hits.mask], depth[hits.mask], rtol=1e-5)
    corners = scene.vertices[scene.faces[hits.triangle]]
    at = (corners * hits.barycentric[..., None]).sum(axis=1)
    np.testing.assert_allclose(hits.points, at, atol=2e-5)
    np.testing.assert_allclose(camera.axes()[2] @ hits.points.T, camera.distance - depth[hits.mask],
                               atol=2e-5)  # fmt: skip
    assert ((hits.normals * hits.to_viewer).sum(axis=1) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(hits.to_viewer, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        scene.covered(camera, frame.columns(size), frame.rows(size)), hits.mask
    )


def test_projection_and_rays_are_inverse():
    camera = Camera(130, 35, 40, 7)
    x, y = np.array([-0.6, 0.3]), np.array([0.2, -0.4, 0.5])
    origins, directions = camera.rays(x, y)
    plane = camera.project((origins + 1.7 * directions).astype(float))
    np.testing.assert_allclose(plane, [(a, b) for b in y for a in x], atol=1e-5)


def test_a_compact_shape_covers_thirty_percent_and_a_long_one_ninety_of_the_side():
    ball = render_views(trimesh.creation.icosphere(3), preset("mvcnn_v1", size=96))
    rod = render_views(block((0.1, 0.1, 2)), preset("mvcnn_v1", size=96))
    for view in ball:
        assert silhouette(view).mean() == pytest.approx(0.3, abs=0.02)
    for view in rod:
        width, height = extent(silhouette(view))
        assert max(width, height) == pytest.approx(0.9 * 96, abs=2)
        assert silhouette(view).mean() < 0.3
        rows = np.nonzero(silhouette(view))[0]
        assert rows.min() + rows.max() == pytest.approx(95, abs=2)  # centred


def test_a_headlit_ball_is_lightest_in_the_middle_and_never_darker_than_the_ambient_light():
    view = render_views(trimesh.creation.icosphere(4), preset("mvcnn_v1", size=96))[0]
    assert view[48, 48] == pytest.approx(0.9 * 255, abs=2)
    assert view.min() >= 0.3 * 255 - 1
    assert view[0, 0] == 255


def test_winding_and_unused_vertices_and_placement_do_not_matter():
    mesh = together(block((1, 2, 0.5)), block((0.3, 0.3, 2)))
    expected = render_views(mesh, SMALL)
    faces = mesh.faces.copy()
    faces[::2] = faces[::2, ::-1]
    stray = np.vstack([mesh.vertices * 7 + 3, [[100, 100, 100]]])
    changed = trimesh.Trimesh(stray, faces, process=False)
    got = render_views(changed, SMALL)
    assert np.abs(got.astype(int) - expected).max() <= 2  # float32 rounding at the box's edges


def test_a_y_up_mesh_is_turned_upright_with_its_front_to_minus_y():
    upright = together(block((1, 1, 2)), block((0.4, 0.6, 0.4), (0, -0.6, 0.8)))
    x, y, z = upright.vertices.T
    lying = trimesh.Trimesh(np.stack([-x, z, y], axis=1), upright.faces, process=False)
    turned = render_views(lying, preset("mvcnn_v1", size=48, up_axis="+y"))
    np.testing.assert_array_equal(turned, render_views(upright, SMALL))


def test_mvcnn_pt_is_orthographic_black_and_smooth():
    spec = preset("mvcnn_pt", size=64, samples=1)
    flat = preset("mvcnn_pt", size=64, samples=1, shading="flat")
    ball = trimesh.creation.icosphere(1)
    smooth, faceted = render_views(ball, spec)[0], render_views(ball, flat)[0]
    assert smooth[0, 0] == 0
    assert len(np.unique(smooth)) > 2 * len(np.unique(faceted))
    assert extent(silhouette(smooth, 0))[0] == pytest.approx(0.95 * 64, abs=2)


def test_smooth_shading_keeps_the_edges_of_a_box_sharp():
    smooth = render_views(block((1, 1, 1)), preset("mvcnn_v1", size=48, shading="phong"))
    assert np.abs(smooth.astype(int) - render_views(block((1, 1, 1)), SMALL)).max() <= 1


def test_smooth_normals_of_a_ball_point_outwards_whatever_the_winding():
    ball = trimesh.creation.icosphere(2)
    faces = ball.faces.copy()
    faces[::3] = faces[::3, ::-1]
    expected = preset("mvcnn_v1", size=64, shading="phong")
    picture = render_views(trimesh.Trimesh(ball.vertices, faces, process=False), expected)[0]
    rows, columns = np.nonzero(silhouette(picture))
    radius = extent(silhouette(picture))[0] / 2
    inside = np.hypot(rows - 31.5, columns - 31.5) < 0.8 * radius
    sine = np.hypot(rows - 31.5, columns - 31.5)[inside] / radius
    shade = 255 * (0.3 + 0.6 * np.sqrt(1 - sine**2))
    assert np.abs(picture[rows, columns][inside] - shade).mean() < 4


def test_specular_light_adds_a_highlight():
    ball = trimesh.creation.icosphere(3)
    plain = render_views(ball, preset("mvcnn_v1", size=48, shading="phong", diffuse=0.3))[0]
    spec = preset("mvcnn_v1", size=48, shading="phong", diffuse=0.3, specular=0.3)
    shiny = render_views(ball, spec)[0]
    assert shiny[24, 24] > plain[24, 24] + 50
    assert shiny[silhouette(shiny)].min() == pytest.approx(plain[silhouette(plain)].min(), abs=2)


def test_fixed_scale_keeps_one_scale_for_all_views():
    spec = preset("fixed_scale", size=96)
    plate = render_views(block((2, 0.2, 0.2)), spec)
    along, across = extent(silhouette(plate[3])), extent(silhouette(plate[0]))
    assert across[0] == pytest.approx(0.9 * 96, abs=3)
    assert along[0] < 0.2 * across[0]


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (np.eye(3), np.zeros((0, 3), int), "no faces"),
        ([[0, 0, 0], [1, 0, 0], [np.nan, 1, 0]], [[0, 1, 2]], "NaN"),
        (np.ones((3, 3)), [[0, 1, 2]], "zero extent"),
        ([[0, 0, 0], [1, 1, 1], [2, 2, 2]], [[0, 1, 2]], r"view 001: nothing visible"),
        (np.eye(3), [[0, 1, 7]], "points outside"),
    ],
)
def test_a_degenerate_mesh_is_refused_by_name(vertices, faces, message):
    mesh = trimesh.Trimesh(vertices, faces, process=False, validate=False)
    with pytest.raises(DataError, match=f"shape table_0007.*{message}"):
        render_views(mesh, SMALL, name="table_0007")


def test_the_digest_follows_the_pixels_and_not_the_name():
    specs = [*PRESETS.values(), SMALL, preset("mvcnn_v1", margin=0.2)]
    assert len({spec.digest for spec in specs}) == len(specs)
    assert preset("mvcnn_v1", size=48).digest == SMALL.digest
    assert len(SMALL.digest) == 12
    assert SMALL.to_json()["size"] == 48


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mvcnn", {}, "no preset 'mvcnn'; did you mean 'mvcnn_v1'"),
        ("blue", {}, "known: mvcnn_v1, mvcnn_pt, fixed_scale"),
        ("mvcnn_v1", {"zoom": 2}, "no option 'zoom'"),
        ("mvcnn_v1", {"margin": 1.5}, "margin=1.5 is out of range"),
    ],
)
def test_a_wrong_preset_or_option_is_named(name, changes, message):
    with pytest.raises(DataError, match=message):
        preset(name, **changes)
