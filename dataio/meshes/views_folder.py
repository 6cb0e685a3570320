"""A folder of rendered views, made once and packed any number of times.

    render.json                                    what decides the pixels, its digest, versions
    views/<xx>/<key>/<key>_001.png, _002.png ...   one shape, in ring order; xx spreads the keys
    views/<xx>/<key>/shape.json                    its mesh's SHA-256 and size, its views' sizes
    quarantine.jsonl                               the shapes that could not be rendered, by key

`render.json` comes first, a shape's folder appears whole by a rename, `quarantine.jsonl` comes
last. So whatever ends a job, another one continues it, and the end result is the same to the byte.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataio.atomic import write_whole
from dataio.file_locks import lock_at_once
from dataio.meshes.rendering import RenderSpec, described
from dataio.meshes.shape_folder import Outcome, read_note, render_shape, view_files
from dataio.meshes.up_axis import upright
from dataio.parallel import OrderedMap
from dataio.records import DataError, Record

SPEC_NAME = "render.json"
QUARANTINE_NAME = "quarantine.jsonl"
_VIEWS = "views"


@dataclass(frozen=True)
class Unrendered:
    """A shape without views, and why; the reason names its file as `source_path` does."""

    key: str
    source_path: str
    reason: str


@dataclass(frozen=True)
class Rendered:
    """The views in a folder. The two counts are of the `render_records` that returned it."""

    folder: Path
    spec_json: dict[str, Any]  # as `described` gives it
    quarantine: Mapping[str, Unrendered]  # by key
    made: int = 0
    unchanged: int = 0

    def files(self, key: str, *, source: str) -> tuple[Path, ...] | None:
        """A shape's views in ring order; None if it was never or could not be rendered.

        Raises DataError if the views of this key are those of another `source` path.
        """
        folder = _shape_folder(self.folder, key)
        note = read_note(folder)
        if note is None:
            return None
        if note["source_path"] != source:
            raise DataError(
                f"{folder}: holds views of {note['source_path']!r}, not of {source!r}; render this "
                "data set into a folder of its own"
            )
        return tuple(view_files(folder, key, len(note["view_bytes"])))

    def reason(self, key: str) -> str | None:
        """Why a shape could not be rendered; None if no attempt failed."""
        found = self.quarantine.get(key)
        return found.reason if found else None


def open_rendered(folder: Path) -> Rendered:
    """The views in `folder`; DataError if there are none or the folder is damaged."""
    spec_json = _read_spec(folder)
    if spec_json is None:
        raise DataError(f"{folder}: no {SPEC_NAME}; make the views with `img2shape data render`")
    return Rendered(folder, spec_json, _read_quarantine(folder))


def render_records(
    records: Iterable[Record],
    out: Path,
    *,
    spec: RenderSpec,
    run: OrderedMap,
    progress: Callable[[int, int], None] | None = None,
) -> Rendered:
    """Render the mesh of every record that has one; the others are left out.

    A shape is rendered again if its mesh's content, its `up_axis` or its `source_path` changed, or
    if its views' sizes are not as noted (they are not synced to disk one by one), and otherwise
    left as it is. One that cannot be rendered never stops the job: it goes to the quarantine, where
    shapes of earlier jobs that are not among `records` stay. The bytes depend on neither `run` nor
    the order of the records.

    Args:
        out: created if absent.
        spec: the look of the views; each record's own `up_axis` replaces the spec's.
        progress: called with (shapes done, shapes in all).

    Raises:
        DataError: no mesh among the records, a key used twice, views of another spec in `out`,
            another process rendering into it, or not one of the meshes could be rendered.
        OSError: the disk is full or `out` cannot be written.
    """
    shapes = [record for record in records if record.mesh is not None]
    _check_keys(shapes)
    out.mkdir(parents=True, exist_ok=True)
    failed: dict[str, Unrendered] = {}
    made = unchanged = 0
    with _alone_in(out):
        spec_json = _claim(out, spec, shapes)
        work = partial(_render, out=out, spec=spec)
        for record, outcome in zip(shapes, run(work, shapes), strict=True):
            made += outcome.made
            if outcome.reason is not None:
                failed[record.key] = Unrendered(record.key, record.source_path, outcome.reason)
            elif not outcome.made:
                unchanged += 1
            if progress is not None:
                progress(made + unchanged + len(failed), len(shapes))
        keys = {record.key for record in shapes}
        earlier = {k: v for k, v in _read_quarantine(out).items() if k not in keys}
        quarantine = dict(sorted({**earlier, **failed}.items()))
        _write_quarantine(out, quarantine)
    if len(failed) == len(shapes):
        raise DataError(
            f"{out}: none of {len(shapes)} meshes could be rendered, see {QUARANTINE_NAME} there; "
            f"the first: {failed[shapes[0].key].reason}"
        )
    return Rendered(out, spec_json, quarantine, made, unchanged)


def _check_keys(shapes: list[Record]) -> None:
    if not shapes:
        raise DataError("no meshes to render; pack this data set as it is")
    sources: dict[str, str] = {}
    for shape in shapes:
        if shape.key in sources:
            raise DataError(
                f"key {shape.key!r} is used twice: by {sources[shape.key]} and by "
                f"{shape.source_path}; keys must be unique in a data set"
            )
        sources[shape.key] = shape.source_path


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keep other jobs out of the folder until the block or the process ends."""
    folder = os.open(out, os.O_RDONLY)
    try:
        lock_at_once(folder, out, doing="renders into this folder")
        yield
    finally:
        os.close(folder)


