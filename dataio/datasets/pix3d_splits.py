"""Splits of Pix3D by COCO-style files, such as S1 and S2 of Mesh R-CNN (Gkioxari et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from dataio.datasets.pix3d_index import INDEX_NAME, Row, read_json
from dataio.findings import Findings
from dataio.records import DataError, Split


def listed_splits(
    root: Path, files: Mapping[str, Path | None], rows: Sequence[Row], findings: Findings
) -> dict[str, Split] | None:
    """The split of every listed photo and of the shapes they show, by their paths under the root.

    `files` are the JSON files of train and of test with `images[].file_name`, relative to `root` or
    absolute; without both of them the result is None. A shape that photos of both splits show is of
    test. Photos that neither file lists are left out, and counted in a note.

    Raises DataError for one file without the other, and for a file of another form; a photo that is
    not in the index, or in both files, is a defect.
    """
    given = {split: file for split, file in files.items() if file is not None}
    if not given:
        return None
    for split, other in (("train", "test"), ("test", "train")):
        if split not in given:
            raise DataError(f"{findings.dataset}: {other}_file needs {split}_file too; give both")
    splits: dict[str, Split] = {}
    known = {row.img for row in rows}
    for split, file in given.items():
        for number, name in enumerate(_photos(root / file, findings.dataset)):
            where = f"{str(file)!r} images[{number}]: {name!r}"
            if name not in known:
                findings.defect(name, f"{where} is not in {INDEX_NAME}")
            elif splits.setdefault(name, cast(Split, split)) != split:
                findings.defect(name, f"{where} is in {str(given[splits[name]])!r} too")
    unlisted = len(known - splits.keys())
    if unlisted:
        findings.note(f"{unlisted} photos are in neither split file; left out")
    return {**splits, **_of_shapes(splits, rows, findings)}


def _of_shapes(
    splits: Mapping[str, Split], rows: Sequence[Row], findings: Findings
) -> dict[str, Split]:
    shown: dict[str, set[Split]] = {}
    for row in rows:
        if row.img in splits:
            shown.setdefault(row.shape, set()).add(splits[row.img])
    shared = sum(len(seen) > 1 for seen in shown.values())
    if shared:
        findings.note(f"{shared} shapes are shown by photos of both splits; they are of test")
    return {shape: "test" if "test" in seen else "train" for shape, seen in shown.items()}


def _photos(file: Path, dataset: str) -> list[str]:
    table = read_json(file, dataset=dataset)
    images = table.get("images") if isinstance(table, dict) else None
    if not isinstance(images, list) or not all(
        isinstance(one, dict) and isinstance(one.get("file_name"), str) for one in images
    ):
        raise DataError(
            f"{dataset}: {str(file)!r} has no images[].file_name; give a COCO-style JSON file"
        )
    return [one["file_name"] for one in images]
