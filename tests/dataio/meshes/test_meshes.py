"""Reading mesh files: what their writers vary, and every way they can be broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from dataio.meshes.reading import MESH_SUFFIXES, load_mesh
from dataio.meshes.rendering import MAX_FACES, preset, render_views
from dataio.records import DataError

SQUARE = "OFF\n4 1 4\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n"
CORNERS = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
FAN = [[0, 1, 2], [0, 2, 3]]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def is_square(mesh: trimesh.Trimesh) -> bool:
    return mesh.vertices.tolist() == CORNERS and mesh.faces.tolist() == FAN


@pytest.mark.parametrize(
    "text",
    [
        SQUARE,
        SQUARE.replace("OFF\n", "OFF"),  # glued
        SQUARE.replace("OFF\n", "OFF "),
        SQUARE.replace("4 1 4\n", "4 1\n"),
        SQUARE.replace("\n", "\r\n"),
        SQUARE.replace("\n", "\r"),
        SQUARE.replace("\n", "\n\n"),
        SQUARE.replace("1 1 0\n", "  1.0\t1e0 -0  \n"),
        "\ufeff" + SQUARE,
        "# by hand\n" + SQUARE.replace("4 1 4\n", "# counts\n4 1 4 # edges\n"),
        SQUARE.replace("OFF", "COFF").replace(" 0\n", " 0 255 0 0 255\n"),
        SQUARE.replace("OFF", "STOFF").replace(" 0\n", " 0 0.5 0.5\n"),
        SQUARE.replace("OFF", "NOFF").replace(" 0\n", " 0 0 0 1\n"),
        SQUARE.replace("4 0 1 2 3", "4 0 1 2 3 0.1 0.2 0.3"),  # colour of the face
        SQUARE.rstrip("\n"),
    ],
    ids=range(15),
)
def test_off_as_its_writers_vary_it(tmp_path, text):
    assert is_square(load_mesh(written(tmp_path, "square.off", text)))


def test_off_with_polygons_of_many_sizes_keeps_their_order(tmp_path):
    rng = np.random.default_rng(0)
    sizes = [3, 5, 1, 4, 3, 2, 6]
    polygons = [sorted(rng.permutation(9)[:size].tolist()) for size in sizes]
    turns = np.arange(9) * 2 * np.pi / 9  # convex, so each is a fan
    rows = [f"{np.cos(turn)} {np.sin(turn)} 0" for turn in turns]
    rows += [f"{len(p)} {' '.join(map(str, p))}" + " 0 0 9" * (len(p) == 4) for p in polygons]
    path = written(tmp_path, "a.off", "\n".join([f"OFF 9 {len(sizes)} 0", *rows]))
    expected = [[p[0], p[k], p[k + 1]] for p in polygons for k in range(1, len(p) - 1)]
    assert load_mesh(path).faces.tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with OFF; restore"),
        ("solid cube", "does not begin with OFF"),
        ("4OFF\n1 1 0\n", "4OFF, nOFF and binary OFF are not read; convert to ASCII OFF"),
        ("nOFF\n3\n1 1 0\n", "4OFF, nOFF and binary OFF are not read"),
        ("OFF BINARY\n\0\0\0\4", "4OFF, nOFF and binary OFF are not read"),
        ("OFF\n", "no counts of vertices and faces after OFF"),
        ("OFF\na b c\n", "no counts of vertices and faces"),
        (SQUARE.replace("4 1 4", "4 2 4"), "promises 4 vertices and 2 faces, 5 rows follow"),
        (SQUARE + "3 0 1 2\n", "promises 4 vertices and 1 faces, 6 rows follow"),
        (SQUARE.replace("4 0 1 2 3\n", ""), "promises 4 vertices and 1 faces, 4 rows follow"),
        (SQUARE.replace("1 1 0\n", "1 1\n"), "line 5: a vertex needs three coordinates"),
        (SQUARE.replace("1 1 0\n", "1 x 0\n"), "line 5: a number was expected, found 'x'"),
        (SQUARE.replace("1 1 0\n", "1 1,5 0\n"), "line 5: a number was expected, found '1,5'"),
        (SQUARE.replace("0 1 2 3", "0 1 2"), "line 7: the face is cut short"),
        (SQUARE.replace("4 0 1 2 3", "-1 0 1 2"), "line 7: the face is cut short"),
        (SQUARE.replace("0 1 2 3", "0 1 2 4"), "line 7: the face points outside the 4 vertices"),
        (SQUARE.replace("0 1 2 3", "0 1 2 -1"), "line 7: the face points outside the 4 vert"),
        (SQUARE.replace("0 1 2 3", "0 1.5 2 3"), "line 7: a whole number was expected"),
        (SQUARE.replace("4 0 1 2 3", "nan 0 1 2"), "line 7: a whole number was expected"),
        (SQUARE.replace("1 1 0\n", "1 nan 0\n"), "a vertex is NaN or infinite"),
        (SQUARE.replace("1 1 0\n", "1 1e999 0\n"), "a vertex is NaN or infinite"),
        ("OFF\n2 0 0\n0 0 0\n1 1 1\n", "the mesh has no faces"),
        ("OFF\n2 1 0\n0 0 0\n1 1 1\n2 0 1\n", "the mesh has no faces"),
        ("OFF\n0 0 0\n", "the mesh has no faces"),
        (f"OFF\n3 {MAX_FACES + 1} 0\n", f"5000001 faces, at most {MAX_FACES} are rendered"),
    ],
)
def test_each_defect_of_an_off_file_is_named(tmp_path, text, message):
    path = written(tmp_path, "shape.off", text)
    with pytest.raises(DataError) as error:
        load_mesh(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "; " in str(error.value)  # the remedy
    assert "\n" not in str(error.value)


def test_line_numbers_count_comments_and_blank_lines(tmp_path):
    text = "# one\n\n" + SQUARE.replace("4 1 4\n", "4 1 4\n# between\n\n").replace("2 3", "2 9")
    with pytest.raises(DataError, match="line 11: the face points outside"):
        load_mesh(written(tmp_path, "a.off", text.replace("\n", "\r\n")))


def test_a_bad_vertex_that_no_face_uses_does_not_matter(tmp_path):
    text = SQUARE.replace("4 1 4", "5 1 4").replace("4 0 1", "nan nan nan\n4 0 1")
    path = written(tmp_path, "a.off", text)
    assert load_mesh(path).faces.tolist() == FAN
    assert render_views(load_mesh(path), preset("mvcnn_v1", size=16)).shape == (12, 16, 16)


VERTICES = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


@pytest.mark.parametrize(
    "text",
    [
        VERTICES + "f 1 2 3 4\n",
        VERTICES + "vt 0 0\nvn 0 0 1\nf 1/1/1 2/1/1 3/1/1 4/1/1\n",
        VERTICES + "f 1//1 2//1 3//1 4//1\n",
        VERTICES + "f 1/1 2/1 3/1 4/1\n",
        VERTICES + "f -4 -3 -2 -1\n",
        VERTICES + "f -4/-1/-1 -3/-1/-1 3 4\n",
        VERTICES + "f 1 2 \\\n 3 4\n",
        "v 0 0 0\nv 1 0 0\nv 1 1 0\nf -3 -2 -1\nv 0 1 0\nf 1 3 -1\n",
        "mtllib gone.mtl\no a\n" + VERTICES + "usemtl wood\ng a b\ns 1\nf 1 2 3\ng c\nf 1 3 4\n",
        VERTICES.replace(" 0\n", " 0 0.5 0.5 0.5\n") + "f 1 2 3 4\n",  # colours
        VERTICES.replace("v ", "  v\t") + "\tf\t1  2 3\t4 # f 9 9 9\n",
        (VERTICES + "f 1 2 3 4\n").replace("\n", "\r\n"),
        "\ufeff# made by\n" + VERTICES + "l 1 2\np 1\nvp 1 2\nfo 1 2 3\nf 1 2\nf 1 2 3 4",
    ],
    ids=range(13),
)
def test_obj_as_its_writers_vary_it(tmp_path, text):
    assert is_square(load_mesh(written(tmp_path, "square.OBJ", text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the mesh has no faces"),
        (VERTICES, "the mesh has no faces"),
        (VERTICES + "f 1 2\n", "the mesh has no faces"),
        ("f 1 2 3\n", "line 1: the face points outside the 0 vertices"),
        (VERTICES + "f 1 2 5\n", "line 5: the face points outside the 4 vertices"),
        (VERTICES + "f 0 1 2\n", "line 5: the face points outside the 4 vertices"),
        (VERTICES + "f 1 2 3\n\nf -1 -2 -5\n", "line 7: the face points outside the 4 vert"),
        (VERTICES + "f 1 2 a/1/1\n", "line 5: a number was expected, found 'a'"),
        (VERTICES + "f 1 2 3.5\n", "line 5: a whole number was expected"),
        (VERTICES.replace("v 1 1 0", "v 1 1") + "f 1 2 3\n", "line 3: a vertex needs three"),
        (VERTICES.replace("v 1 1 0", "v") + "f 1 2 3 4\n", "line 5: the face points outside"),
        (VERTICES.replace("v 1 1 0", "v 1 - 0") + "f 1 2 3\n", "line 3: a number was expected"),
        (VERTICES.replace("v 1 1 0", "v 1 inf 0") + "f 1 2 3\n", "is NaN or infinite"),
    ],
)
def test_each_defect_of_an_obj_file_is_named(tmp_path, text, message):
    path = written(tmp_path, "shape.obj", text)
    with pytest.raises(DataError) as error:
        load_mesh(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


@pytest.mark.parametrize("suffix", [s for s in MESH_SUFFIXES if s != ".gltf"])
def test_all_formats_hold_the_same_shape(tmp_path, suffix):
    box = trimesh.creation.box((1, 2, 3))
    path = tmp_path / f"box{suffix}"
    box.export(path)
    mesh = load_mesh(path)
    assert len(mesh.faces) == 12
    np.testing.assert_allclose(mesh.bounds, box.bounds)
    assert mesh.area == pytest.approx(22)


def test_a_scene_becomes_one_mesh_in_place(tmp_path):
    scene = trimesh.Scene()
    box = trimesh.creation.box((1, 1, 1))
    scene.add_geometry(box, node_name="a")
    scene.add_geometry(
        box, node_name="b", transform=trimesh.transformations.translation_matrix((5, 0, 0))
    )
    scene.export(tmp_path / "two.glb")
    mesh = load_mesh(tmp_path / "two.glb")
    assert len(mesh.faces) == 24
    np.testing.assert_allclose(mesh.bounds, [[-0.5] * 3, [5.5, 0.5, 0.5]])


def gltf(folder: Path, **changes: str) -> Path:
    files = trimesh.Scene(trimesh.creation.box((1, 1, 1))).export(file_type="gltf")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    path = folder / "model.gltf"
    tree = json.loads(path.read_bytes())
    for buffer in tree["buffers"]:
        buffer.update(changes)
    path.write_text(json.dumps(tree))
    return path


def test_a_gltf_needs_its_buffer_and_no_texture(tmp_path):
    path = gltf(tmp_path)
    tree = json.loads(path.read_text())
    tree["images"] = [{"uri": "gone.png"}]
    tree["textures"] = [{"source": 0}]
    tree["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]
    path.write_text(json.dumps(tree))
    assert len(load_mesh(path).faces) == 12
    for buffer in tmp_path.glob("*.bin"):
        buffer.unlink()
    with pytest.raises(
        DataError, match=r"model\.gltf: buffer gltf_buffer.* is not beside the file; copy"
    ):
        load_mesh(path)


def test_a_gltf_never_opens_an_address(tmp_path, monkeypatch):
    import socket

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(
        DataError, match=r"buffer http://192\.0\.2\.1/.* is not in the file's folder"
    ):
        load_mesh(gltf(tmp_path, uri="http://192.0.2.1/buffer.bin"))


@pytest.mark.parametrize("suffix", [".ply", ".stl", ".glb"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_cut_file_is_refused(tmp_path, suffix, share):
    whole = tmp_path / f"whole{suffix}"
    trimesh.creation.icosphere(2).export(whole)
    content = whole.read_bytes()
    path = written(tmp_path, f"cut{suffix}", content[: int(len(content) * share)])
    with pytest.raises(DataError) as error:
        load_mesh(path)
    assert str(error.value).startswith(f"{path}: ")


def test_points_alone_are_no_mesh(tmp_path):
    trimesh.PointCloud(np.eye(3)).export(tmp_path / "points.ply")
    with pytest.raises(DataError, match=r"points\.ply: the mesh has no faces"):
        load_mesh(tmp_path / "points.ply")


def test_a_ply_with_indices_outside_is_refused(tmp_path):
    header = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
    header += "property float z\nelement face 1\nproperty list uchar int vertex_indices\n"
    path = written(tmp_path, "a.ply", header + "end_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n")
    with pytest.raises(DataError, match=r"a\.ply: "):
        load_mesh(path)


def test_other_suffixes_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"'\.fbx'.*known are \.off, \.obj, \.ply, \.stl, \.glb"):
        load_mesh(tmp_path / "a.fbx")
    with pytest.raises(DataError, match=r"gone\.off: cannot read \(No such file"):
        load_mesh(tmp_path / "gone.off")
    (tmp_path / "folder.off").mkdir()
    with pytest.raises(DataError, match=r"folder\.off: cannot read"):
        load_mesh(tmp_path / "folder.off")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.obj"
    with path.open("wb") as file:
        file.truncate(600 << 20)  # sparse
    with pytest.raises(DataError, match="600 MiB, at most 512 are read; simplify"):
        load_mesh(path)


def test_non_manifold_meshes_load_and_render(tmp_path):
    text = "OFF 6 5 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n0 -1 0\n5 5 5\n"
    text += "3 0 1 2\n3 1 0 3\n3 0 1 4\n3 0 1 2\n3 2 2 2\n"  # three round an edge, double, a point
    mesh = load_mesh(written(tmp_path, "a.off", text))
    assert len(mesh.faces) == 5
    views = render_views(mesh, preset("mvcnn_v1", size=16))
    assert (views < 255).any(axis=(1, 2)).all()
