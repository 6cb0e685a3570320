"""A table of splits, `split.csv`: `path,split` a line, for a file or for all in a folder."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import cast

from dataio.datasets.listing import read_text
from dataio.findings import Findings
from dataio.names import nearest, one_form
from dataio.records import SPLITS, DataError, Split

SPLIT_CSV = "split.csv"


@dataclass
class SplitTable:
    """Splits by path under the root, in NFC; remembers which rows were of use."""

    splits: dict[str, Split] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def split_of(self, source: str | None) -> Split | None:
        """The split of the row for `source`, or for the innermost folder around it that has one."""
        if source is None:
            return None
        path = PurePosixPath(one_form(source))
        for one in (path, *path.parents):
            if one.as_posix() in self.splits:
                self.used.add(one.as_posix())
                return self.splits[one.as_posix()]
        return None

    def unused(self) -> list[str]:
        """`line <n> (<path>)` of the rows that nothing asked for, in their order."""
        idle = self.splits.keys() - self.used
        return [f"line {self.lines[p]} ({p!r})" for p in self.splits if p in idle]


def read_split_csv(root: Path, findings: Findings) -> SplitTable:
    """The table `root/split.csv`, empty where there is none.

    A first line `path,split` is optional, and so is the kind of line ends; semicolons and tabs
    separate as well as commas, and backslashes as well as slashes. A path that does not exist is a
    defect. Raises DataError with the line for another number of fields, an unknown split, a path
    out of the root, and a path that is listed twice.
    """
    table = SplitTable()
    file = root / SPLIT_CSV
    if not file.is_file():
        return table
    dataset = findings.dataset
    for line, fields in _rows(read_text(file, dataset=dataset)):
        where = f"{dataset}: {str(file)!r} line {line}"
        if len(fields) != 2:
            raise DataError(
                f"{where}: {len(fields)} fields, expected path,split; quote a path with a comma"
            )
        given, split = fields[0], fields[1].casefold()
        if split not in SPLITS:
            raise DataError(f"{where}: unknown split {fields[1]!r}{nearest(split, SPLITS)}")
        relative = PurePosixPath(given.replace("\\", "/"))
        path = one_form(relative.as_posix())
        if relative.is_absolute() or ".." in relative.parts:
            raise DataError(f"{where}: {given!r}; give paths under {str(root)!r}, relative to it")
        if path in table.splits:
            raise DataError(f"{where}: {path!r} is on line {table.lines[path]} too; list it once")
        if not _is_there(root, relative):
            reason = f"{str(file)!r} line {line}: there is no {path!r} under {str(root)!r}"
            findings.defect(f"{SPLIT_CSV} line {line}", reason, remedy="correct or remove the line")
            continue
        table.splits[path] = cast(Split, split)
        table.lines[path] = line
    return table


def _is_there(root: Path, relative: PurePosixPath) -> bool:
    """Whether there is such a path under the root, in whatever Unicode form its names are."""
    if (root / relative).exists():
        return True
    places = [root]
    for part in relative.parts:
        name = one_form(part)
        folders = (place for place in places if place.is_dir())
        places = [e for folder in folders for e in folder.iterdir() if one_form(e.name) == name]
    return bool(places)


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Stripped fields with their line numbers, without blank lines and a header."""
    first = text.split("\n", 1)[0]
    delimiter = next((one for one in ",;\t" if one in first), ",")
    for line, fields in enumerate(csv.reader(text.split("\n"), delimiter=delimiter), 1):
        stripped = [one.strip() for one in fields]
        header = line == 1 and [one.casefold() for one in stripped] == ["path", "split"]
        if any(stripped) and not header:
            yield line, stripped
