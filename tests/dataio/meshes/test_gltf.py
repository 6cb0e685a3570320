"""glTF files: everything that changes geometry is read as written, or refused by name."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from dataio.meshes.reading import load_mesh
from dataio.records import DataError

CORNERS = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 3]], np.float32)  # no symmetry
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
KINDS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}


class Asset:
    """A glTF file in the making: one mesh, one node."""

    def __init__(self, positions: np.ndarray = CORNERS, faces: np.ndarray | None = FACES) -> None:
        self.data = b""
        self.tree: dict[str, Any] = {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "bufferViews": [],
            "accessors": [],
        }
        self.primitive: dict[str, Any] = {"attributes": {"POSITION": self.accessor(positions)}}
        if faces is not None:
            self.primitive["indices"] = self.accessor(np.asarray(faces, np.uint16).reshape(-1, 1))
        self.tree["meshes"] = [{"primitives": [self.primitive]}]

    @property
    def node(self) -> dict[str, Any]:
        return self.tree["nodes"][0]

    def view(self, content: bytes, **more: Any) -> int:
        self.data += b"\0" * (-len(self.data) % 4)
        place = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        self.tree["bufferViews"].append({**place, **more})
        self.data += content
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values: np.ndarray, **more: Any) -> int:
        values = np.asarray(values)
        names = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
        about = {
            "bufferView": self.view(values.tobytes()),
            "componentType": KINDS[values.dtype.str[1:]],
            "count": len(values),
            "type": names[values.shape[1]],
        }
        self.tree["accessors"].append({**about, **more})
        return len(self.tree["accessors"]) - 1

    def extend(self, holder: dict[str, Any], name: str, content: dict[str, Any]) -> None:
        holder["extensions"] = {name: content}
        self.tree["extensionsUsed"] = self.tree["extensionsRequired"] = [name]

    def load(self, folder: Path) -> trimesh.Trimesh:
        self.tree.setdefault("buffers", [{}])[0].setdefault("byteLength", len(self.data))
        text = json.dumps(self.tree).encode()
        text += b" " * (-len(text) % 4)
        data = self.data + b"\0" * (-len(self.data) % 4)
        body = struct.pack("<II", len(text), 0x4E4F534A) + text
        body += struct.pack("<II", len(data), 0x004E4942) + data
        path = folder / "model.glb"
        path.write_bytes(struct.pack("<III", 0x46546C67, 2, 12 + len(body)) + body)
        return load_mesh(path)

    def refused(self, folder: Path) -> str:
        with pytest.raises(DataError) as error:
            self.load(folder)
        text = str(error.value)
        assert text.startswith(f"{folder / 'model.glb'}: ")
        assert "\n" not in text
        return text.partition(": ")[2]


def triangles(*copies: np.ndarray) -> np.ndarray:
    return np.concatenate([corners[FACES] for corners in copies])


def same(mesh: trimesh.Trimesh, *copies: np.ndarray, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(mesh.triangles, triangles(*copies), atol=atol)


def test_nodes_place_what_they_hold(tmp_path):
    asset = Asset()
    turn = [0, 0, np.sqrt(0.5), np.sqrt(0.5)]  # a quarter round z
    asset.node.update({"translation": [1, 2, 3], "rotation": turn, "scale": [2, 1, 1]})
    asset.tree["nodes"] += [
        {"children": [0], "matrix": np.diag([1, 1, 5, 1.0]).T.ravel().tolist()},
        {"mesh": 0},  # in no scene
    ]
    asset.tree["scenes"] = [{"nodes": [2]}, {"nodes": [1]}]
    asset.tree["scene"] = 1
    x, y, z = CORNERS.T
    same(asset.load(tmp_path), np.stack([1 - y, 2 + 2 * x, 5 * (3 + z)], axis=1))


def test_without_scenes_all_nodes_are_shown(tmp_path):
    asset = Asset()
    asset.tree["nodes"].append({"mesh": 0, "translation": [4, 0, 0]})
    del asset.tree["scenes"]
    same(asset.load(tmp_path), CORNERS, CORNERS + np.array([4, 0, 0]))


def test_instances_are_all_there(tmp_path):
    asset = Asset()
    moves = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0]], np.float32)
    scale = np.array([[1, 1, 1], [2, 2, 2], [1, 1, 3]], np.float32)
    half = np.array([[0, 0, 0, 127]] * 2 + [[0, 0, 127, 0]], np.int8)  # a half turn round z
    attributes = {
        "TRANSLATION": asset.accessor(moves),
        "SCALE": asset.accessor(scale),
        "ROTATION": asset.accessor(half, normalized=True),
        "_ID": 0,
    }
    asset.extend(asset.node, "EXT_mesh_gpu_instancing", {"attributes": attributes})
    asset.node["translation"] = [0, 0, 7]
    turned = CORNERS * (-1, -1, 3) + moves[2]
    shift = np.array([0, 0, 7])
    same(asset.load(tmp_path), CORNERS + shift, 2 * CORNERS + moves[1] + shift, turned + shift)


def test_hidden_nodes_are_left_out(tmp_path):
    asset = Asset()
    asset.tree["nodes"] += [{"children": [2]}, {"mesh": 0}]
    asset.tree["scenes"][0]["nodes"] = [0, 1]
    asset.extend(asset.tree["nodes"][1], "KHR_node_visibility", {"visible": False})
    same(asset.load(tmp_path), CORNERS)


def test_sparse_accessors(tmp_path):
    moved = CORNERS.copy()
    moved[[1, 3]] += 1
    asset = Asset()
    places, values = (
        asset.view(np.array([1, 3], np.uint8).tobytes()),
        asset.view(moved[[1, 3]].tobytes()),
    )
    sparse = {
        "count": 2,
        "indices": {"bufferView": places, "componentType": 5121},
        "values": {"bufferView": values},
    }
    asset.tree["accessors"][0]["sparse"] = sparse
    same(asset.load(tmp_path), moved)
    del asset.tree["accessors"][0]["bufferView"]  # all others are zero
    moved[[0, 2]] = 0
    same(asset.load(tmp_path), moved)


@pytest.mark.parametrize(
    ("stored", "normalized", "expected"),
    [
        ((CORNERS * 20).astype(np.int8), True, CORNERS * 20 / 127),
        ((CORNERS * 20).astype(np.uint8), True, CORNERS * 20 / 255),
        ((CORNERS * -20).astype(np.int16), True, CORNERS * -20 / 32767),
        ((CORNERS * 20).astype(np.uint16), False, CORNERS * 20),
        ((CORNERS * -20).astype(np.int8), False, CORNERS * -20),
    ],
)
def test_quantised_positions(tmp_path, stored, normalized, expected):
    asset = Asset(np.ascontiguousarray(stored))
    asset.tree["accessors"][0]["normalized"] = normalized
    asset.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    same(asset.load(tmp_path), expected, atol=1e-4)


def test_interleaved_attributes(tmp_path):
    asset = Asset()
    mixed = np.concatenate([np.full_like(CORNERS, 9), CORNERS], axis=1)
    view = asset.view(mixed.tobytes(), byteStride=24)
    asset.tree["accessors"][0].update({"bufferView": view, "byteOffset": 12})
    same(asset.load(tmp_path), CORNERS)


@pytest.mark.parametrize(
    ("mode", "corners", "expected"),
    [
        (5, [0, 1, 2, 3], [[0, 1, 2], [1, 3, 2]]),
        (6, [0, 1, 2, 3], [[1, 2, 0], [2, 3, 0]]),
        (5, [0, 1], []),
        (4, [3, 2, 1], [[3, 2, 1]]),
    ],
)
@pytest.mark.parametrize("indexed", [True, False])
def test_strips_and_fans(tmp_path, mode, corners, expected, indexed):
    points = CORNERS if indexed else CORNERS[corners]
    asset = Asset(points, np.array(corners) if indexed else None)
    asset.primitive["mode"] = mode
    if not expected:
        assert "the mesh has no faces" in asset.refused(tmp_path)
        return
    mesh = asset.load(tmp_path)
    np.testing.assert_allclose(mesh.triangles, CORNERS[np.array(expected)])


@pytest.mark.parametrize(
    ("mode", "name"), [(0, "points"), (1, "lines"), (2, "lines"), (3, "lines")]
)
def test_points_and_lines_have_no_surface(tmp_path, mode, name):
    asset = Asset()
    other = {**asset.primitive, "mode": mode}
    asset.tree["meshes"][0]["primitives"].append(other)
    same(asset.load(tmp_path), CORNERS)
    asset.tree["meshes"][0]["primitives"] = [other]
    assert asset.refused(tmp_path) == f"holds only {name}, which have no surface; remove it"


def test_morph_targets_have_their_default_weights(tmp_path):
    asset = Asset()
    change = np.zeros_like(CORNERS)
    change[3] = (0, 0, 4)
    asset.primitive["targets"] = [{"POSITION": asset.accessor(change)}, {"NORMAL": 0}]
    same(asset.load(tmp_path), CORNERS)
    asset.tree["meshes"][0]["weights"] = [0.5, 1]
    same(asset.load(tmp_path), CORNERS + 0.5 * change)
    asset.node["weights"] = [1, 0]
    same(asset.load(tmp_path), CORNERS + change)


def test_a_skin_stands_where_its_joints_are(tmp_path):
    asset = Asset()
    joints = np.array([[0, 1, 0, 0]] * 4, np.uint8)
    weights = np.array([[1, 0, 0, 0]] * 3 + [[0.5, 0.5, 0, 0]], np.float32)
    back = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    back[1, 3, :3] = (-1, 0, 0)  # stored by columns: moves by -1 along x
    asset.primitive["attributes"] |= {
        "JOINTS_0": asset.accessor(joints),
        "WEIGHTS_0": asset.accessor(weights),
    }
    matrices = asset.accessor(back.reshape(2, 16))
    asset.tree["skins"] = [{"joints": [1, 2], "inverseBindMatrices": matrices}]
    asset.node.update({"skin": 0, "translation": [99, 0, 0]})  # a skin ignores its own node
    asset.tree["nodes"] += [{"children": [2]}, {"translation": [3, 0, 0]}]
    asset.tree["scenes"][0]["nodes"] = [0, 1]
    expected = CORNERS.copy()
    expected[3] += (1, 0, 0)  # half of 3 - 1
    same(asset.load(tmp_path), expected)


def test_an_unknown_required_extension_is_refused(tmp_path):
    asset = Asset()
    asset.tree["extensionsRequired"] = ["KHR_materials_unlit", "ACME_made_up"]
    assert asset.refused(tmp_path) == (
        "needs the glTF extension ACME_made_up, which is not read; export without it"
    )
    asset.tree["extensionsRequired"] = [
        "KHR_materials_unlit", "KHR_texture_basisu", "EXT_texture_webp", "KHR_lights_punctual",
        "KHR_materials_variants", "KHR_texture_transform", "MSFT_texture_dds", "KHR_xmp_json_ld",
    ]  # fmt: skip
    asset.tree["extensionsUsed"] = ["ACME_made_up"]
    same(asset.load(tmp_path), CORNERS)


@pytest.mark.parametrize("name", ["EXT_meshopt_compression", "KHR_meshopt_compression"])
def test_meshopt_is_refused_by_name(tmp_path, name):
    asset = Asset()
    plain = json.loads(json.dumps(asset.tree["bufferViews"]))
    for view in asset.tree["bufferViews"]:
        view["extensions"] = {name: {"buffer": 0}}
        view["buffer"] = 1
    asset.tree["extensionsRequired"] = [name]
    asset.tree["buffers"] = [{}, {"byteLength": 99, "extensions": {name: {"fallback": True}}}]
    assert asset.refused(tmp_path) == (
        f"compressed with {name}; decompress it (`gltf-transform copy`) or export without "
        "compression"
    )
    # With a fallback that holds the data, that is read.
    data = base64.b64encode(asset.data[: plain[-1]["byteOffset"] + plain[-1]["byteLength"]])
    asset.tree["buffers"][1] = {
        "byteLength": len(asset.data),
        "uri": "data:application/octet-stream;base64," + data.decode(),
    }
    same(asset.load(tmp_path), CORNERS)


def draco(asset: Asset, data: bytes) -> None:
    content = {"bufferView": asset.view(data), "attributes": {"POSITION": 0}}
    asset.extend(asset.primitive, "KHR_draco_mesh_compression", content)
    for accessor in asset.tree["accessors"]:
        accessor.pop("bufferView")


def test_draco_is_refused_by_name_without_a_decoder(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "DracoPy", None)
    asset = Asset()
    plain = asset.primitive
    draco(asset, b"DRACO")
    assert asset.refused(tmp_path) == (
        "compressed with Draco (KHR_draco_mesh_compression); decompress it (`gltf-transform copy`) "
        'or export without compression, or `pip install "img2shape[draco]"`'
    )
    asset = Asset()  # not required, and the data are there without compression too
    plain = asset.primitive
    plain["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0}}
    same(asset.load(tmp_path), CORNERS)


def test_draco_is_decoded(tmp_path):
    library = pytest.importorskip("DracoPy")
    asset = Asset()
    data = library.encode(CORNERS, FACES.astype(np.uint32), quantization_bits=14)
    draco(asset, data)
    asset.node["translation"] = [0, 0, 1]
    mesh = asset.load(tmp_path)
    assert mesh.area == pytest.approx(trimesh.Trimesh(CORNERS, FACES).area, rel=1e-3)
    np.testing.assert_allclose(mesh.bounds, [[0, 0, 1], [2, 1, 4]], atol=1e-3)
    asset = Asset()
    draco(asset, data[: len(data) // 2])
    assert "its Draco data cannot be decoded" in asset.refused(tmp_path)


def beside(folder: Path, uri: str) -> Path:
    asset = Asset()
    asset.tree["buffers"] = [{"byteLength": len(asset.data), "uri": uri}]
    (folder / "my model.bin").write_bytes(asset.data)
    path = folder / "model.gltf"
    path.write_text(json.dumps(asset.tree))
    return path


@pytest.mark.parametrize("uri", ["my%20model.bin", "my model.bin", "./my%20model.bin"])
def test_a_uri_is_percent_encoded(tmp_path, uri):
    same(load_mesh(beside(tmp_path, uri)), CORNERS)


def test_a_data_uri_is_read(tmp_path):
    asset = Asset()
    text = base64.b64encode(asset.data).decode()
    asset.tree["buffers"] = [
        {"byteLength": len(asset.data), "uri": f"data:application/octet-stream;base64,{text}"}
    ]
    same(asset.load(tmp_path), CORNERS)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gone.bin", "buffer gone.bin is not beside the file; copy it there, or export as .glb"),
        ("a%20b.bin", "buffer a b.bin is not beside the file"),
        ("../my%20model.bin", "is not in the file's folder, so it is not opened"),
        ("%2e%2e/x.bin", "is not in the file's folder, so it is not opened"),
        ("/etc/hostname", "is not in the file's folder, so it is not opened"),
        ("file:///etc/hostname", "is not in the file's folder, so it is not opened"),
        ("data:application/octet-stream;base64,AAAA", "holds 3 of 72 bytes; copy it again"),
    ],
)
def test_a_buffer_that_cannot_be_read_is_named(tmp_path, uri, message):
    with pytest.raises(DataError) as error:
        load_mesh(beside(tmp_path, uri))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["asset"].update(version="1.0"), "glTF 1.0 is not read; export it as glTF 2.0"),
        (lambda t: t["accessors"][0].update(count=99), "reaches beyond its buffer view"),
        (lambda t: t["accessors"][0].update(byteOffset=-4), "reaches beyond its buffer view"),
        (lambda t: t["accessors"][1].update(count=11), "11 corners are no whole triangles"),
        (lambda t: t["accessors"][0].update(count=3), "a face points outside the 3 vertices"),
        (lambda t: t["bufferViews"][0].update(byteLength=999), "buffer view 0 reaches beyond"),
        (lambda t: t["nodes"][0].update(mesh=5), "meshes 5 of 1"),
        (lambda t: t["nodes"][0].update(children=[0]), "nodes in a circle"),
        (lambda t: t.update(accessors=[]), "accessors 0 of 0"),
        (lambda t: t.pop("asset"), "no 'asset'"),
        (lambda t: t.update(nodes=3), "not a sound glTF file"),
        (lambda t: t["meshes"][0]["primitives"][0]["attributes"].clear(), "has no POSITION"),
        (lambda t: t["meshes"][0]["primitives"][0].update(mode=9), "not a sound glTF file"),
        (lambda t: t["buffers"][0].update(byteLength=9999), "the binary chunk holds"),
        (lambda t: t["nodes"][0].pop("mesh"), "the mesh has no faces"),
    ],
)
def test_each_defect_is_named(tmp_path, change, message):
    asset = Asset()
    asset.tree["buffers"] = [{"byteLength": len(asset.data)}]
    change(asset.tree)
    assert message in asset.refused(tmp_path)


def test_parts_that_share_a_list_of_vertices_keep_their_own(tmp_path):
    asset = Asset()
    shared = [
        {**asset.primitive, "indices": asset.accessor(face.astype(np.uint16)[:, None])}
        for face in FACES
    ]
    asset.tree["meshes"][0]["primitives"] = shared
    mesh = asset.load(tmp_path)
    same(mesh, CORNERS)
    assert len(mesh.vertices) == 12
