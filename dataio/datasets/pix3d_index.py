"""The table of Pix3D, `pix3d.json`: one row a photo, with its shape, its box and its flags."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dataio.datasets.listing import read_text
from dataio.findings import Findings
from dataio.names import canonical_name
from dataio.records import DataError

INDEX_NAME = "pix3d.json"

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Row:
    """One photo. Paths are relative to the root."""

    number: int  # place in the list, from 0
    img: str  # img/<category>/<NNNN>.<suffix>
    label: str  # canonical name of the category
    shape: str  # model/<category>/<shape>, the folder that all variants of a mesh are in
    model: str  # the variant that this photo was fitted with
    bbox: Box | None  # x0, y0, x1, y1 in pixels
    size: tuple[int, int] | None  # width, height in pixels, as the table has them
    mask: str | None
    flags: dict[str, bool]  # truncated, occluded, slightly_occluded, as far as given

    @property
    def item_id(self) -> str:
        """`<category>/<NNNN>`."""
        return PurePosixPath(self.img).relative_to("img").with_suffix("").as_posix()

    @property
    def where(self) -> str:
        """Names the row in messages."""
        return f"{INDEX_NAME}[{self.number}] ({self.img!r})"


def read_json(file: Path, *, dataset: str) -> Any:
    """Parsed content of a JSON file; DataError naming file and line if it is none."""
    try:
        return json.loads(read_text(file, dataset=dataset))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{dataset}: {str(file)!r} line {error.lineno} column {error.colno}: not JSON "
            f"({error.msg}); copy the original file again"
        ) from error


def read_index(root: Path, findings: Findings, *, needed: Iterable[str]) -> list[Row]:
    """The rows of `root/pix3d.json` in its order.

    `needed` are the keys that a row must have besides img, category and model. A row that lacks one
    or holds something else than expected, and one for a photo that an earlier row has, is a defect.
    """
    file = root / INDEX_NAME
    raw_rows = read_json(file, dataset=findings.dataset)
    if not isinstance(raw_rows, list):
        raise DataError(
            f"{findings.dataset}: {str(file)!r} holds a {type(raw_rows).__name__}, expected a list "
            "of objects; copy the original file again"
        )
    wanted = ("img", "category", "model", *needed)
    rows: dict[str, Row] = {}
    for number, raw in enumerate(raw_rows):
        try:
            row = _row(number, raw, wanted)
            if row.img in rows:
                raise ValueError(f"the photo is also in {INDEX_NAME}[{rows[row.img].number}]")
        except ValueError as error:
            name = raw.get("img") if isinstance(raw, dict) else None
            where = f"{INDEX_NAME}[{number}]" + (f" ({name!r})" if name else "")
            findings.defect(where, f"{where}: {error}", remedy="correct the row")
        else:
            rows[row.img] = row
    return list(rows.values())


def _row(number: int, raw: Any, needed: tuple[str, ...]) -> Row:
    """Raises ValueError with the reason if the row cannot be used."""
    if not isinstance(raw, dict):
        raise ValueError(f"a {type(raw).__name__}, expected an object")
    lacking = [key for key in needed if raw.get(key) is None]
    if lacking:
        raise ValueError(f"lacks {', '.join(map(repr, lacking))}")
    img, model = _path(raw, "img", depth=3), _path(raw, "model", depth=4)
    category = model.split("/")[1]
    label = canonical_name(str(raw["category"]))
    if canonical_name(category) != label:
        raise ValueError(f"category {raw['category']!r}, but its model is a {category!r}")
    flags = ("truncated", "occluded", "slightly_occluded")
    return Row(
        number=number,
        img=img,
        label=label,
        shape="/".join(model.split("/")[:3]),
        model=model,
        bbox=_box(raw["bbox"]) if "bbox" in needed else None,
        size=_size(raw.get("img_size")),
        mask=_path(raw, "mask", depth=3) if raw.get("mask") is not None else None,
        flags={flag: _flag(flag, raw[flag]) for flag in flags if raw.get(flag) is not None},
    )


def _path(raw: dict[str, Any], key: str, *, depth: int) -> str:
    """A path below the folder called like its key."""
    path = PurePosixPath(str(raw[key]))
    parts = path.parts
    if len(parts) != depth or parts[0] != key or ".." in parts:
        middle = "<category>/<shape>" if depth == 4 else "<category>"
        raise ValueError(f"{key} {raw[key]!r}, expected {key}/{middle}/<file>")
    return path.as_posix()


def _box(value: Any) -> Box:
    try:
        x0, y0, x1, y1 = (float(edge) for edge in value)
    except (TypeError, ValueError):
        raise ValueError(f"bbox {value!r}, expected [x0, y0, x1, y1]") from None
    return x0, y0, x1, y1


def _size(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    if not all(isinstance(side, (int, float)) and math.isfinite(side) for side in value):
        return None
    return int(value[0]), int(value[1])


def _flag(name: str, value: Any) -> bool:
    """The data set's page quotes the flags as strings, its file has booleans."""
    text = str(value).strip().casefold()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise ValueError(f"{name} {value!r}, expected true or false")
