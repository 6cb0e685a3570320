"""MI3DOR (Song et al., IEEE T-Cybernetics 2021; SHREC'19 monocular track).

Two trees are known, see `_LAYOUT`: folders by class, or folders with label files. Where options
name lists of one's own, these alone are read. No picture is opened.
"""

from __future__ import annotations

from pathlib import Path

from dataio.datasets.adapter_type import Adapter
from dataio.datasets.listing import located
from dataio.datasets.mi3dor_lists import ListFile, ListOptions, ListReader, class_order, listed_by
from dataio.datasets.mi3dor_tree import FOLDERS, Tree, has_tree
from dataio.datasets.published import Published, expect_counts
from dataio.findings import Findings
from dataio.records import SPLITS, DataError, Record

_LAYOUT = """\
image/{train,test}/<class>/<any name>.{jpg,jpeg,png}
view/{train,test}/<class>/<shape>/<shape>_<VVV>.png    VVV = 001..012
model/{train,test}/<class>/<shape>.obj                 optional, not packed
sketch/{train,test}/<class>/<any name>.png             optional, one's own; val splits may be too

or train/2D/{label.txt,images/}  train/3D/{label.txt,images/}  test/{2D,3D}/labels.txt
lines are `path label`; a line of 3D is one shape: all pictures in the path's folder"""

_EXPECTED = "image/{train,test}/<class>/ and view/{train,test}/<class>/<shape>/"

_GALLERY = {
    "airplane": 250, "bed": 250, "bicycle": 31, "bookshelf": 250, "camera": 45, "car": 250,
    "chair": 250, "flower_pot": 250, "guitar": 250, "keyboard": 109, "knife": 178, "monitor": 250,
    "motorcycle": 143, "pistol": 123, "plant": 239, "radio": 62, "rifle": 250, "stairs": 72,
    "tent": 96, "vase": 250, "wardrobe": 250,
}  # fmt: skip

_PUBLISHED = Published(
    "mi3dor",
    tuple(_GALLERY),
    {
        ("image", "train"): dict.fromkeys(_GALLERY, 500),
        ("image", "test"): dict.fromkeys(_GALLERY, 500),
        ("shape", "train"): 3842,
        ("shape", "test"): _GALLERY,
    },
)


class Options(ListOptions):
    """Options of MI3DOR and of one's own data in its tree."""


def records(root: Path, options: Options, findings: Findings) -> list[Record]:
    """Images, then sketches, then shapes, each by split and class; lists in their own order.

    Every shape has `options.views` views. A class with queries but no shapes in a split, or the
    reverse, is an error or left out (`missing_classes`). Raises DataError, naming the folder and
    the remedy, if the data are not usable.
    """
    dataset = options.name or _PUBLISHED.name
    root = Path(root)
    lists = listed_by(options)
    if not lists or not root.is_dir():
        root = located(root, _is_usable, dataset=dataset, expected=_EXPECTED)
    if not lists and has_tree(root):
        made = Tree(root, dataset=dataset, options=options, findings=findings).records()
    else:
        lists = lists or _labelled(root, dataset=dataset)
        made = read_lists(root, lists, _PUBLISHED, options=options, findings=findings)
    return checked(made, _PUBLISHED, options=options, findings=findings)


def read_lists(
    root: Path,
    lists: list[ListFile],
    published: Published,
    *,
    options: ListOptions,
    findings: Findings,
) -> list[Record]:
    """The records of lists, whose labels are in the order of the published classes unless there is
    a class file, or a tree with other classes."""
    dataset = options.name or published.name
    present: set[str] = set()
    if has_tree(root):
        tree = Tree(root, dataset=dataset, options=options, findings=findings)
        folders = [tree.class_folders(stream) for stream in FOLDERS]
        present = {name for splits in folders for held in splits.values() for name in held}
    order = class_order(root, options, present=present, usual=published.classes, dataset=dataset)
    reader = ListReader(root, options, order=order, dataset=dataset, findings=findings)
    return reader.records(lists)


def checked(
    made: list[Record], published: Published, *, options: ListOptions, findings: Findings
) -> list[Record]:
    """The records of classes that queries and shapes share in every split, and whether there are
    as many as published."""
    kept = _matched(made, drop=options.missing_classes == "drop", findings=findings)
    present = {record.label for record in kept if record.label is not None}
    expect_counts(kept, published, options=options, present=present, findings=findings)
    return kept


def _is_usable(folder: Path) -> bool:
    return has_tree(folder) or bool(_label_files(folder))


def _label_files(root: Path) -> dict[tuple[str, str], str]:
    """Label files of the second tree by split and folder."""
    return {
        (split, folder): f"{split}/{folder}/{name}"
        for split in SPLITS
        for folder in ("2D", "3D")
        for name in ("label.txt", "labels.txt")
        if (root / split / folder / name).is_file()
    }


def _labelled(root: Path, *, dataset: str) -> list[ListFile]:
    held = _label_files(root)
    lists: list[ListFile] = []
    for folder, stream in (("2D", "image"), ("3D", "shape")):
        for split in SPLITS:
            path = root / split / folder
            if not path.is_dir():
                continue
            if (split, folder) not in held:
                raise DataError(f"{dataset}: {str(path)!r} has no label.txt; restore it")
            inner = "images/" if (path / "images").is_dir() else ""
            lists.append(
                ListFile(
                    held[split, folder], stream, split, f"{split}/{folder}/{inner}",
                    folders=stream == "shape",
                )
            )  # fmt: skip
    return lists


def _matched(made: list[Record], *, drop: bool, findings: Findings) -> list[Record]:
    """The records less those of a class without queries or without shapes in a split that has both.

    Sketches may be of fewer classes than the images.
    """
    held: dict[tuple[str, str], set[str | None]] = {}
    for record in made:
        held.setdefault((record.stream, record.split), set()).add(record.label)
    for stream in ("image", "sketch"):
        for split in SPLITS:
            queries, gallery = held.get((stream, split)), held.get(("shape", split))
            if not queries or not gallery:
                continue
            spared = gallery & held.get(("image", split), set()) if stream == "sketch" else set()
            for name in sorted(str(name) for name in (queries ^ gallery) - (spared - queries)):
                has, lacks = FOLDERS[stream], FOLDERS["shape"]
                if name in gallery:
                    has, lacks = lacks, has
                problem = f"class {name!r} is under {has}/{split} and not under {lacks}/{split}"
                if not drop:
                    remedy = "add it, or pass -o missing_classes=drop"
                    findings.defect(f"{has}/{split}/{name}", problem, remedy=remedy)
                else:
                    findings.note(f"{problem}; dropped")
                queries.discard(name)
                gallery.discard(name)
    return [record for record in made if record.label in held[record.stream, record.split]]


ADAPTERS = (
    Adapter(
        name="mi3dor",
        title="MI3DOR: photos and 12-view shapes of 21 classes (Song et al., T-Cybernetics 2021)",
        layout=_LAYOUT,
        terms="Research and education only, on request from Tianjin University; shards may not be "
        "passed on.",
        options=Options,
        records=records,
    ),
)
