"""Listing the folders of a data set the same way on every machine."""

from __future__ import annotations

import os
from pathlib import Path

from dataio.names import canonical_name
from dataio.records import DataError

__all__ = ["class_folders", "found", "is_picture", "undoubled", "visible"]

_PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def visible(folder: Path, *, root: Path) -> list[os.DirEntry[str]]:
    """Entries of a folder sorted by name, less hidden files, system clutter and links that lead
    out of `root`."""
    with os.scandir(folder) as listing:
        kept = [
            entry
            for entry in listing
            if not entry.name.startswith(".")
            and entry.name.casefold() not in _CLUTTER
            and (not entry.is_symlink() or _stays_inside(entry.path, root))
        ]
    return sorted(kept, key=lambda entry: entry.name)


def is_picture(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a file with a picture's suffix; its content is not looked at."""
    return os.path.splitext(entry.name)[1].lower() in _PICTURE_SUFFIXES and entry.is_file()


def undoubled(folder: Path) -> Path:
    """`X/X` if an archive was unpacked into a folder of its own name, otherwise `X`."""
    inner = folder / folder.name
    return inner if inner.is_dir() else folder


def found(folder: Path, *, limit: int = 6) -> str:
    """The first names in a folder, for an error message."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(e.name + "/" * e.is_dir() for e in visible(folder, root=folder))
    if not names:
        return "nothing"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def class_folders(folder: Path, *, root: Path, dataset: str) -> dict[str, Path]:
    """Class folders by canonical name, in its order.

    Raises DataError if two folders have one canonical name.
    """
    classes: dict[str, Path] = {}
    for entry in visible(folder, root=root):
        if not entry.is_dir():
            continue
        name = canonical_name(entry.name)
        if name in classes:
            raise DataError(
                f"{dataset}: class folders {classes[name].name!r} and {entry.name!r} in "
                f"{str(folder)!r} are one class {name!r}; rename or merge them"
            )
        classes[name] = Path(entry.path)
    return dict(sorted(classes.items()))


def _stays_inside(path: str, root: Path) -> bool:
    return Path(path).resolve().is_relative_to(root.resolve())
