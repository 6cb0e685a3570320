"""Mesh files to geometry: vertices and triangles, and nothing else that a file may hold.

OFF and OBJ, the formats of the field's data sets, are read here: tolerant of what their many
writers did, exact about what is broken, and fast. PLY and glTF have a file of their own, STL goes
through trimesh. Materials, textures and colours are never looked at, so a missing file of those
does not matter.

Shape legend: V vertices, F triangles, R rows (lines) of text, T numbers in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from dataio.meshes.gltf import read_gltf
from dataio.meshes.ply import read_ply
from dataio.meshes.polygons import Floats, Indices, fans, unfolded
from dataio.meshes.rendering import MAX_FACES
from dataio.records import DataError

MESH_SUFFIXES = (".off", ".obj", ".ply", ".stl", ".glb", ".gltf")

_MAX_BYTES = 512 << 20
_COMMENT = re.compile(rb"#[^\n]*")
_INDENT = re.compile(rb"^[ \t]+", re.MULTILINE)
_MAGIC = re.compile(rb"\s*(?:ST)?C?N?(4?n?)OFF(\s+BINARY)?")
_COUNTS = re.compile(rb"\s*(\d+)\s+(\d+)[^\n]*")  # the magic word may be glued to them


def load_mesh(path: Path) -> trimesh.Trimesh:
    """The geometry of a mesh file; polygons become triangles, parts and scenes one mesh.

    A polygon covers its own area, concave or not (see `polygons.unfolded`). Vertices are neither
    merged nor reordered. No other file is opened, save the buffers of a .gltf in its own folder.

    Raises DataError, naming the file, the line where there is one, and the remedy: for an unknown
    suffix, a missing or too large file, one that is cut short or damaged, an index outside the
    vertices, NaN or infinity in a face's vertex, or no faces at all.
    """
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        known = ", ".join(MESH_SUFFIXES)
        raise DataError(f"{path}: no mesh file by its suffix '{suffix}'; known are {known}")
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _MAX_BYTES else b""
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror}); restore the file") from error
    if size > _MAX_BYTES:
        raise DataError(f"{path}: {size >> 20} MiB, at most {_MAX_BYTES >> 20} are read; simplify")
    if suffix in (".glb", ".gltf"):
        vertices, faces = read_gltf(content, path)
    elif suffix == ".ply":
        vertices, faces = read_ply(content, path)
    elif suffix in (".off", ".obj"):
        read = _read_off if suffix == ".off" else _read_obj
        vertices, faces = read(content.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), path)
    else:
        vertices, faces = _read_stl(path)
    if not len(faces):
        raise DataError(f"{path}: the mesh has no faces; remove it or restore the file")
    _check_face_count(len(faces), path)
    if not np.isfinite(vertices[faces]).all():
        raise DataError(f"{path}: a vertex is NaN or infinite; remove the mesh or repair the file")
    return trimesh.Trimesh(vertices, faces, process=False)


def _check_face_count(count: int, path: Path) -> None:
    if count > MAX_FACES:
        raise DataError(f"{path}: {count} faces, at most {MAX_FACES} are rendered; simplify it")


def _read_stl(path: Path) -> tuple[Floats, Indices]:
    try:
        mesh = trimesh.load(str(path), force="mesh", process=False)
        vertices = np.asarray(getattr(mesh, "vertices", ()), np.float64).reshape(-1, 3)
        faces = np.asarray(getattr(mesh, "faces", ()), np.int64).reshape(-1, 3)
    except Exception as error:  # whatever a parser meets in a damaged file
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{path}: not a sound mesh ({reason}); export it again") from error
    return vertices, faces


def _read_off(content: bytes, path: Path) -> tuple[Floats, Indices]:
    """ASCII OFF with any of the prefixes ST, C, N: what follows x, y, z in a row is left out."""
    text = _COMMENT.sub(b"", content.removeprefix(b"\xef\xbb\xbf"))
    magic = _MAGIC.match(text)
    if magic is None:
        raise DataError(f"{path}: does not begin with OFF; restore the file")
    if magic[1] or magic[2]:
        raise DataError(f"{path}: 4OFF, nOFF and binary OFF are not read; convert to ASCII OFF")
    counts = _COUNTS.match(text, magic.end())
    if counts is None:
        raise DataError(f"{path}: no counts of vertices and faces after OFF; restore the file")
    vertex_count, face_count = int(counts[1]), int(counts[2])
    _check_face_count(face_count, path)
    rows = _Rows.of(text[counts.end() :], path, first_line=1 + text.count(b"\n", 0, counts.end()))
    rows = rows.take(np.flatnonzero(rows.length))
    if len(rows.first) != vertex_count + face_count:
        raise DataError(
            f"{path}: header promises {vertex_count} vertices and {face_count} faces, "
            f"{len(rows.first)} rows follow; restore the file or correct the header"
        )
    polygons = rows.take(np.arange(vertex_count, len(rows.first)))
    corners = polygons.whole(polygons.first, np.arange(face_count))
    short = (corners < 0) | (corners >= polygons.length)
    polygons.refuse(np.flatnonzero(short), "the face is cut short")
    faces, row = polygons.fans(polygons.first + 1, corners)
    polygons.refuse_outside(faces, row, vertex_count)
    vertices = rows.take(np.arange(vertex_count)).positions()
    return vertices, unfolded(vertices, faces, row)


def _read_obj(content: bytes, path: Path) -> tuple[Floats, Indices]:
    """Wavefront OBJ: `v` and `f` of all objects and groups; every other statement is left out."""
    text = _INDENT.sub(b"", _COMMENT.sub(b"", content.removeprefix(b"\xef\xbb\xbf")))
    lines = text.replace(b"\\\n", b"  ").split(b"\n")
    vertex_lines = [n for n, line in enumerate(lines, 1) if line.startswith((b"v ", b"v\t"))]
    face_lines = [n for n, line in enumerate(lines, 1) if line.startswith((b"f ", b"f\t"))]
    _check_face_count(len(face_lines), path)
    rows = _Rows.of(_without_keyword(lines, vertex_lines), path, lines=vertex_lines)
    polygons = _without_keyword(lines, face_lines)
    if b"/" in polygons:
        polygons = _positions_only(polygons)
    polygons = _Rows.of(polygons, path, lines=face_lines)
    faces, row = polygons.fans(polygons.first, polygons.length)
    defined = np.searchsorted(vertex_lines, face_lines)[row, None]  # negative ones count back
    faces = np.where(faces < 0, np.where(faces < -defined, -1, faces + defined), faces - 1)
    polygons.refuse_outside(faces, row, len(vertex_lines))
    vertices = rows.positions()
    return vertices, unfolded(vertices, faces, row)


def _without_keyword(lines: Sequence[bytes], numbers: Sequence[int]) -> bytes:
    return b"\n".join([lines[n - 1][2:] for n in numbers])


def _positions_only(polygons: bytes) -> bytes:
    """Corners of an OBJ without their indices of texture and normal, `7/3/1` to `7`."""
    characters = np.frombuffer(polygons, np.uint8).copy()
    place = np.arange(len(characters), dtype=np.int32)
    slash, blank = (
        np.maximum.accumulate(np.where(chosen, place, -1))
        for chosen in (characters == ord("/"), characters <= ord(" "))
    )
    characters[slash > blank] = ord(" ")
    return characters.tobytes()


@dataclass(frozen=True)
class _Rows:
    """Lines of numbers, parsed in one go."""

    path: Path
    values: Floats  # [T]
    first: Indices  # [R] where in `values` a row begins
    length: Indices  # [R] how many numbers it has
    line: Indices  # [R] its line in the file, from 1

    @classmethod
    def of(
        cls,
        text: bytes,
        path: Path,
        *,
        first_line: int = 1,
        lines: Sequence[int] | None = None,
    ) -> _Rows:
        """A row for each line of `text`, empty ones included; `lines` or else `first_line` and on
        are their lines in the file."""
        characters = np.frombuffer(b" " + text, np.uint8)
        blank = characters <= 32
        starts = np.flatnonzero(blank[:-1] & ~blank[1:])
        breaks = np.flatnonzero(characters[1:] == 10)
        first = np.concatenate([[0], np.searchsorted(starts, breaks)])
        length = np.diff(first, append=len(starts))
        if lines is None:
            lines = range(first_line, first_line + len(first))
        if not text:
            first, length = first[:0], length[:0]
        line = np.fromiter(lines, np.int64, len(first))
        return cls(path, _numbers(text, len(starts), path, line), first, length, line)

    def take(self, chosen: Indices) -> _Rows:
        """Some of the rows."""
        kept = (self.first[chosen], self.length[chosen], self.line[chosen])
        return _Rows(self.path, self.values, *kept)

    def refuse(self, rows: Indices, problem: str) -> None:
        """DataError about the first of some rows, if there are any."""
        if len(rows):
            line = self.line[rows.min()]
            raise DataError(f"{self.path}: line {line}: {problem}; restore or correct the file")

    def refuse_outside(self, faces: Indices, row: Indices, vertex_count: int) -> None:
        """DataError about the first face [F, 3], of row [F], with an index of no vertex."""
        outside = ((faces < 0) | (faces >= vertex_count)).any(axis=1)
        self.refuse(row[outside], f"the face points outside the {vertex_count} vertices")

    def positions(self) -> Floats:
        """The first three numbers of each row, [R, 3]."""
        self.refuse(np.flatnonzero(self.length < 3), "a vertex needs three coordinates")
        return self.values[self.first[:, None] + np.arange(3)]

    def whole(self, at: Indices, row: Indices) -> Indices:
        """The whole numbers at places [N, ...] of `values`, which are in rows [N]."""
        values = self.values[at]
        with np.errstate(invalid="ignore"):
            whole = values.astype(np.int64)
        wrong = np.nonzero(whole != values)[0]
        self.refuse(row[wrong], "a whole number was expected")
        return whole

    def fans(self, first: Indices, corners: Indices) -> tuple[Indices, Indices]:
        """Triangles [F, 3] of one polygon a row, whose corners stand from `first` [R] on, and the
        row [F] of each; polygons of fewer than three corners give none."""
        at, row = fans(first, corners)
        return self.whole(at, row), row


def _numbers(text: bytes, count: int, path: Path, line: Indices) -> Floats:
    """All numbers of a text, in which there are `count` words."""
    if not count:
        return np.zeros(0)
    try:
        values = np.fromstring(text, dtype=np.float64, sep=" ")
    except ValueError:
        values = np.zeros(0)
    if len(values) == count:
        return values
    for number, row in zip(line.tolist(), text.split(b"\n"), strict=False):
        for word in row.split():
            try:
                float(word)
            except ValueError:
                shown = word[:20].decode("ascii", "backslashreplace")
                raise DataError(
                    f"{path}: line {number}: a number was expected, found {shown!r}; "
                    "restore or correct the file"
                ) from None
    raise DataError(f"{path}: holds words that are no numbers; restore the file")
