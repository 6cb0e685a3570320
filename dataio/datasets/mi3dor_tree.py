"""The folder layout of MI3DOR: `image/<split>/<class>/` beside `view/<split>/<class>/<shape>/`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from dataio.datasets.listing import Keys, class_folders, found, is_picture, kept_classes, visible
from dataio.datasets.rings import RingOptions, Rings, View
from dataio.findings import Findings
from dataio.names import canonical_name
from dataio.records import SPLITS, DataError, Record

FOLDERS = {"image": "image", "sketch": "sketch", "shape": "view"}
_VIEW_STEM = re.compile(r"(.+)_([0-9]+)")


class TreeOptions(RingOptions):
    """Options of a data set of queries and shapes of the same classes."""

    views: int = Field(default=12, ge=1, description="Views of every shape.")
    missing_classes: Literal["error", "drop"] = Field(
        default="error",
        description="A class with queries and no shapes in a split, or the reverse: error, or left "
        "out.",
    )


def has_tree(root: Path) -> bool:
    """Whether `root` holds view/ and image/ (or sketch/)."""
    names = {canonical_name(e.name) for e in visible(root, root=root) if e.is_dir()}
    return "view" in names and not names.isdisjoint({"image", "sketch"})


class Tree:
    """Reads a tree; the classes of `options` alone."""

    def __init__(
        self, root: Path, *, dataset: str, options: TreeOptions, findings: Findings
    ) -> None:
        self.root = root
        self.dataset = dataset
        self.options = options
        self.findings = findings
        self._rings = Rings(options, findings)
        self._keys = Keys(dataset)

    def records(self, streams: Iterable[str] = tuple(FOLDERS)) -> list[Record]:
        """All records of the streams: each stream by split and class; files by name."""
        tree = {stream: self.class_folders(stream) for stream in streams}
        names = {name for by_split in tree.values() for held in by_split.values() for name in held}
        kept = kept_classes(names, self.options.classes, dataset=self.dataset)
        models = self._stream_folder("model") if "shape" in tree else None
        made: list[Record] = []
        for stream, by_split in tree.items():
            for split, classes in by_split.items():
                for name, folder in classes.items():
                    if name not in kept:
                        continue
                    if stream == "shape":
                        made += self._shapes(split, name, folder, models)
                    else:
                        made += self._pictures(stream, split, name, folder)
        self._rings.report()
        return made

    def class_folders(self, stream: str) -> dict[str, dict[str, Path]]:
        """Class folders of a stream that hold something, by split and canonical class name."""
        folder = self._stream_folder(FOLDERS[stream])
        if folder is None:
            return {}
        by_split: dict[str, dict[str, Path]] = {}
        for split in SPLITS:
            if (folder / split).is_dir():
                every = class_folders(folder / split, root=self.root, dataset=self.dataset)
                by_split[split] = {k: v for k, v in every.items() if visible(v, root=self.root)}
        if not any(by_split.values()):
            raise DataError(
                f"{self.dataset}: no classes under {str(folder)!r}. Expected "
                f"{{train,val,test}}/<class>/ there. Found: {found(folder)}."
            )
        return by_split

    def _stream_folder(self, name: str) -> Path | None:
        """The folder called `name`, or `name(1)` as a repeated download is called; `X/X` is `X`."""
        alike = self._alike(self.root, name)
        if not alike:
            return None
        if alike[0].name != name:
            self.findings.note(f"{alike[0].name!r} is read as {name!r}")
        for other in alike[1:]:
            self.findings.note(f"{other.name!r} is not read, {alike[0].name!r} is")
        return next(iter(self._alike(alike[0], name)), alike[0])

    def _alike(self, folder: Path, name: str) -> list[Path]:
        """Subfolders with the canonical `name`, the one that is spelled so first."""
        inside = [Path(e.path) for e in visible(folder, root=self.root) if e.is_dir()]
        alike = [inner for inner in inside if canonical_name(inner.name) == name]
        return sorted(alike, key=lambda inner: (inner.name != name, inner.name))

    def _pictures(self, stream: str, split: str, name: str, folder: Path) -> Iterator[Record]:
        for entry in visible(folder, root=self.root):
            if not is_picture(entry):
                continue
            file = Path(entry.path)
            source = file.relative_to(self.root).as_posix()
            key = self._keys.make(split, name, file.stem, source=source)
            yield Record(key, stream, split, name, image=file, source_path=source)

    def _shapes(self, split: str, name: str, folder: Path, models: Path | None) -> Iterator[Record]:
        meshes = self._meshes(models / split / folder.name) if models else {}
        numbers = tuple(range(1, self.options.views + 1))
        for entry in visible(folder, root=self.root):
            if not entry.is_dir():
                continue
            source = Path(entry.path).relative_to(self.root).as_posix()
            views = self._rings.views(entry.name, self._numbered(Path(entry.path)), numbers)
            if views is None:
                continue
            extra = {"mesh": meshes[entry.name]} if entry.name in meshes else {}
            key = self._keys.make(split, name, entry.name, source=source)
            yield Record(key, "shape", split, name, views=views, source_path=source, extra=extra)

    def _numbered(self, folder: Path) -> Iterator[View]:
        """Number and file of every view in a shape's folder; others' files are defects."""
        for entry in visible(folder, root=self.root):
            file = Path(entry.path)
            match = _VIEW_STEM.fullmatch(file.stem)
            if not entry.is_dir() and not is_picture(entry):
                continue
            if entry.is_dir() or not match or match[1] != folder.name:
                self.findings.defect(
                    file.relative_to(self.root).as_posix(),
                    f"{entry.name!r} does not belong into shape folder {str(folder)!r}, which "
                    f"holds {folder.name}_001.png and so on",
                    remedy="move it out",
                )
                continue
            yield int(match[2]), file

    def _meshes(self, folder: Path) -> dict[str, str]:
        """Relative paths of a class's meshes by file stem."""
        if not folder.is_dir():
            return {}
        listed = (Path(entry.path) for entry in visible(folder, root=self.root))
        return {
            file.stem: file.relative_to(self.root).as_posix()
            for file in listed
            if file.suffix.lower() in (".obj", ".off")
        }
