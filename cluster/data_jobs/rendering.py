"""Reading a data set as its authors distribute it, and rendering its meshes."""

from __future__ import annotations

import hashlib
import io
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from cluster.data_jobs.parallel import mapping
from cluster.terminal import say, shown, task
from dataio.atomic import write_whole
from dataio.checking import views_sheet
from dataio.datasets import Adapter, AdapterOptions, adapter, parse_options
from dataio.findings import Findings
from dataio.meshes import (
    QUARANTINE_NAME,
    Rendered,
    RenderSpec,
    doubts,
    render_records,
    upright,
)
from dataio.meshes import preset as render_preset
from dataio.names import nearest
from dataio.records import DataError, Record, UpAxis
from trainer.runs import naming

SHEET_NAME = "sheet.png"
_REASONS = 5  # in the result
_SHEET_ROWS, _SHEET_COLUMNS = 8, 12

logger = logging.getLogger(__name__)


def read_dataset(
    dataset: str, root: Path, *, options: Sequence[str], lenient: bool, strict: bool
) -> tuple[Adapter, AdapterOptions, list[Record], Findings]:
    """The records of a data set as its authors distribute it, and the findings of reading it.

    Args:
        dataset: name of an adapter.
        options: texts `KEY=VALUE`.

    Raises:
        DataError: unknown data set or option, an option that is no KEY=VALUE or is given twice,
            or the data set is not usable.
    """
    chosen = adapter(dataset)
    given: dict[str, str] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise DataError(f"{dataset}: option {text!r} is not KEY=VALUE, e.g. -o name=mine")
        if key in given:
            raise DataError(f"{dataset}: option {key!r} is given twice; give it once")
        given[key] = value
    parsed = parse_options(chosen, given)
    findings = Findings(parsed.name or chosen.name, lenient=lenient, strict=strict)
    with task(f"{findings.dataset}: reading {shown(root)}"):
        records = chosen.read(root, parsed, findings)
    for warning in findings.warnings:
        say(f"{findings.dataset}: {warning}")
    if findings.skipped:
        first = findings.skipped[0].reason
        say(f"{findings.dataset}: left out {len(findings.skipped)} items; the first: {first}")
    return chosen, parsed, records, findings


def view_spec(name: str, *, size: int, shading: str | None = None) -> RenderSpec:
    """The preset called `name` for views of `size` pixels a side.

    Raises:
        DataError: unknown preset or shading, or a size out of range.
    """
    return render_preset(name, size=size, **({} if shading is None else {"shading": shading}))


def with_up_axis(records: Sequence[Record], up_axis: str | None) -> list[Record]:
    """The records with this up axis for all meshes; None leaves each its own."""
    if up_axis is None:
        return list(records)
    if up_axis not in get_args(UpAxis):
        raise DataError(f"--up-axis: no axis {up_axis!r}{nearest(up_axis, get_args(UpAxis))}")
    given: dict[str, Any] = {"up_axis": up_axis, "up_because": "given by --up-axis"}
    return [r if r.mesh is None else replace(r, **given, up_certain=True) for r in records]


def say_upright(records: Sequence[Record], sheet: Path) -> list[str]:
    """Say which axis of the meshes was taken for up, and why; returns what speaks against it."""
    kinds = upright(records)
    doubtful = doubts(records)
    check = f"look at {shown(sheet)}"
    turns = sorted({"+y", "+z"} - {one.axis for one in kinds})
    if turns:
        check += f", lying shapes: --up-axis {turns[0]}"
    say(f"up axis: {', '.join(map(str, kinds))}; {check}")
    for doubt in doubtful:
        logger.warning("%s; %s", doubt, check)
    return doubtful


