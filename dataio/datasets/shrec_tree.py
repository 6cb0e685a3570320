"""Where the archives of the SHREC sketch tracks put what they hold, and files by their ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dataio.datasets import listing
from dataio.datasets.listing import found, undoubled, visible
from dataio.findings import Findings
from dataio.records import DataError

_ID = re.compile(r"m?([0-9]+)")


@dataclass(frozen=True)
class Edition:
    """One year's track: the names of its folders, and what was published about it."""

    name: str
    sketches: dict[str, tuple[str, ...]]  # folder -> the splits that belong into it
    models: str
    evaluation: tuple[str, ...]  # any of these
    class_files: str  # first part of the .cla files' names
    classes: int
    shapes: int


SHREC13 = Edition(
    name="shrec13",
    sketches={
        "SHREC13_SBR_TRAINING_SKETCHES": ("train",),
        "SHREC13_SBR_TESTING_SKETCHES": ("test",),
    },
    models="SHREC13_SBR_TARGET_MODELS",
    evaluation=("SHREC2013_Sketch_Evaluation",),
    class_files="SHREC13_SBR",
    classes=90,
    shapes=1258,
)
SHREC14 = Edition(
    name="shrec14",
    sketches={"SHREC14LSSTB_SKETCHES": ("train", "test")},
    models="SHREC14LSSTB_TARGET_MODELS",
    evaluation=("SHREC14_Sketch_Evaluation", "SHREC14_Sketch_Evaluation_CVIU"),
    class_files="SHREC14_SBR",
    classes=171,
    shapes=8987,
)


@dataclass(frozen=True)
class Tree:
    """The folders of a data set on this disk; `evaluation` holds its class files."""

    edition: Edition
    root: Path
    archives: dict[Path, tuple[str, ...]]
    models: Path
    evaluation: Path

    def class_file(self, of: str) -> Path:
        """The .cla file of "Model", "Sketch", "Sketch_Train" or "Sketch_Test"."""
        return self.evaluation / f"{self.edition.class_files}_{of}.cla"

    def source(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def meshes(self, findings: Findings) -> Files:
        """The .off files; DataError if there is none."""
        entries = visible(self.models, root=self.root)
        files = [Path(e.path) for e in entries if e.name.casefold().endswith(".off")]
        if not files:
            raise DataError(
                f"{findings.dataset}: no meshes. Expected .off files in {str(self.models)!r}. "
                f"Found: {found(self.models)}."
            )
        return Files(files)


class Files:
    """Files by the ids of class files, which are bare digits.

    An id stands for the file of that name, with or without the letter `m` before it, in whatever
    case; if there is none, for the file of the same number, as zeros may have been padded.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.all = list(files)
        self._by_text: dict[str, list[Path]] = {}
        self._by_number: dict[int, list[Path]] = {}
        for file in self.all:
            bare = _bare(file.stem)
            self._by_text.setdefault(bare, []).append(file)
            if bare.isdecimal():
                self._by_number.setdefault(int(bare), []).append(file)

    def find(self, item_id: str) -> list[Path]:
        """The files that the id can stand for: one if all is well."""
        bare = _bare(item_id)
        if bare in self._by_text:
            return self._by_text[bare]
        return self._by_number.get(int(bare), []) if bare.isdecimal() else []


def _bare(name: str) -> str:
    """An id without its letter: `M000012` -> `000012`."""
    lowered = name.casefold()
    match = _ID.fullmatch(lowered)
    return match[1] if match else lowered


def located(edition: Edition, root: Path, *, dataset: str) -> Tree:
    """The folders of an edition under `root`, each of which may lie in one of its own name.

    Raises DataError with what was expected and what is there if one is missing. Of the archives of
    sketches one is enough.
    """
    needed = {
        "sketches": tuple(edition.sketches),
        "meshes": (edition.models,),
        "class files": edition.evaluation,
    }
    every = tuple(name for names in needed.values() for name in names)
    base = listing.located(
        root, lambda folder: bool(_held(folder, every)), dataset=dataset, expected=_listed(every)
    )
    for what, names in needed.items():
        if not _held(base, names):
            raise _missing(dataset, base, names, what=what)
    models = undoubled(base / edition.models)
    tree = Tree(
        edition,
        root=base,
        archives={undoubled(a): edition.sketches[a.name] for a in _held(base, edition.sketches)},
        models=models / "models" if (models / "models").is_dir() else models,
        evaluation=undoubled(_held(base, edition.evaluation)[0]),
    )
    if not tree.class_file("Model").is_file():
        raise _missing(
            dataset, tree.evaluation, (tree.class_file("Model").name,), what="classes of the shapes"
        )
    return tree


def _held(folder: Path, names: Iterable[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_dir()]


def _missing(dataset: str, folder: Path, names: Sequence[str], *, what: str) -> DataError:
    """The error about a folder that has none of `names`, with the nearest that it has."""
    there = [entry.name for entry in visible(folder, root=folder)]
    near = [close for name in names for close in get_close_matches(name, there, n=1)]
    hint = f" Is it {near[0]!r}? Then rename it." if near else ""
    return DataError(
        f"{dataset}: no {what} under {str(folder)!r}. Expected {_listed(names)} there. "
        f"Found: {found(folder)}.{hint}"
    )


def _listed(names: Sequence[str]) -> str:
    return " or ".join(names) if len(names) < 3 else ", ".join(names)


def note_unlisted(files: Sequence[Path], table: Path, findings: Findings) -> None:
    """A note on files that the class file `table` does not list, if there are any."""
    if files:
        findings.note(f"{len(files)} files are not listed in {table.name}, first {files[0].name!r}")
