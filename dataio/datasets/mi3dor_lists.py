"""Text lists of a data set's pictures and views: `path label` on every line.

The label is a number after the line's last space or tab, so paths may hold spaces. Views are
grouped by their shape (folder and file name without the view number), never by every 12 lines, and
ordered by the number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydantic import Field

from dataio.datasets.listing import Keys, is_picture, kept_classes, read_text, visible
from dataio.datasets.mi3dor_tree import TreeOptions
from dataio.datasets.rings import Rings, View, usual_numbers
from dataio.findings import Findings
from dataio.names import canonical_name
from dataio.records import DataError, Record, Split

_VIEW_STEM = re.compile(r"(?:(.+)_)?([0-9]+)")


class ListOptions(TreeOptions):
    """Options of a data set that may be given as lists."""

    image_lists: dict[Split, str] = Field(
        default={},
        description="Lists of pictures by split, as {train: a.txt, test: b.txt}; paths under the "
        "root, or absolute. Where a list is given, only lists are read.",
    )
    shape_lists: dict[Split, str] = Field(
        default={}, description="Lists of views by split, one view a line."
    )
    list_strip_prefix: str | None = Field(
        default=None, description="Start of the paths in the lists, to be taken off."
    )
    class_file: str | None = Field(
        default=None,
        description="Text file, line k + 1 names the class of label k in the lists; null: the "
        "class names sorted.",
    )


@dataclass(frozen=True)
class ListFile:
    """A list, by its path under the root, and what it lists."""

    path: str
    stream: str
    split: str
    base: str = ""  # put before every path of the list, as text
    folders: bool = False  # a line is a shape, whose views are all pictures in the path's folder


class _Line(NamedTuple):
    number: int
    file: PurePosixPath  # under the root; it is there
    label: str


def listed_by(options: ListOptions) -> list[ListFile]:
    """The lists that the options name."""
    images = [ListFile(file, "image", split) for split, file in options.image_lists.items()]
    return images + [ListFile(file, "shape", s) for s, file in options.shape_lists.items()]


def class_order(
    root: Path,
    options: ListOptions,
    *,
    present: Iterable[str],
    usual: tuple[str, ...],
    dataset: str,
) -> tuple[str, ...]:
    """Class names in the order of the labels: of the class file, else the `usual` ones, or, if the
    data hold any other class, the sorted names that are `present`."""
    if options.class_file is None:
        names = sorted(set(present))
        return usual if set(names) <= set(usual) else tuple(names)
    text = read_text(root / options.class_file, dataset=dataset)
    order = tuple(canonical_name(line) for line in text.splitlines() if line.strip())
    twice = sorted({name for name in order if order.count(name) > 1})
    if twice:
        raise DataError(
            f"{dataset}: class_file {options.class_file!r} names class {twice[0]!r} twice; "
            "name each class once"
        )
    return order


class ListReader:
    """Reads lists of files under `root`; `order` names the classes of the labels 0, 1, ..."""

    def __init__(
        self,
        root: Path,
        options: ListOptions,
        *,
        order: tuple[str, ...],
        dataset: str,
        findings: Findings,
    ) -> None:
        self.root = root
        self.options = options
        self.order = order
        self.dataset = dataset
        self.findings = findings
        self._kept = kept_classes(order, options.classes, dataset=dataset)
        self._keys = Keys(dataset)
        self._pictures: dict[PurePosixPath, frozenset[str]] = {}

    def records(self, lists: Iterable[ListFile]) -> list[Record]:
        """The records of one list after the other, in the order of their lines.

        Raises DataError, with the list and line, for a list without lines and for labels that
        contradict the files' class folders; a line that cannot be used is a defect.
        """
        rings = Rings(self.options, self.findings)
        made: list[Record] = []
        for listed in lists:
            kept = [line for line in self._lines(listed) if line.label in self._kept]
            if listed.stream == "shape":
                made += self._shapes(listed, kept, rings)
            else:
                made += (self._image(listed, line) for line in kept)
        rings.report()
        return made

    def _image(self, listed: ListFile, line: _Line) -> Record:
        source = line.file.as_posix()
        key = self._keys.make(listed.split, line.label, line.file.stem, source=source)
        file = self.root / source
        return Record(key, "image", listed.split, line.label, image=file, source_path=source)

    def _shapes(self, listed: ListFile, lines: list[_Line], rings: Rings) -> Iterator[Record]:
        labels: dict[PurePosixPath, _Line] = {}
        files: dict[PurePosixPath, list[View]] = {}
        for line in lines:
            for shape, view in self._views(listed, line):
                first = labels.setdefault(shape, line)
                if first.label != line.label:
                    raise DataError(
                        f"{self._at(listed, line.number)}: shape {shape.as_posix()!r} is "
                        f"{line.label!r} here, {first.label!r} on line {first.number}; correct one"
                    )
                files.setdefault(shape, []).append(view)
        numbers = usual_numbers(files.values(), views=self.options.views)
        for shape, listed_views in files.items():
            views = rings.views(shape.name, listed_views, numbers)
            if views is None:
                continue
            label, source = labels[shape].label, shape.as_posix()
            key = self._keys.make(listed.split, label, shape.name, source=source)
            yield Record(key, "shape", listed.split, label, views=views, source_path=source)

    def _views(self, listed: ListFile, line: _Line) -> Iterator[tuple[PurePosixPath, View]]:
        """The shapes that a line's views are of, and the views."""
        folder = line.file.parent
        names = sorted(self._held(folder)) if listed.folders else [line.file.name]
        for name in names:
            match = _VIEW_STEM.fullmatch(PurePosixPath(name).stem)
            if match is None:
                self.findings.defect(
                    (folder / name).as_posix(),
                    f"{self._where(listed, line.number)}: {(folder / name).as_posix()!r} has no "
                    "view number at the end of its name",
                    remedy="remove it",
                )
                continue
            alone = listed.folders or match[1] in (None, folder.name)
            yield folder if alone else folder / match[1], (int(match[2]), self.root / folder / name)

    def _lines(self, listed: ListFile) -> Iterator[_Line]:
        text = read_text(self.root / listed.path, dataset=self.dataset)
        if len(text.strip()) <= 1:
            raise DataError(
                f"{self.dataset}: list {listed.path!r} is a placeholder without any line, as code "
                "repositories ship it; get the list itself, or read the folders instead"
            )
        seen: dict[PurePosixPath, int] = {}
        for number, line in enumerate(text.split("\n"), 1):
            parsed = self._parsed(listed, number, line) if line.strip() else None
            if parsed is None:
                continue
            item = parsed.file.parent if listed.folders else parsed.file
            if item in seen:
                self._defect(
                    listed, number, f"{item.as_posix()!r} again, first on line {seen[item]}",
                    remedy="remove the line",
                )  # fmt: skip
                continue
            seen[item] = number
            yield parsed
        if not seen:
            raise DataError(f"{self.dataset}: no line of list {listed.path!r} can be used")

    def _parsed(self, listed: ListFile, number: int, line: str) -> _Line | None:
        path, *rest = line.strip().rsplit(maxsplit=1)
        if not rest or not re.fullmatch("[0-9]+", rest[0]):
            self._defect(
                listed, number, f"expected a path and a label, found {line.strip()!r}",
                remedy="correct the line",
            )  # fmt: skip
            return None
        file = self._file(listed, path)
        if file is None:
            self._missing(listed, number, path)
            return None
        return _Line(number, file, self._class(listed, number, int(rest[0]), file))

    def _class(self, listed: ListFile, number: int, label: int, file: PurePosixPath) -> str:
        """The class of a label, after a look at the class folder that the file lies in."""
        if label >= len(self.order):
            raise DataError(
                f"{self._at(listed, number)}: label {label}, and {len(self.order)} classes are "
                "known (0 is the first); pass -o class_file=FILE with the list's classes"
            )
        folders = (canonical_name(part) for part in reversed(file.parent.parts))
        folder = next((name for name in folders if name in self.order), None)
        if folder not in (None, self.order[label]):
            raise DataError(
                f"{self._at(listed, number)}: list label {label} stands for "
                f"{self.order[label]!r} and {folder!r}. The list was made with another class "
                "order; pass -o class_file=FILE with its classes, one a line"
            )
        return self.order[label]

    def _file(self, listed: ListFile, path: str) -> PurePosixPath | None:
        """A listed file by its path under the root; None if it is not there."""
        if listed.base:
            return self._there(PurePosixPath(listed.base + path))
        prefix = self.options.list_strip_prefix
        if prefix and path.startswith(prefix):
            path = path[len(prefix) :].lstrip("/")
        file = PurePosixPath(path)
        if file.is_relative_to(self.root.absolute()):
            file = file.relative_to(self.root.absolute())
        return self._there(file)

    def _there(self, file: PurePosixPath) -> PurePosixPath | None:
        return file if file.name in self._held(file.parent) else None

    def _held(self, folder: PurePosixPath) -> frozenset[str]:
        """Names of the pictures in a folder under the root; none for a folder outside."""
        if folder not in self._pictures:
            there = self.root / folder
            inside = there.is_dir() and there.resolve().is_relative_to(self.root.resolve())
            entries = visible(there, root=self.root) if inside else []
            self._pictures[folder] = frozenset(e.name for e in entries if is_picture(e))
        return self._pictures[folder]

    def _missing(self, listed: ListFile, number: int, path: str) -> None:
        parts = PurePosixPath(path).parts
        for k in range(1, len(parts)):
            if self._there(PurePosixPath(*parts[k:])) and not listed.base:
                self._defect(
                    listed, number, f"{path!r} is not on this machine. Its last {len(parts) - k} "
                    f"path parts exist under {str(self.root)!r}",
                    remedy=f"pass -o list_strip_prefix={PurePosixPath(*parts[:k])}",
                )  # fmt: skip
                return
        self._defect(
            listed, number, f"{listed.base + path!r} is not a picture under {str(self.root)!r}",
            remedy="restore it or remove the line",
        )  # fmt: skip

    def _defect(self, listed: ListFile, number: int, reason: str, *, remedy: str) -> None:
        where = self._where(listed, number)
        self.findings.defect(where, f"{where}: {reason}", remedy=remedy)

    def _at(self, listed: ListFile, number: int) -> str:
        return f"{self.dataset}: {self._where(listed, number)}"

    def _where(self, listed: ListFile, number: int) -> str:
        return f"list {listed.path!r} line {number}"
