"""Which axis of the meshes is up, by kind of file; doubts where the geometry says another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from dataio.meshes.reading import load_mesh
from dataio.records import DataError, Record, UpAxis

_SAMPLED = 12  # meshes of a kind whose geometry is looked at
_FLAT = 0.999  # cosine between a face's normal and the axis
_AT_END = 0.01  # share of the extent within which a face lies at the end of the axis
_BASE = 0.75  # least share of the bounding rectangle that a plain base covers; a disc has 0.785
_TIP = 0.02  # share of the extent by which the centre stands inside the points below


@dataclass(frozen=True)
class Upright:
    """The up axis that the meshes of one suffix have, and why."""

    suffix: str
    axis: str  # "+y", "+z", or both joined by " and "
    because: str
    shapes: int

    def __str__(self) -> str:
        return f"{self.axis} for {self.shapes} {self.suffix} ({self.because})"


def upright(records: Iterable[Record]) -> list[Upright]:
    """The up axis by suffix of the records' meshes, in the order of the suffixes."""
    held: dict[str, list[Record]] = {}
    for record in records:
        if record.mesh is not None:
            held.setdefault(record.mesh.suffix.lower(), []).append(record)
    return [
        Upright(
            suffix,
            " and ".join(sorted({one.up_axis for one in own})),
            "; ".join(sorted({one.up_because for one in own})),
            len(own),
        )
        for suffix, own in sorted(held.items())
    ]


def doubts(records: Sequence[Record]) -> list[str]:
    """One line for each kind of file whose geometry plainly has another axis up than was taken.

    Kinds whose axis is certain are not looked at, and of the others at most 12 meshes. Half of
    them or more must plainly stand along the other axis, and none along the one that was taken.
    """
    found = []
    held: dict[str, list[Record]] = {}
    for record in records:
        if record.mesh is not None and not record.up_certain:
            held.setdefault(record.mesh.suffix.lower(), []).append(record)
    for suffix, own in sorted(held.items()):
        step = -(-len(own) // _SAMPLED)
        sample = own[::step]
        guesses = [_guess(record.mesh) for record in sample if record.mesh is not None]
        other: UpAxis = "+z" if own[0].up_axis == "+y" else "+y"
        plain = [guess for guess in guesses if guess is not None]
        if 2 * len(plain) >= len(sample) and set(plain) == {other}:
            found.append(
                f"{len(plain)} of {len(sample)} {suffix} that were looked at have a large flat "
                f"base at the lower end of {other[1]}: they look like {other} up"
            )
    return found


def _guess(mesh: Path) -> UpAxis | None:
    try:
        return plain_up_axis(load_mesh(mesh))
    except DataError:  # rendering names it
        return None


def plain_up_axis(mesh: trimesh.Trimesh) -> UpAxis | None:
    """The one axis of +y and +z along which a mesh plainly stands; None where it is not plain.

    Along that axis it has a flat base: faces at the lower end, square to the axis, that cover three
    quarters of the bounding rectangle or more, at least twice as much as at the upper end. Along
    the other axis it would fall: its centre is not above the points at the lower end. So a chair or
    a screen, which can lie on its flat back, says nothing.
    """
    corners = mesh.vertices[mesh.faces]
    twice = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(twice, axis=1) / 2
    low = corners.min(axis=(0, 1))
    extent = corners.max(axis=(0, 1)) - low
    if not (extent > 0).all():
        return None
    place = (corners - low) / extent  # [F, 3, 3], each axis from 0 to 1
    centre = (place.mean(axis=1) * area[:, None]).sum(axis=0) / area.sum()
    base, stands = {}, {}
    for number, axis in ((1, "+y"), (2, "+z")):
        level = np.abs(twice[:, number]) >= 2 * area * _FLAT
        lower, upper = (
            area[level & (np.abs(place[:, :, number] - end) <= _AT_END).all(axis=1)].sum()
            / np.prod(np.delete(extent, number))
            for end in (0, 1)
        )
        base[axis] = lower >= _BASE and lower >= 2 * upper
        under = np.delete(place[place[:, :, number] <= _AT_END], number, axis=1)
        above = np.delete(centre, number)
        inside = (under.min(axis=0) + _TIP <= above) & (above <= under.max(axis=0) - _TIP)
        stands[axis] = bool(inside.all())
    plain: list[UpAxis] = []
    if base["+y"] and not stands["+z"]:
        plain.append("+y")
    if base["+z"] and not stands["+y"]:
        plain.append("+z")
    return plain[0] if len(plain) == 1 else None