def _write_sheet(sheet: Path, shapes: Sequence[Record], rendered: Rendered) -> None:
    """Write a picture of the views of a few shapes, of as many classes as there is room for."""
    of_class: dict[str | None, list[Record]] = {}
    for shape in sorted(shapes, key=lambda one: hashlib.sha256(one.key.encode()).digest()):
        of_class.setdefault(shape.label, []).append(shape)
    turns = zip_longest(*(of_class[name] for name in sorted(of_class, key=lambda n: n or "")))
    rows = []
    for shape in (one for turn in turns for one in turn if one is not None):
        files = rendered.files(shape.key, source=shape.source_path)
        if files is not None and len(rows) < _SHEET_ROWS:
            step = -(-len(files) // _SHEET_COLUMNS)
            rows.append((shape.label or shape.key, files[::step]))
        if len(rows) == _SHEET_ROWS:
            break
    write_picture(views_sheet(rows), sheet)


def write_picture(picture: Image.Image, file: Path) -> None:
    """Write a PNG, whole or not at all."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_whole(file, buffer.getvalue())


def render_data(
    dataset: str,
    root: Path,
    out: Path,
    *,
    options: Sequence[str],
    preset: str,
    size: int,
    up_axis: str | None,
    shading: str | None,
    workers: int,
    lenient: bool,
) -> dict[str, Any]:
    """Render the meshes of a data set into `out`; continues what an earlier call began.

    Args:
        options: of the data set, `KEY=VALUE`.
        workers: Ray tasks at once; 0 renders in processes of this machine.

    Returns:
        Counts of shapes, the digest of how they look, time and speed, as JSON values.

    Raises:
        DataError: bad options, an unusable data set, none of its meshes can be rendered, or `out`
            holds views of another look.
        OSError: the disk is full or `out` cannot be written.
    """
    spec = view_spec(preset, size=size, shading=shading)
    with_up_axis((), up_axis)  # refuses an unknown axis before the data set is read
    _, _, records, findings = read_dataset(
        dataset, root, options=options, lenient=lenient, strict=False
    )
    shapes = [record for record in with_up_axis(records, up_axis) if record.mesh is not None]
    start = time.monotonic()
    with naming(out), task(f"{findings.dataset}: rendering", len(shapes)) as bar:
        rendered = render_records(
            shapes, out, spec=spec, run=mapping(workers, meshes=len(shapes)), progress=bar.at
        )
        _write_sheet(out / SHEET_NAME, shapes, rendered)
    seconds = time.monotonic() - start
    failed = [rendered.quarantine[s.key] for s in shapes if s.key in rendered.quarantine]
    result = {
        "out": str(out),
        "rendered": rendered.made,
        "skipped": rendered.unchanged,
        "quarantined": len(failed),
        "reasons": [asdict(one) for one in failed[:_REASONS]],
        "left_out": len(findings.skipped),
        "spec_digest": rendered.spec_json["digest"],
        "up_axis": rendered.spec_json.get("up_axis", {}),
        "sheet": str(out / SHEET_NAME),
        "seconds": round(seconds, 3),
        "views_per_second": round(rendered.made * spec.views / max(seconds, 1e-9), 1),
    }
    _say_done(result)
    result["warnings"] = say_upright(shapes, out / SHEET_NAME)
    parts = ["img2shape", "data", "pack", dataset, "--root", str(shown(root))]
    parts += [part for option in options for part in ("-o", option)]
    if lenient or failed:  # else packing stops at the first shape without views
        parts.append("--lenient")
    parts += ["--views-from", str(shown(out)), "--out", "SHARDS"]
    say(f"next: {shlex.join(parts)}")
    return result


def _say_done(result: Mapping[str, Any]) -> None:
    out = shown(Path(result["out"]))
    text = f"{out}: {result['rendered']} shapes rendered"
    if result["rendered"]:
        text += f" ({result['views_per_second']} views/s)"
    if result["skipped"]:
        text += f", {result['skipped']} were there already"
    if result["quarantined"]:
        first = result["reasons"][0]["reason"]
        text += (
            f", {result['quarantined']} could not be: see {out / QUARANTINE_NAME}; first: {first}"
        )
    say(text)
