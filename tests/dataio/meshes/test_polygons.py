"""Polygons in OBJ, OFF and PLY cover their own area."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from dataio.meshes.reading import load_mesh
from dataio.records import DataError

# Outlines in the plane, counter-clockwise, and what they cover.
L_SHAPE = ([(2, 1), (1, 1), (1, 2), (0, 2), (0, 0), (2, 0)], 3.0)
ARROW = ([(0, 0), (2, 1), (0, 2), (1, 1)], 1.0)  # a quad whose fan from (2, 1) would fold
STAR = (
    [
        (np.cos(k * np.pi / 5) * (1, 0.3)[k % 2], np.sin(k * np.pi / 5) * (1, 0.3)[k % 2])
        for k in range(10)
    ],
    5 * 0.3 * np.sin(np.pi / 5),
)
# A square with a square hole, joined to the outline by a double edge.
KEYHOLE = (
    [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)],
    12.0,
)
WITH_DOUBLE = ([*L_SHAPE[0][:2], L_SHAPE[0][1], *L_SHAPE[0][2:]], 3.0)
IN_LINE = ([(0, 0), (1, 0), (2, 0), (2, 2), (1, 1), (0, 2)], 3.0)
OUTLINES = [L_SHAPE, ARROW, STAR, KEYHOLE, WITH_DOUBLE, IN_LINE]
NAMES = ["L", "arrow", "star", "keyhole", "double corner", "corners in line"]


def tilted(outline):
    plane = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0][:2]
    return np.array(outline) @ plane + (5, -3, 100)


def as_off(points, polygons):
    rows = [" ".join(map(repr, map(float, p))) for p in points]
    rows += [" ".join(map(str, [len(p), *p])) for p in polygons]
    return "\n".join([f"OFF {len(points)} {len(polygons)} 0", *rows]).encode()


def as_obj(points, polygons):
    rows = ["v " + " ".join(map(repr, map(float, p))) for p in points]
    rows += ["f " + " ".join(str(k - len(points)) for k in p) for p in polygons]  # counts back
    return "\n".join(rows).encode()


def header(kind, vertices, faces, *, of="face", listed="list uchar int vertex_indices", more=""):
    return (
        f"ply\nformat {kind} 1.0\ncomment x\nelement vertex {vertices}\nproperty double x\n"
        f"property double y\nproperty uchar red\nproperty double z\n{more}"
        f"element {of} {faces}\nproperty {listed}\nend_header\n"
    ).encode()


def as_ply(points, polygons):
    rows = ["{!r} {!r} 9 {!r}".format(*map(float, p)) for p in points]
    rows += [" ".join(map(str, [len(p), *p])) for p in polygons]
    return header("ascii", len(points), len(polygons)) + "\n".join(rows).encode()


def as_binary(order, name):
    def written(points, polygons):
        body = b"".join(struct.pack(order + "ddBd", p[0], p[1], 9, p[2]) for p in points)
        body += b"".join(struct.pack(f"{order}B{len(p)}i", len(p), *p) for p in polygons)
        return header(name, len(points), len(polygons)) + body

    return written


WRITERS = {
    "a.off": as_off,
    "a.obj": as_obj,
    "a.ply": as_ply,
    "little.ply": as_binary("<", "binary_little_endian"),
    "big.ply": as_binary(">", "binary_big_endian"),
}


def load(folder, name, points, polygons):
    path = folder / name
    path.write_bytes(WRITERS[name](points, polygons))
    return load_mesh(path)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("outline", "area"), OUTLINES, ids=NAMES)
@pytest.mark.parametrize("turned", [1, -1])
def test_a_polygon_covers_its_own_area_whatever_its_first_corner(
    tmp_path, name, outline, area, turned
):
    points = tilted(outline)
    for start in range(len(points)):
        polygon = np.roll(np.arange(len(points)), start)[::turned].tolist()
        mesh = load(tmp_path, name, points, [polygon])
        assert mesh.area == pytest.approx(area)
        # No triangle turns against the others, so none lies over another.
        total = np.linalg.norm(mesh.face_normals.T @ mesh.area_faces)
        assert total == pytest.approx(area)
        assert len(mesh.vertices) == len(points)


@pytest.mark.parametrize("name", WRITERS)
def test_polygons_of_many_kinds_keep_their_order(tmp_path, name):
    points = np.concatenate([tilted(outline) + 10 * k for k, (outline, _) in enumerate(OUTLINES)])
    ends = np.cumsum([len(outline) for outline, _ in OUTLINES])
    polygons = [list(range(e - len(o), e)) for e, (o, _) in zip(ends, OUTLINES, strict=True)]
    polygons.insert(2, [0, 1, 3])
    mesh = load(tmp_path, name, points, polygons)
    owner = np.searchsorted(ends, mesh.faces[:, 0], side="right")
    assert (np.diff(owner[owner > 0]) >= 0).all()
    for k, (_, area) in enumerate(OUTLINES[1:], 1):
        assert mesh.area_faces[owner == k].sum() == pytest.approx(area)


@pytest.mark.parametrize("name", WRITERS)
def test_polygons_without_an_area_of_their_own_keep_their_fan(tmp_path, name):
    crossing = [(0, 0), (2, 2), (2, 0), (0, 1)]
    mesh = load(tmp_path, name, tilted(crossing), [[0, 1, 2, 3]])
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    line = [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert len(load(tmp_path, name, tilted(line), [[0, 1, 2, 3]]).faces) == 2


def test_triangle_strips_of_a_ply(tmp_path):
    points = "0 0 9 0\n1 0 9 0\n0 1 9 0\n1 1 9 0\n"
    path = tmp_path / "a.ply"
    content = header("ascii", 4, 1, of="tristrips") + f"{points}8 0 1 2 3 -1 2 1 0\n".encode()
    path.write_bytes(content)
    assert load_mesh(path).faces.tolist() == [[0, 1, 2], [1, 3, 2], [2, 1, 0]]
    path.write_bytes(content.replace(b" 3 -1", b" 7 -1"))
    with pytest.raises(DataError, match="a face points outside the 4 vertices"):
        load_mesh(path)


def test_other_elements_and_lists_of_a_ply_are_passed_over(tmp_path):
    more = "element camera 2\nproperty list uchar float lens\nproperty float f\n"
    listed = "list uchar float texcoord\nproperty list int uint vertex_index"
    content = header("ascii", 3, 2, more=more, listed=listed)
    content += b"0 0 1 0\n1 0 1 0\n0 1 1 0\n2 0.5 0.5 1\n0 2\n"
    content += b"6 0 0 0 0 0 0 3 0 1 2\n0 3 2 1 0\n"
    path = tmp_path / "a.ply"
    path.write_bytes(content)
    assert load_mesh(path).faces.tolist() == [[0, 1, 2], [2, 1, 0]]
    path.write_bytes(content.replace(b"\n", b"\r\n"))
    assert load_mesh(path).faces.tolist() == [[0, 1, 2], [2, 1, 0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no whole PLY header; restore"),
        (b"ply\nformat ascii 1.0\nelement vertex 3\n", "no whole PLY header"),
        (b"ply\nformat ascii 1.0\nend_header\n", "no 'vertex'"),
        (b"ply\nelement vertex 0\nend_header\n", "the header has no format"),
        (b"ply\nformat ascii 1.0\nproperty float x\nend_header\n", "is not of PLY 1.0"),
        (b"ply\nformat text 1.0\nend_header\n", "header line 'format text 1.0' is not of PLY"),
        (header("ascii", 3, 1) + b"0 0 9 0\n1 0 9 0\n0 1 9 0\n3 0 1\n", "cut short"),
        (header("ascii", 3, 1) + b"0 0 9 0\n1 0 9 0\n0 1 9 0\n", "cut short"),
        (header("ascii", 3, 1) + b"0 0 9 0\n1 0 9 0\n0 1 9 0\n3 0 1 a\n", "could not convert"),
        (header("ascii", 3, 1) + b"0 0 9 0\n1 0 9 0\n0 1 9 0\n3 0 1 1.5\n", "no whole number"),
        (header("ascii", 3, 1) + b"0 0 9 0\n1 0 9 0\n0 1 9 0\n3 0 1 -1\n", "points outside the 3"),
        (header("ascii", 3, 1) + b"0 0 9 0\n1 0 9 0\n0 1 9 0\n-3 0 1 2\n", "a list of -3 items"),
        (header("binary_little_endian", 9, 9) + b"\0" * 40, "cut short"),
    ],
)
def test_each_defect_of_a_ply_is_named(tmp_path, content, message):
    path = tmp_path / "a.ply"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_mesh(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
