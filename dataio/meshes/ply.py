"""PLY files, ASCII and binary: vertices, polygons and triangle strips; all else is passed over."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataio.meshes.polygons import Floats, Indices, fans, strip, unfolded
from dataio.records import DataError

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_HEADER = re.compile(
    rb"ply[ \t]*\r?\n(.*?)^end_header[ \t]*(?:\r\n|\n|\r)", re.DOTALL | re.MULTILINE
)
_LISTS = ("vertex_indices", "vertex_index")


@dataclass(frozen=True)
class _Property:
    name: str
    kind: str  # of the value, or of the items of a list
    counted: str | None = None  # the type of a list's length; None = a single value


@dataclass(frozen=True)
class _Element:
    name: str
    rows: int
    properties: tuple[_Property, ...]


def read_ply(content: bytes, path: Path) -> tuple[Floats, Indices]:
    """Vertices [V, 3] and triangles [F, 3] of the content of a PLY file; F is 0 for points alone.

    Triangle strips (an element `tristrips`) are read beside faces. Raises DataError naming the file
    for one that is no PLY or cut short, and for an index outside the vertices.
    """
    header = _HEADER.match(content)
    if header is None:
        raise DataError(f"{path}: no whole PLY header; restore the file")
    order, elements = _described(header[1].decode("latin-1"), path)
    try:
        body = _Body(content[header.end() :], order)
        held = {element.name: body.take(element) for element in elements}
        vertex = held["vertex"]
        vertices = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(np.float64)
        strips = _strips(held.get("tristrips", {}))
        _check_inside(strips, vertices)
        faces = np.concatenate([_polygons(held.get("face", {}), vertices), strips])
    except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error) or "cut short"
        raise DataError(f"{path}: not a whole PLY file ({reason}); restore the file") from error
    return vertices, faces


def _described(header: str, path: Path) -> tuple[str, list[_Element]]:
    """Order of bytes ("" for ASCII) and elements, by the lines of a header."""
    order, elements = None, []
    for line in header.splitlines():
        words = line.split()
        match words:
            case ["format", name, *_] if name in _ORDERS:
                order = _ORDERS[name]
            case ["element", name, rows] if rows.isdecimal():
                elements.append(_Element(name, int(rows), ()))
            case ["property", "list", counted, kind, name] if (
                elements and counted in _TYPES and kind in _TYPES
            ):
                elements[-1] = _with(elements[-1], _Property(name, _TYPES[kind], _TYPES[counted]))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1] = _with(elements[-1], _Property(name, _TYPES[kind]))
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                shown = line.strip()[:40]
                raise DataError(f"{path}: header line {shown!r} is not of PLY 1.0; export it again")
    if order is None:
        raise DataError(f"{path}: the header has no format; export it again")
    return order, elements


def _with(element: _Element, added: _Property) -> _Element:
    return _Element(element.name, element.rows, (*element.properties, added))


# The values of one property: [R], or of a list all items in a row and the length [R] of each list.
_Column = NDArray[np.generic]
_Columns = dict[str, _Column]


class _Body:
    """What follows the header, element after element.

    A cell is a byte of a binary file and a number of an ASCII file.
    """

    def __init__(self, content: bytes, order: str) -> None:
        self._order = order
        if order:
            self._cells: NDArray[np.generic] = np.frombuffer(content, np.uint8)
        else:
            self._cells = np.array(content.split(), dtype=np.float64)
        self._at = 0

    def take(self, element: _Element) -> _Columns:
        """The columns of the next element; a list `name` gives `name` and `name length`."""
        if not element.rows:
            return {p.name: np.zeros(0) for p in element.properties if p.counted is None}
        lengths = self._lengths(element)
        columns: _Columns = {}
        # Of each row: where it begins, then where each of its properties does.
        widths = [
            np.full(element.rows, self._size(p.kind))
            if p.counted is None
            else self._size(p.counted) + lengths[p.name] * self._size(p.kind)
            for p in element.properties
        ]
        row_width = np.sum(widths, axis=0)
        start = self._at + np.cumsum(row_width) - row_width
        for one, width in zip(element.properties, widths, strict=True):
            if one.counted is None:
                columns[one.name] = self._values(start, one.kind)
            else:
                count = lengths[one.name]
                step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
                begin = np.repeat(start + self._size(one.counted), count)
                columns[one.name] = self._values(begin + step * self._size(one.kind), one.kind)
                columns[f"{one.name} length"] = count
            start = start + width
        self._at += int(row_width.sum())
        if self._at > len(self._cells):
            raise ValueError("cut short")
        return columns

    def _lengths(self, element: _Element) -> dict[str, Indices]:
        """The lengths [R] of the lists of an element."""
        lists = [p.name for p in element.properties if p.counted]
        if not lists:
            return {}
        first = self._walk(element, rows=1)
        constant = {name: np.full(element.rows, first[name][0]) for name in lists}
        width = sum(
            self._size(p.kind)
            if p.counted is None
            else self._size(p.counted) + int(first[p.name][0]) * self._size(p.kind)
            for p in element.properties
        )
        if self._at + width * element.rows <= len(self._cells):
            at, alike = self._at + width * np.arange(element.rows), True
            for p in element.properties:
                if p.counted is not None:
                    alike &= bool((self._values(at, p.counted) == first[p.name][0]).all())
                    at = at + self._size(p.counted) + int(first[p.name][0]) * self._size(p.kind)
                else:
                    at = at + self._size(p.kind)
            if alike:  # as nearly always; no row has to be walked
                return constant
        return self._walk(element, rows=element.rows)

    def _walk(self, element: _Element, *, rows: int) -> dict[str, Indices]:
        """The lengths of the lists of the first rows, one row after another."""
        found: dict[str, list[int]] = {p.name: [] for p in element.properties if p.counted}
        steps = [
            (p.name, p.counted, self._size(p.counted or p.kind), self._size(p.kind))
            for p in element.properties
        ]
        cells, at = self._cells, self._at
        for _ in range(rows):
            for name, counted, head, item in steps:
                if counted is not None:
                    end = at + head
                    if end > len(cells):
                        raise ValueError("cut short")
                    count = self._one(at, counted)
                    if count < 0:
                        raise ValueError(f"a list of {count} items")
                    found[name].append(count)
                    at = end + count * item
                else:
                    at += head
        return {name: np.array(counts, np.int64) for name, counts in found.items()}

    def _one(self, at: int, kind: str) -> int:
        if not self._order:
            return int(self._cells[at])
        raw = self._cells[at : at + self._size(kind)].tobytes()
        if kind[0] == "f":
            return int(np.frombuffer(raw, self._order + kind)[0])
        sides = {"<": "little", ">": "big"}
        return int.from_bytes(raw, sides[self._order], signed=kind[0] == "i")  # pyright: ignore

    def _size(self, kind: str) -> int:
        return int(kind[1]) if self._order else 1

    def _values(self, at: Indices, kind: str) -> _Column:
        """The values that begin at these cells."""
        if len(at) and int(at[-1]) + self._size(kind) > len(self._cells):
            raise ValueError("cut short")
        if not self._order:
            return self._cells[at]
        raw = self._cells[at[:, None] + np.arange(self._size(kind))]
        return np.ascontiguousarray(raw).view(self._order + kind).reshape(-1)


def _polygons(face: _Columns, vertices: Floats) -> Indices:
    """Triangles of the faces' polygons."""
    name = next((one for one in _LISTS if one in face), None)
    lists = [one for one in face if f"{one} length" in face]
    if name is None and len(lists) == 1:
        name = lists[0]
    if name is None:
        return np.zeros((0, 3), np.int64)
    corners, count = _whole(face[name]), _whole(face[f"{name} length"])
    places, polygon = fans(np.cumsum(count) - count, count)
    faces = corners[places]
    _check_inside(faces, vertices)
    return unfolded(vertices, faces, polygon)


def _check_inside(faces: Indices, vertices: Floats) -> None:
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise ValueError(f"a face points outside the {len(vertices)} vertices")


def _strips(strips: _Columns) -> Indices:
    """Triangles of strips, which -1 separates; every other one turns round."""
    found = [np.zeros((0, 3), np.int64)]
    name = next((one for one in strips if f"{one} length" in strips), None)
    if name is not None:
        corners = _whole(strips[name])
        ends = np.cumsum(_whole(strips[f"{name} length"])).tolist()
        for run in np.split(corners, ends):
            for piece in np.split(run, np.flatnonzero(run < 0)):
                found.append(strip(piece[piece >= 0]))
    return np.concatenate(found)


def _whole(column: _Column) -> Indices:
    values = column.astype(np.int64)
    if not np.array_equal(values, column):
        raise ValueError("an index is no whole number")
    return values
