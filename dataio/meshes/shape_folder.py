"""The folder of one shape's views: complete or absent, and with a note of what it was made from."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataio.meshes.reading import load_mesh
from dataio.meshes.rendering import RenderSpec, render_views
from dataio.records import DataError, Record

_NOTE = "shape.json"


@dataclass(frozen=True)
class Outcome:
    """What became of one shape: rendered (`made`), unchanged, or failed for a `reason`."""

    made: bool = False
    reason: str | None = None


def render_mesh(record: Record, *, spec: RenderSpec) -> NDArray[np.uint8]:
    """Views of a record's mesh, uint8 [V, H, W]; the record's own `up_axis` replaces the spec's.

    The mesh is turned by the record's `rotation` before that.

    Raises DataError naming the mesh's file.
    """
    assert record.mesh is not None
    turned = replace(spec, up_axis=record.up_axis)
    mesh = load_mesh(record.mesh)
    if record.rotation is not None:
        mesh.vertices = mesh.vertices @ np.reshape(record.rotation, (3, 3)).T
    return render_views(mesh, turned, name=str(record.mesh))


def render_shape(record: Record, folder: Path, *, spec: RenderSpec) -> Outcome:
    """Bring the folder of a shape up to date; remove it if the mesh cannot be rendered.

    A kill at any moment leaves a whole folder or none, and hidden ones that the next call removes.
    """
    assert record.mesh is not None
    try:
        note = _described(record, record.mesh)
        if _is_current(folder, note):
            return Outcome()
        views = render_mesh(record, spec=spec)
    except (DataError, MemoryError) as error:
        _discard(folder)
        reason = str(error) or "needs more memory than there is; simplify it"
        return Outcome(
            reason=reason.replace(str(record.mesh), record.source_path or record.mesh.name)
        )
    _write_shape(folder, note, views)
    return Outcome(made=True)


def _described(record: Record, mesh: Path) -> dict[str, Any]:
    """What a shape's views depend on beside the spec."""
    try:
        with mesh.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            size = file.tell()
    except OSError as error:
        raise DataError(f"{mesh}: cannot read ({error.strerror}); restore the file") from error
    return {
        "key": record.key,
        "source_path": record.source_path,
        "up_axis": record.up_axis,
        "rotation": None if record.rotation is None else list(record.rotation),
        "mesh_bytes": size,
        "mesh_sha256": digest.hexdigest(),
    }


def _is_current(folder: Path, wanted: Mapping[str, Any]) -> bool:
    note = read_note(folder)
    # Notes from before there were rotations say nothing of one.
    if note is None or {"rotation": None, **note, **wanted} != {"rotation": None, **note}:
        return False
    sizes = note["view_bytes"]
    try:
        files = view_files(folder, wanted["key"], len(sizes))
        return [file.stat().st_size for file in files] == sizes
    except FileNotFoundError:
        return False


def _write_shape(folder: Path, note: Mapping[str, Any], views: NDArray[np.uint8]) -> None:
    """Put a shape's folder in place, whole; views [V, H, W]."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    pictures = [_png(view) for view in views]
    for file, content in zip(view_files(part, folder.name, len(views)), pictures, strict=True):
        file.write_bytes(content)
    whole = {**note, "view_bytes": [len(content) for content in pictures]}
    (part / _NOTE).write_text(json.dumps(whole) + "\n", encoding="utf-8")
    _discard(folder)
    os.rename(part, folder)


def _discard(folder: Path) -> None:
    """Remove a shape's folder so that no part of it is ever seen."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
        shutil.rmtree(old)


def _png(view: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(view).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def view_files(folder: Path, key: str, count: int) -> list[Path]:
    """A shape's pictures in ring order."""
    return [folder / f"{key}_{number:03d}.png" for number in range(1, count + 1)]


def read_note(folder: Path) -> dict[str, Any] | None:
    """What is noted of a shape's views; None if there are none."""
    try:
        return json.loads((folder / _NOTE).read_bytes())
    except (FileNotFoundError, ValueError):  # a cut file: the views are made again
        return None
