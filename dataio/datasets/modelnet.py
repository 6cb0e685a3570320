"""ModelNet40 (Wu et al., CVPR 2015): its meshes, and the image sets that were rendered of them.

Two image sets are called "MVCNN ModelNet40": 3,983 shapes of Su et al. (ICCV 2015; white ground, a
variant with 80 views) and all 12,311 shapes of Su et al. (2018; black ground). Both are read. Views
are grouped by their shape and ordered by their number. Only names are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from dataio.datasets.adapter_type import Adapter, AdapterOptions
from dataio.datasets.listing import Keys, class_folders, is_picture, kept_classes, located, visible
from dataio.datasets.published import MODELNET40_CLASSES, Published, expect_counts
from dataio.datasets.rings import RingOptions, Rings, View, usual_numbers
from dataio.findings import Findings
from dataio.names import canonical_name
from dataio.records import SPLITS, DataError, Record

_FULL = {("shape", "train"): 9843, ("shape", "test"): 2468}
_SUBSET = {("shape", "train"): 3183, ("shape", "test"): 800}
_SHAPE = re.compile(r"(.+)_([0-9]+)")  # night_stand_0001: the class ends at the last underscore
_VIEW_FILES = (
    re.compile(r"(.+)\.obj\.(?:white)?shaded_v([0-9]{1,3})\.png", re.IGNORECASE),
    re.compile(r"(.+)_([0-9]{1,3})\.(?:jpe?g|png)", re.IGNORECASE),
)


class MeshOptions(AdapterOptions):
    """Options of ModelNet40's meshes."""


class ViewOptions(RingOptions):
    """Options of the image sets."""

    views: int | None = Field(
        default=None, ge=1, description="Views of every shape; null: as many as most shapes have."
    )


class _Folder(NamedTuple):
    split: str
    label: str
    path: Path


def mesh_records(root: Path, options: MeshOptions, findings: Findings) -> list[Record]:
    """One shape for every `.off` file, by class, split and number; Z is up.

    Raises DataError if the data are not usable; a misplaced file is a defect.
    """
    root = _located(Path(root), findings.dataset)
    keys = Keys(options.name or "modelnet40")
    made: list[Record] = []
    numbers: dict[tuple[str, int], str] = {}
    for folder in _folders(root, options, findings):
        files = [e.name for e in visible(folder.path, root=root) if e.is_file()]
        meshes = [name for name in files if name.lower().endswith(".off")]
        for name in sorted(meshes, key=lambda name: (_number(name[:-4]), name)):
            source = (folder.path / name).relative_to(root).as_posix()
            shape = name[:-4]
            if not _is_of(shape, folder, source, findings):
                continue
            first = numbers.setdefault((folder.label, _number(shape)), source)
            if first != source:
                findings.defect(
                    source, f"{source!r} and {first!r} are one shape", remedy="remove one"
                )
                continue
            key = keys.make(folder.split, folder.label, shape, source=source)
            mesh = root / source
            made.append(
                Record(
                    key,
                    "shape",
                    folder.split,
                    folder.label,
                    mesh=mesh,
                    source_path=source,
                    up_axis="+z",
                )
            )
    published = Published("modelnet40", MODELNET40_CLASSES, _FULL)
    return _counted(made, published, options, findings)


def view_records(
    root: Path, options: ViewOptions, findings: Findings, *, keys: Keys | None = None
) -> list[Record]:
    """One shape for every run of views, by class, split and number; `keys` knows those taken.

    Raises DataError if the data are not usable; a picture that is no view of its class is a defect.
    """
    root = _located(Path(root), findings.dataset)
    keys = keys or Keys(options.name or "modelnet40-views")
    rings = Rings(options, findings)
    shapes: dict[tuple[_Folder, str], list[View]] = {}
    for folder in _folders(root, options, findings):
        held = _views(folder, root, findings)
        for shape in sorted(held, key=lambda shape: (_number(shape), shape)):
            shapes[folder, shape] = held[shape]
    numbers = usual_numbers(shapes.values(), views=options.views)
    made: list[Record] = []
    for (folder, shape), files in shapes.items():
        views = rings.views(shape, files, numbers)
        if views is None:
            continue
        source = (folder.path / shape).relative_to(root).as_posix()
        key = keys.make(folder.split, folder.label, shape, source=source)
        made.append(
            Record(key, "shape", folder.split, folder.label, views=views, source_path=source)
        )
    rings.report()
    # The number of shapes tells which of the sets is meant: 3,983 or 12,311.
    counts = _FULL if len(made) > 6000 else _SUBSET
    published = Published("modelnet40-views", MODELNET40_CLASSES, counts)
    return _counted(made, published, options, findings)


