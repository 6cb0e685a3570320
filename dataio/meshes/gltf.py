"""glTF 2.0, `.gltf` and `.glb`: the triangles of the scene that a viewer shows first.

What changes geometry is either read or refused by name: all layouts of accessors (strided, sparse,
normalised, quantised), all modes of triangles, nodes, instances (EXT_mesh_gpu_instancing), default
weights of morph targets, skins in their bind pose, and Draco where DracoPy is installed. Points and
lines have no surface and are passed over; a file of nothing else is refused. Animations are not
played.

Shape legend: V vertices, F triangles, N rows of an accessor, I instances, J joints.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from dataio.meshes.polygons import Floats, Indices, strip
from dataio.meshes.rendering import MAX_FACES
from dataio.records import DataError

Array = NDArray[np.generic]

_DRACO = "KHR_draco_mesh_compression"
_INSTANCING = "EXT_mesh_gpu_instancing"
_VISIBILITY = "KHR_node_visibility"
_MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
_READ = {_DRACO, _INSTANCING, _VISIBILITY, *_MESHOPT, "KHR_mesh_quantization"}
# Extensions of looks, lights and notes: geometry is the same without them.
_NO_GEOMETRY = re.compile(
    r"(KHR|EXT|ADOBE|MSFT|MOZ|AGI|GOOGLE|WEB3D)_(materials|material|texture|lights|light|xmp|audio"
    r"|animation|sampler|image)\w*|KHR_techniques_webgl|EXT_(structural_metadata|mesh_features"
    r"|feature_metadata|instance_features)"
)
_UNCOMPRESSED = "decompress it (`gltf-transform copy`) or export without compression"
_MODES = ("points", "lines", "lines", "lines", "triangles", "triangle strips", "triangle fans")
_TYPES = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_MOST_ROWS = 3 * MAX_FACES  # of an accessor that no bytes stand behind
_MAX_BYTES = 512 << 20
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def read_gltf(content: bytes, path: Path) -> tuple[Floats, Indices]:
    """Vertices [V, 3] and triangles [F, 3] of the content of the file `path`, in the scene's space.

    No other file is opened than buffers in the file's own folder. Raises DataError naming file and
    remedy: a missing or foreign buffer, an extension or a compression that is not read, nothing but
    points and lines, or a damaged file.
    """
    try:
        return _File(content, path).triangles()
    except DataError:
        raise
    except (
        KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError,
        struct.error,
    ) as error:  # fmt: skip
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: not a sound glTF file ({reason}); export it again") from error


class _File:
    def __init__(self, content: bytes, path: Path) -> None:
        self.path = path
        text, self._binary = self._chunks(content)
        self.tree: dict[str, Any] = json.loads(text)
        version = str(self.tree["asset"]["version"])
        if not version.startswith("2."):
            raise DataError(f"{path}: glTF {version} is not read; export it as glTF 2.0")
        for name in self.tree.get("extensionsRequired", ()):
            if name not in _READ and not _NO_GEOMETRY.fullmatch(name):
                raise DataError(
                    f"{path}: needs the glTF extension {name}, which is not read; export without it"
                )
        self._buffers: dict[int, bytes] = {}
        self._worlds = self._placed()

    def triangles(self) -> tuple[Floats, Indices]:
        vertices, faces = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)]
        total = start = 0
        passed_over: set[str] = set()
        for number in self._shown():
            node = self.tree["nodes"][number]
            if "mesh" not in node:
                continue
            mesh = self._item("meshes", node["mesh"])
            weights = node.get("weights", mesh.get("weights", ()))
            instances = self._instances(node, self._worlds[number])
            for primitive in mesh["primitives"]:
                mode = primitive.get("mode", 4)
                if _MODES[mode] in ("points", "lines"):
                    passed_over.add(_MODES[mode])
                    continue
                points, triangles = self._primitive(primitive, mode, weights)
                total += len(triangles) * len(instances)
                if total > MAX_FACES:
                    raise DataError(
                        f"{self.path}: more than the {MAX_FACES} faces that are rendered; simplify"
                    )
                if "skin" in node:
                    points, worlds = self._posed(points, primitive, node["skin"]), [np.eye(4)]
                else:
                    worlds = instances
                if 3 * len(triangles) < len(points):  # parts may share one long list of vertices
                    used, triangles = np.unique(triangles, return_inverse=True)
                    points, triangles = points[used], triangles.reshape(-1, 3)
                placed = [points @ world[:3, :3].T + world[:3, 3] for world in worlds]
                for one in placed:
                    vertices.append(one)
                    faces.append(triangles + start)
                    start += len(one)
        if total == 0 and passed_over:
            held = " and ".join(sorted(passed_over))
            raise DataError(f"{self.path}: holds only {held}, which have no surface; remove it")
        return np.concatenate(vertices), np.concatenate(faces)

    def _chunks(self, content: bytes) -> tuple[bytes, bytes | None]:
        """The JSON text and, of a GLB file that has one, the binary chunk."""
        if content[:4] != b"glTF":
            return content, None
        _, version, length = struct.unpack_from("<4sII", content)
        if version != 2:
            raise DataError(f"{self.path}: GLB version {version} is not read; export it as 2.0")
        if length > len(content):
            raise DataError(f"{self.path}: cut short, {len(content)} of {length} bytes; restore it")
        chunks: dict[int, bytes] = {}
        at = 12
        while at + 8 <= length:
            size, kind = struct.unpack_from("<II", content, at)
            if at + 8 + size > length:
                raise ValueError("a chunk is cut short")
            chunks.setdefault(kind, content[at + 8 : at + 8 + size])
            at += 8 + size
        return chunks[0x4E4F534A], chunks.get(0x004E4942)

    def _item(self, kind: str, number: int) -> dict[str, Any]:
        """Entry `number` of one of the file's lists."""
        held = self.tree.get(kind, ())
        if not 0 <= number < len(held):
            raise ValueError(f"{kind} {number} of {len(held)}")
        return held[number]

    # Nodes

    def _placed(self) -> list[Floats]:
        """The matrix [4, 4] from each node's space to the scene's."""
        nodes = self.tree.get("nodes", ())
        children = {child for node in nodes for child in node.get("children", ())}
        found: dict[int, Floats] = {}
        waiting = [(n, np.eye(4)) for n in range(len(nodes)) if n not in children]
        while waiting:
            number, above = waiting.pop()
            node = self._item("nodes", number)
            if number in found:
                raise ValueError(f"node {number} has two parents")
            found[number] = above @ _local(node)
            waiting += [(child, found[number]) for child in node.get("children", ())]
        if len(found) < len(nodes):
            raise ValueError("nodes in a circle")
        return [found[number] for number in range(len(nodes))]

    def _shown(self) -> list[int]:
        """The nodes of the scene, parents first; hidden ones left out with all below them."""
        nodes, scenes = self.tree.get("nodes", ()), self.tree.get("scenes", ())
        if scenes:
            roots = self._item("scenes", self.tree.get("scene", 0)).get("nodes", ())
        else:
            children = {child for node in nodes for child in node.get("children", ())}
            roots = [number for number in range(len(nodes)) if number not in children]
        found, waiting = [], list(reversed(roots))
        while waiting:
            number = waiting.pop()
            node = self._item("nodes", number)
            if not _extension(node, _VISIBILITY).get("visible", True):
                continue
            found.append(number)
            waiting += reversed(node.get("children", ()))
        return found

    def _instances(self, node: Mapping[str, Any], world: Floats) -> list[Floats]:
        """The matrix of every copy of a node's mesh."""
        attributes = _extension(node, _INSTANCING).get("attributes", {})
        held = {
            name: self._rows(attributes[name])
            for name in ("TRANSLATION", "ROTATION", "SCALE")
            if name in attributes
        }
        if not held:
            return [world]
        count = min(map(len, held.values()))
        if count > MAX_FACES:
            raise DataError(f"{self.path}: {count} instances; export fewer")
        move = held.get("TRANSLATION", np.zeros((count, 3)))
        turn = held.get("ROTATION", np.tile((0.0, 0.0, 0.0, 1.0), (count, 1)))
        scale = held.get("SCALE", np.ones((count, 3)))
        return [world @ _composed(*one) for one in zip(move, turn, scale, strict=False)]

    # Meshes

    def _primitive(
        self, primitive: Mapping[str, Any], mode: int, weights: Any
    ) -> tuple[Floats, Indices]:
        """Vertices, morphed by the weights, and triangles of a primitive."""
        attributes = primitive["attributes"]
        if "POSITION" not in attributes:
            raise DataError(f"{self.path}: a primitive has no POSITION; export it again")
        draco = _extension(primitive, _DRACO)
        if draco and "bufferView" not in self._item("accessors", attributes["POSITION"]):
            if "JOINTS_0" in attributes:
                raise DataError(
                    f"{self.path}: a skinned part is compressed with Draco; {_UNCOMPRESSED}"
                )
            points, triangles = self._from_draco(draco)
        else:
            points = self._rows(attributes["POSITION"])
            if "indices" in primitive:
                corners = self._rows(primitive["indices"])[:, 0].astype(np.int64)
            else:
                corners = np.arange(len(points))
            triangles = _cut(corners, mode)
        for weight, target in zip(weights, primitive.get("targets", ()), strict=False):
            if weight and "POSITION" in target:
                points = points + weight * self._rows(target["POSITION"])
        if points.shape[1] != 3:
            raise ValueError("POSITION is no VEC3")
        if len(triangles) and triangles.max() >= len(points):
            raise DataError(
                f"{self.path}: a face points outside the {len(points)} vertices; export it again"
            )
        return points, triangles

    def _posed(self, points: Floats, primitive: Mapping[str, Any], number: int) -> Floats:
        """The vertices [V, 3] of a skinned mesh where its joints put them."""
        skin = self._item("skins", number)
        joints = skin["joints"]
        back = np.tile(np.eye(4), (len(joints), 1, 1))
        if "inverseBindMatrices" in skin:
            back = self._rows(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
        moves = np.stack([self._worlds[j] @ m for j, m in zip(joints, back, strict=False)])
        attributes = primitive["attributes"]
        total, share = np.zeros((len(points), 4, 4)), np.zeros(len(points))
        for name in attributes:
            if name.startswith("JOINTS_"):
                used = self._rows(attributes[name]).astype(np.int64)
                weight = self._rows(attributes[name.replace("JOINTS", "WEIGHTS")])
                total += np.einsum("vk,vkij->vij", weight, moves[used])
                share += weight.sum(axis=1)
        if not (share > 0).all():
            raise ValueError("a vertex hangs on no joint")
        total /= share[:, None, None]
        return np.einsum("vij,vj->vi", total[:, :3, :3], points) + total[:, :3, 3]

    def _from_draco(self, draco: Mapping[str, Any]) -> tuple[Floats, Indices]:
        try:
            import DracoPy  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise DataError(
                f"{self.path}: compressed with Draco ({_DRACO}); {_UNCOMPRESSED}, or "
                '`pip install "img2shape[draco]"`'
            ) from None
        data, _ = self._view(draco["bufferView"])
        try:
            mesh = DracoPy.decode(data)
            points = np.asarray(mesh.points, np.float64).reshape(-1, 3)
            return points, np.asarray(mesh.faces, np.int64).reshape(-1, 3)
        except Exception as error:  # whatever the decoder meets in damaged data
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise DataError(
                f"{self.path}: its Draco data cannot be decoded ({reason}); export it again"
            ) from error

    # Accessors

    def _rows(self, number: int) -> Floats:
        """The values of an accessor, [N, width]; normalised integers become -1..1 or 0..1."""
        accessor = self._item("accessors", number)
        count, width = accessor["count"], _WIDTHS[accessor["type"]]
        kind = _TYPES[accessor["componentType"]]
        if "bufferView" in accessor:
            values = self._read(accessor, kind=kind, width=width, count=count).copy()
        elif count > _MOST_ROWS:
            raise ValueError(f"{count} rows without data")
        else:
            values = np.zeros((count, width), "<" + kind)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            places = self._read(
                sparse["indices"],
                kind=_TYPES[sparse["indices"]["componentType"]],
                width=1,
                count=sparse["count"],
            )
            values[places[:, 0].astype(np.int64)] = self._read(
                sparse["values"], kind=kind, width=width, count=sparse["count"]
            )
        found = values.astype(np.float64)
        if accessor.get("normalized") and kind[0] != "f":
            found = np.maximum(found / np.iinfo(kind).max, -1)
        return found

    def _read(self, place: Mapping[str, Any], *, kind: str, width: int, count: int) -> Array:
        """`count` rows [count, width] from the buffer view of an accessor or a part of one."""
        data, stride = self._view(place["bufferView"])
        dtype, offset = np.dtype("<" + kind), place.get("byteOffset", 0)
        step = stride or dtype.itemsize * width
        end = offset + (count - 1) * step + dtype.itemsize * width
        if count < 1 or offset < 0 or step < 1 or end > len(data):
            raise ValueError(f"an accessor reaches beyond its buffer view of {len(data)} bytes")
        return np.ndarray((count, width), dtype, data, offset, (step, dtype.itemsize))

    def _view(self, number: int) -> tuple[bytes, int]:
        """The bytes of a buffer view, and its stride, 0 for none."""
        view = self._item("bufferViews", number)
        held = self._item("buffers", view["buffer"])
        for name in _MESHOPT:
            if name in view.get("extensions", {}) and "uri" not in held:
                fallback = _extension(held, name).get("fallback") or view["buffer"] > 0
                if fallback or self._binary is None:
                    raise DataError(f"{self.path}: compressed with {name}; {_UNCOMPRESSED}")
        buffer, start = self._buffer(view["buffer"]), view.get("byteOffset", 0)
        end = start + view["byteLength"]
        if not 0 <= start <= end <= len(buffer):
            raise ValueError(f"buffer view {number} reaches beyond its buffer")
        return buffer[start:end], view.get("byteStride", 0)

    def _buffer(self, number: int) -> bytes:
        if number not in self._buffers:
            buffer = self._item("buffers", number)
            uri = buffer.get("uri")
            if uri is not None:
                data, name = self._at(uri), f"buffer {_shortened(uri)}"
            elif number == 0 and self._binary is not None:
                data, name = self._binary, "the binary chunk"
            else:
                raise ValueError(f"buffer {number} has no data")
            if len(data) < buffer["byteLength"]:
                raise DataError(
                    f"{self.path}: {name} holds {len(data)} of {buffer['byteLength']} bytes; copy "
                    "it again"
                )
            self._buffers[number] = data
        return self._buffers[number]

    def _at(self, uri: str) -> bytes:
        """The content of a data URI, or of a file in the folder of this one."""
        if uri.startswith("data:"):
            head, comma, body = uri.partition(",")
            if not comma:
                raise ValueError("a data URI without data")
            try:
                raw = unquote_to_bytes(body)
                return base64.b64decode(raw) if head.endswith(";base64") else raw
            except binascii.Error as error:
                raise ValueError("a data URI that is not base64") from error
        name = unquote(uri)
        inside = PurePosixPath(name.replace("\\", "/"))
        if _SCHEME.match(uri) or inside.is_absolute() or ".." in inside.parts:
            raise DataError(
                f"{self.path}: buffer {_shortened(name)} is not in the file's folder, so it is not "
                "opened; put it beside the file, or export as .glb"
            )
        candidates = (self.path.parent / inside, self.path.parent / uri)
        file = next((one for one in candidates if one.is_file()), None)
        if file is None:
            raise DataError(
                f"{self.path}: buffer {name} is not beside the file; copy it there, or export as "
                ".glb"
            )
        try:
            if file.stat().st_size > _MAX_BYTES:
                raise DataError(f"{file}: more than {_MAX_BYTES >> 20} MiB; simplify the mesh")
            return file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: cannot read ({error.strerror}); restore the file") from error


def _extension(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return holder.get("extensions", {}).get(name, {})


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _cut(corners: Indices, mode: int) -> Indices:
    """Triangles [F, 3] of a primitive's corners."""
    if mode == 5:
        return strip(corners)
    if mode == 6:
        middle = np.full(max(len(corners) - 2, 0), corners[0] if len(corners) else 0)
        return np.stack([corners[1:-1], corners[2:], middle], axis=1)
    if len(corners) % 3:
        raise ValueError(f"{len(corners)} corners are no whole triangles")
    return corners.reshape(-1, 3)


def _local(node: Mapping[str, Any]) -> Floats:
    """A node's own matrix [4, 4]."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    return _composed(
        np.array(node.get("translation", (0, 0, 0)), np.float64),
        np.array(node.get("rotation", (0, 0, 0, 1)), np.float64),
        np.array(node.get("scale", (1, 1, 1)), np.float64),
    )


def _composed(move: Floats, turn: Floats, scale: Floats) -> Floats:
    """The matrix [4, 4] of translation, rotation (a quaternion x, y, z, w) and scale."""
    x, y, z, w = turn / (np.linalg.norm(turn) or 1.0)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= scale
    matrix[:3, 3] = move
    return matrix
