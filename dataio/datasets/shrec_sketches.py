"""The sketches of the SHREC tracks: listed from their folders, checked against class files."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from dataio.datasets.cla import read_cla
from dataio.datasets.listing import class_folders, is_picture, visible
from dataio.datasets.shrec_tree import Files, Tree, note_unlisted
from dataio.findings import Findings
from dataio.names import canonical_name

Sketches = dict[str, dict[str, list[Path]]]  # by split and canonical class name


def listed_sketches(tree: Tree, findings: Findings) -> Sketches:
    """The pictures in order of their names; classes without any are left out.

    What lies beside an archive's own splits is ignored with a note: the archives of '13 come with
    folders of the other split, empty or not.
    """
    held: Sketches = {"train": {}, "test": {}}
    for archive, splits in tree.archives.items():
        stray: list[str] = []
        classes = class_folders(archive, root=tree.root, dataset=findings.dataset)
        for label, folder in classes.items():
            for entry in visible(folder, root=tree.root):
                if entry.name not in splits or not entry.is_dir():
                    stray.append(tree.source(Path(entry.path)))
                    continue
                pictures = filter(is_picture, visible(Path(entry.path), root=tree.root))
                if files := [Path(picture.path) for picture in pictures]:
                    held[entry.name][label] = files
        if stray:
            findings.note(
                f"{len(stray)} entries of class folders in {tree.source(archive)!r} are not "
                f"{' or '.join(splits)} and are ignored, first {stray[0]!r}"
            )
    return held


def check_sketches(tree: Tree, sketches: Sketches, findings: Findings) -> None:
    """Compare the folders with each other and with the sketches' class files, if there are any.

    Leaves out, in place, what is there twice or under another class than the file says.
    """
    for label in sorted(set(chain(*sketches.values()))):
        _leave_out_repeated(tree, sketches, label, findings)
    tables = {("train",): "Sketch_Train", ("test",): "Sketch_Test"}
    if not any(tree.class_file(of).is_file() for of in tables.values()):
        tables = {("train", "test"): "Sketch"}
    for splits, of in tables.items():
        # An archive that is not there at all is no defect of the class file.
        if tree.class_file(of).is_file() and all(sketches[split] for split in splits):
            _compare(tree, sketches, splits, tree.class_file(of), findings)


def _leave_out_repeated(tree: Tree, sketches: Sketches, label: str, findings: Findings) -> None:
    firsts: dict[str, Path] = {}
    for by_class in sketches.values():
        for file in list(by_class.get(label, ())):
            first = firsts.setdefault(file.stem.lower(), file)
            if first is file:
                continue
            places = f"{tree.source(first)!r} and in {tree.source(file)!r}"
            findings.defect(
                tree.source(file),
                f"sketch {file.stem} of class {label!r} is in {places}",
                remedy="remove one",
            )
            by_class[label].remove(file)


def _compare(
    tree: Tree, sketches: Sketches, splits: tuple[str, ...], table: Path, findings: Findings
) -> None:
    """Every listed sketch of a class that is kept lies in the folder of that class."""
    folders = [(label, files) for split in splits for label, files in sketches[split].items()]
    owners = {file: (label, files) for label, files in folders for file in files}
    held, listed = Files(owners), set[Path]()
    for one in read_cla(table).classes:
        label = canonical_name(one.name)
        if not any(label in sketches[split] for split in splits):
            continue
        for sketch, line in one.models.items():
            place = f"{table} line {line} lists sketch {sketch} under {one.name!r}"
            found = held.find(sketch)
            listed.update(found)
            if not found:
                findings.defect(
                    f"{table.name} sketch {sketch}",
                    f"{place}, and it is not among the sketches of {' and '.join(splits)}",
                    remedy="extract the archive again",
                )
            for file in found:
                owner, files = owners[file]
                if owner != label and file in files:
                    reason = f"{place}, and it is in {tree.source(file)!r}"
                    findings.defect(tree.source(file), reason, remedy="move it or leave it out")
                    files.remove(file)
    note_unlisted([file for file in owners if file not in listed], table, findings)