def _located(root: Path, dataset: str) -> Path:
    return located(
        root, _has_classes, dataset=dataset, expected="<class>/{train,test}/ with .off or views"
    )


def _has_classes(root: Path) -> bool:
    entries = visible(root, root=root)
    return any((Path(e.path) / s).is_dir() for e in entries for s in SPLITS if e.is_dir())


def _folders(root: Path, options: AdapterOptions, findings: Findings) -> Iterator[_Folder]:
    """The folders of every wanted class: train before test."""
    every = class_folders(root, root=root, dataset=findings.dataset)
    classes = {k: v for k, v in every.items() if any((v / split).is_dir() for split in SPLITS)}
    kept = kept_classes(classes, options.classes, dataset=findings.dataset)
    for name, path in classes.items():
        for split in SPLITS if name in kept else ():
            if not (path / split).is_dir():
                continue
            if not visible(path / split, root=root):
                findings.note(f"{(path / split).relative_to(root).as_posix()!r} is empty")
            yield _Folder(split, name, path / split)


def _views(folder: _Folder, root: Path, findings: Findings) -> dict[str, list[View]]:
    """Number and file of every view in a folder, by shape."""
    held: dict[str, list[View]] = {}
    for entry in visible(folder.path, root=root):
        if not is_picture(entry):
            continue
        file = Path(entry.path)
        source = file.relative_to(root).as_posix()
        match = next(filter(None, (form.fullmatch(entry.name) for form in _VIEW_FILES)), None)
        if match is None or not _SHAPE.fullmatch(match[1]):
            findings.defect(
                source,
                f"{source!r} is not named like a view, <class>_<NNNN>_<VVV>.jpg or "
                "<class>_<NNNN>.obj.shaded_v<VVV>.png",
                remedy="move it out",
            )
        elif _is_of(match[1], folder, source, findings):
            held.setdefault(match[1], []).append((int(match[2]), file))
    return held


def _is_of(shape: str, folder: _Folder, source: str, findings: Findings) -> bool:
    """Whether a shape is named like the class whose folder it is in; if not, a defect."""
    match = _SHAPE.fullmatch(shape)
    if match is not None and canonical_name(match[1]) == folder.label:
        return True
    findings.defect(
        source,
        f"{source!r} is not named like a shape of {folder.label!r}, {folder.label}_<NNNN>",
        remedy="move it out",
    )
    return False


def _number(shape: str) -> int:
    match = _SHAPE.fullmatch(shape)
    return int(match[2]) if match else -1


def _counted(
    made: list[Record], published: Published, options: AdapterOptions, findings: Findings
) -> list[Record]:
    if not made:
        raise DataError(
            f"{findings.dataset}: the class folders hold no shape of this data set; modelnet40 "
            "reads .off files, modelnet40-views pictures"
        )
    present = {record.label for record in made if record.label is not None}
    expect_counts(made, published, options=options, present=present, findings=findings)
    return made


_TERMS = "Research use (Princeton ModelNet); ask the authors before shards are passed on."

ADAPTERS = (
    Adapter(
        name="modelnet40",
        title="ModelNet40: 12,311 meshes of 40 classes (Wu et al., CVPR 2015)",
        layout="<class>/{train,test}/<class>_<NNNN>.off",
        terms=_TERMS,
        options=MeshOptions,
        records=mesh_records,
    ),
    Adapter(
        name="modelnet40-views",
        title="The MVCNN image sets of ModelNet40: 12, 20 or 80 views (Su et al., 2015 and 2018)",
        layout="<class>/{train,test}/<class>_<NNNN>_<VVV>.jpg\n"
        "or <class>/{train,test}/<class>_<NNNN>.obj.{shaded,whiteshaded}_v<VVV>.png",
        terms=_TERMS,
        options=ViewOptions,
        records=view_records,
    ),
)