def _render(record: Record, *, out: Path, spec: RenderSpec) -> Outcome:
    return render_shape(record, _shape_folder(out, record.key), spec=spec)


def _shape_folder(out: Path, key: str) -> Path:
    """The shape's folder, below one of 256: a million entries in one folder are slow to list."""
    return out / _VIEWS / hashlib.sha256(key.encode()).hexdigest()[:2] / key


def _claim(out: Path, spec: RenderSpec, shapes: list[Record]) -> dict[str, Any]:
    """Write `render.json`, or check that the one there says the same but for the up axes."""
    held = _read_spec(out)
    axes = {one.suffix: {"axis": one.axis, "because": one.because} for one in upright(shapes)}
    before = {} if held is None else held.get("up_axis", {})
    described_now = described(spec, {**before, **axes})
    spec_json = json.loads(json.dumps(described_now))  # as it is read back
    if held is not None:
        _check_same(held["spec"], spec_json["spec"], out)
        if spec_json["digest"] == held["digest"]:
            return held
    elif (out / _VIEWS).exists():
        raise DataError(f"{out}: holds {_VIEWS}/ and no {SPEC_NAME}; choose another folder")
    write_whole(out / SPEC_NAME, (json.dumps(spec_json, indent=2) + "\n").encode())
    return spec_json


def _check_same(held: Mapping[str, Any], wanted: Mapping[str, Any], out: Path) -> None:
    differing = [
        f"{field}={held.get(field)!r} (wanted {value!r})"
        for field, value in wanted.items()
        if field != "name" and held.get(field) != value
    ]
    if differing:
        raise DataError(
            f"{out}: holds views with {', '.join(differing)}; choose another folder or the same "
            "options"
        )


def _read_spec(out: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((out / SPEC_NAME).read_bytes())
        if not (isinstance(found["spec"], dict) and isinstance(found["digest"], str)):
            raise ValueError("not a description of views")
        return found
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{out / SPEC_NAME}: not readable ({error}); delete the folder") from error


def _write_quarantine(out: Path, quarantine: Mapping[str, Unrendered]) -> None:
    lines = [json.dumps(asdict(one)) + "\n" for one in quarantine.values()]
    write_whole(out / QUARANTINE_NAME, "".join(lines).encode())


def _read_quarantine(out: Path) -> dict[str, Unrendered]:
    try:
        lines = (out / QUARANTINE_NAME).read_bytes().splitlines()
        found = [Unrendered(**json.loads(line)) for line in lines]
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise DataError(f"{out / QUARANTINE_NAME}: not readable ({error}); delete it") from error
    return {one.key: one for one in found}
