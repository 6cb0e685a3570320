"""The items in a folder of your own files: pictures, meshes, and folders of views."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from dataio.datasets.listing import is_picture, visible
from dataio.findings import Findings
from dataio.names import canonical_name, one_form
from dataio.records import SPLITS, DataError, Split

_MESH_SUFFIXES = frozenset({".off", ".obj", ".ply", ".stl", ".glb", ".gltf"})
# Materials and textures lie beside meshes.
_COMPANIONS = frozenset({".mtl", ".bin", ".png", ".jpg", ".jpeg", ".tga", ".dds", ".bmp", ".tif"})
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Item:
    """One image, sketch, mesh or shape with views."""

    top: str  # the one of TOPS it is in
    label: str | None
    split: Split | None  # by the folder it is in
    item_id: str  # name of the file less its suffix, or of the folder of views, in NFC
    source: str  # path under the root
    files: tuple[Path, ...]  # one file, or the views in order
    mesh: str | None = None  # path under the root of the mesh of the views, where there is one


def _is_mesh(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in _MESH_SUFFIXES and entry.is_file()


# What belongs into each folder, and what it is called.
TOPS: dict[str, tuple[Callable[[os.DirEntry[str]], bool], str]] = {
    "images": (is_picture, "pictures"),
    "sketches": (is_picture, "pictures"),
    "meshes": (_is_mesh, "meshes"),
    "views": (is_picture, "pictures"),
}


def top_folders(root: Path) -> dict[str, Path]:
    """Those of images, sketches, meshes and views that are under `root`, in any letter case."""
    held = {
        e.name.casefold(): Path(e.path) for e in reversed(visible(root, root=root)) if e.is_dir()
    }
    return {name: held[name] for name in TOPS if name in held}


def list_items(root: Path, name: str, folder: Path, findings: Findings) -> list[Item]:
    """The items of one of TOPS, which is `folder`, in the order of their paths.

    Sub-folders are classes, or splits if all of them are called train, val or test. What is
    directly in the folder has no class.

    Raises DataError if two class folders have one canonical name. A folder in a class folder (or in
    a folder of views) that holds pictures or meshes is a defect; other things in the way are noted.
    """
    return _Lister(root, name, findings).items(folder)


class _Lister:
    def __init__(self, root: Path, name: str, findings: Findings) -> None:
        self.root = root
        self.top = name
        self.accepts, self.what = TOPS[name]
        self.of_views = name == "views"
        self.findings = findings
        self.strays: list[str] = []

    def items(self, top: Path) -> list[Item]:
        entries = self._entries(top)
        folders = [entry for entry in entries if entry.is_dir()]
        if folders and all(entry.name.casefold() in SPLITS for entry in folders):
            items = [
                item
                for entry in folders
                for item in self._of_split(Path(entry.path), cast(Split, entry.name.casefold()))
            ]
            items += self._directly(entries, None, None)
        else:
            items = list(self._of_split(top, None))
        if self.strays:
            self.findings.note(
                f"{len(self.strays)} files under {self._source(top)!r} are no {self.what} (first: "
                f"{self.strays[0]!r}); not read"
            )
        return items

    def _of_split(self, folder: Path, split: Split | None) -> Iterator[Item]:
        entries = self._entries(folder)
        if self.of_views:
            shapes = [entry for entry in entries if entry.is_dir() and self._holds_some(entry)]
            yield from self._shapes(shapes, None, split)
            entries = [entry for entry in entries if entry not in shapes]
        yield from self._directly(entries, None, split)
        for label, path in self._classes(entries).items():
            inside = self._entries(path)
            if not any(entry.is_dir() or self.accepts(entry) for entry in inside):
                self.findings.note(f"{self._source(path)!r} holds no {self.what}")
            if self.of_views:
                yield from self._shapes([e for e in inside if e.is_dir()], label, split)
            else:
                yield from self._directly(inside, label, split)
                self._refuse_folders(inside)

    def _classes(self, entries: list[os.DirEntry[str]]) -> dict[str, Path]:
        classes: dict[str, Path] = {}
        for entry in entries:
            if not entry.is_dir():
                continue
            label, path = canonical_name(entry.name), Path(entry.path)
            if label in classes:
                raise DataError(
                    f"{self.findings.dataset}: folders {self._source(classes[label])!r} and "
                    f"{self._source(path)!r} are one class {label!r}; rename or merge them"
                )
            classes[label] = path
        return classes

    def _directly(
        self, entries: list[os.DirEntry[str]], label: str | None, split: Split | None
    ) -> Iterator[Item]:
        """The files among the entries."""
        for entry in entries:
            file = Path(entry.path)
            if entry.is_dir():
                continue
            if not self.accepts(entry):
                if self.what == "pictures" or file.suffix.lower() not in _COMPANIONS:
                    self.strays.append(self._source(file))
            elif self.of_views:
                reason = f"view {self._source(file)!r} is not in the folder of a shape"
                self.findings.defect(
                    self._source(file), reason, remedy="move it to views/<class>/<shape>/"
                )
            else:
                item_id = one_form(file.stem)
                yield Item(self.top, label, split, item_id, self._source(file), (file,))

    def _shapes(
        self, folders: list[os.DirEntry[str]], label: str | None, split: Split | None
    ) -> Iterator[Item]:
        for folder in folders:
            source = self._source(Path(folder.path))
            inside = self._entries(Path(folder.path))
            views = sorted((e.name for e in inside if self.accepts(e)), key=_natural)
            self.strays += [
                f"{source}/{e.name}" for e in inside if not e.is_dir() and not self.accepts(e)
            ]
            self._refuse_folders(inside)
            if views:
                files = tuple(Path(folder.path) / name for name in views)
                yield Item(self.top, label, split, one_form(folder.name), source, files)
            else:
                self.findings.defect(
                    source, f"{source!r} holds no views", remedy="add some, or remove the folder"
                )

    def _refuse_folders(self, entries: list[os.DirEntry[str]]) -> None:
        """Folders that hold items one level too deep."""
        for entry in entries:
            if entry.is_dir() and self._holds_some(entry):
                source = PurePosixPath(self._source(Path(entry.path)))
                reason = f"{str(source)!r} holds {self.what} inside {str(source.parent)!r}"
                remedy = "move them one folder up" if self.of_views else (
                    "move them one folder up, or make it a class of its own"
                )  # fmt: skip
                self.findings.defect(str(source), reason, remedy=remedy)

    def _holds_some(self, folder: os.DirEntry[str]) -> bool:
        return any(self.accepts(entry) for entry in self._entries(Path(folder.path)))

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        return visible(folder, root=self.root)

    def _source(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _natural(name: str) -> tuple[list[str | int], str]:
    """Order by the numbers in a name as numbers, so view 2 comes before view 10."""
    stem = os.path.splitext(name)[0]
    parts = _DIGITS.split(stem)  # text and digits in turn, so equal places compare
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], name
