"""Your own files, in folders.

    images/<class>/<picture>            photos; directly in images/: without a class
    sketches/<class>/<picture>          the same for drawings
    meshes/<class>/<mesh>               shapes to be rendered (.off .obj .ply .stl .glb .gltf)
    views/<class>/<shape>/<picture>     shapes that are rendered; <class>/ may be left out
    split.csv                           optional: path,split

Any of the folders may be missing. The views of a shape are sorted by the numbers in their names;
where there are not `views` of them, so many are taken at even distances, or repeated. A shape
(class and id) that is in views/ and in meshes/ has its views, and its mesh is noted in `extra`.

A picture and a shape of one class with one name (`images/chair/oslo.jpg`, `meshes/chair/oslo.obj`)
show one object, their instance; the endings do not count, and names compare in Unicode's form NFC.

The split (train, val, test) of an item is that of its line in split.csv, or of the line of the
innermost folder around it. Otherwise it is that of its folder, if all folders of images/ (or of
another) are called train, val or test and hold the class folders: images/train/<class>/<picture>.
Otherwise the shares of test and val are exact in each class of a stream, and those of the lowest
hashes of class and id are chosen, so that few items change their split when others are added. A
class of two items or more has at least one of train and one of test. Items with a split of their
own count in these shares.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from dataio.datasets.adapter_type import Adapter, AdapterOptions
from dataio.datasets.folder_tree import TOPS, Item, list_items, top_folders
from dataio.datasets.listing import Keys, exact_splits, kept_classes, located, split_hash, visible
from dataio.datasets.split_csv import SPLIT_CSV, SplitTable, read_split_csv
from dataio.findings import Findings
from dataio.names import nearest, synonyms
from dataio.records import DataError, Record, Split, UpAxis

_EXPECTED = (
    "images/<class>/<picture>, sketches/<class>/<picture>, meshes/<class>/<mesh> or "
    "views/<class>/<shape>/<picture> (<class>/ may be left out)"
)
_STREAMS = {"images": "image", "sketches": "sketch", "views": "shape", "meshes": "shape"}
# The axis that is up, and why: what most programs write where the format leaves it open.
_UP: dict[str, tuple[UpAxis, str]] = {
    **dict.fromkeys((".glb", ".gltf"), ("+y", "by the standard of glTF")),
    ".obj": ("+y", "the format does not say; Blender, three.js and obj2gltf take +y"),
    **dict.fromkeys((".ply", ".stl"), ("+z", "the format does not say; Blender takes +z")),
    ".off": ("+z", "the format does not say; ModelNet and SHREC have +z"),
}
_DEFINED = frozenset({".glb", ".gltf"})


class Options(AdapterOptions):
    """Options of `folder`."""

    views: int = Field(default=12, ge=1, description="Views that every shape of views/ gets.")
    up_axis: UpAxis | None = Field(
        default=None,
        description="+z | +y: of the meshes; null: +y for .obj, .glb and .gltf, +z for .off, .ply "
        "and .stl.",
    )
    seed: int = Field(default=0, ge=0, description="Of the split by hash.")
    test_share: float = Field(
        default=0.2, ge=0, le=1, description="Share of each class that becomes test; exact."
    )
    val_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of each class that becomes val; exact."
    )


def records(root: Path, options: Options, findings: Findings) -> list[Record]:
    """Images, sketches and shapes, in the order of their paths.

    Raises DataError naming folder or file, or the line of split.csv.
    """
    if options.test_share + options.val_share > 1:
        raise DataError(f"{findings.dataset}: test_share and val_share are more than 1 together")
    root = _located(root, findings.dataset)
    streams = _streams(root, options, findings)
    _compare_classes(streams, findings)
    table = read_split_csv(root, findings)
    pairs = _instances(streams, findings)
    keys = Keys(options.name or "folder")
    made: list[Record] = []
    for stream, items in streams.items():
        for item, split in zip(items, _splits(items, table, options), strict=True):
            key = keys.make(split, item.label, item.item_id, source=item.source)
            named = pairs.get((item.label, item.item_id), "")
            made.append(replace(_record(key, stream, split, item, options), instance=named))
    idle = table.unused()
    if idle and options.classes is None:
        findings.note(f"{len(idle)} lines of {SPLIT_CSV} are of no item that is read ({idle[0]})")
    views = [item for item in streams["shape"] if item.top == "views"]
    odd = [item for item in views if len(item.files) != options.views]
    if odd:
        findings.note(
            f"{len(odd)} shapes have another number of views than {options.views} (first: "
            f"{odd[0].source!r} has {len(odd[0].files)}); some are left out or repeated"
        )
    return made


def _located(root: Path, dataset: str) -> Path:
    try:
        return located(
            root, lambda folder: bool(top_folders(folder)), dataset=dataset, expected=_EXPECTED
        )
    except DataError as error:
        if root.is_dir() and root.name.casefold() in TOPS:
            raise DataError(f"{error} Did you mean {str(root.parent)!r}?") from None
        for entry in visible(root, root=root) if root.is_dir() else ():
            close = nearest(entry.name.casefold(), TOPS)
            if entry.is_dir() and close.startswith("; did you mean"):
                raise DataError(f"{error} Folder {entry.name!r}{close}") from None
        raise


def _streams(root: Path, options: Options, findings: Findings) -> dict[str, list[Item]]:
    """The items of the wanted classes by stream; those of views/ before those of meshes/."""
    tops = top_folders(root)
    streams: dict[str, list[Item]] = {"image": [], "sketch": [], "shape": []}
    for top, stream in _STREAMS.items():
        if top in tops:
            streams[stream] += list_items(root, top, tops[top], findings)
    held = [item for items in streams.values() for item in items]
    if not held:
        raise DataError(
            f"{findings.dataset}: nothing to pack in {', '.join(map(repr, tops))} under "
            f"{str(root)!r}. Expected {_EXPECTED}"
        )
    for entry in visible(root, root=root):
        if entry.is_dir() and Path(entry.path) not in tops.values():
            hint = nearest(entry.name.casefold(), TOPS)
            findings.note(f"folder {entry.name!r} is not read{hint}")
    streams["shape"] = _without_twins(streams["shape"])
    labels = {item.label for item in held if item.label is not None}
    if options.classes is None:
        return streams
    kept = kept_classes(labels, options.classes, dataset=findings.dataset)
    return {stream: [i for i in items if i.label in kept] for stream, items in streams.items()}


def _compare_classes(streams: dict[str, list[Item]], findings: Findings) -> None:
    """Warn of classes that queries or shapes alone have: nothing can be retrieved for them."""
    queries = {i.label for i in (*streams["image"], *streams["sketch"]) if i.label is not None}
    shapes = {i.label for i in streams["shape"] if i.label is not None}
    if not queries or not shapes:
        return
    for some, others, what in (
        (queries, shapes, "images or sketches and no shapes"),
        (shapes, queries, "shapes and neither images nor sketches"),
    ):
        alone = sorted(some - others)
        message = f"{len(alone)} classes have {what}: {', '.join(alone[:10])}"
        for name in alone:
            for twin in sorted(synonyms(name) & (others - some)):
                message += f"; {name!r} and {twin!r} look like one class, give them one name"
        findings.expect(not alone, message)


def _instances(
    streams: dict[str, list[Item]], findings: Findings
) -> dict[tuple[str | None, str], str]:
    """The instances by (class, name): what a picture and a shape have in common."""
    pictures = [*streams["image"], *streams["sketch"]]
    shapes = {(item.label, item.item_id) for item in streams["shape"]}
    paired = [(i.label, i.item_id) for i in pictures if (i.label, i.item_id) in shapes]
    if paired:
        findings.note(
            f"{len(paired)} of {len(pictures)} pictures have a shape of their class and name: they "
            "are paired (eval --level instance)"
        )
    return {(label, name): f"{label or ''}/{name}" for label, name in paired}


def _without_twins(shapes: list[Item]) -> list[Item]:
    """The shapes less the meshes of those that have views, which note mesh and split."""
    meshes: dict[tuple[str | None, str], Item] = {}
    for item in shapes:
        if item.top == "meshes":
            meshes.setdefault((item.label, item.item_id), item)
    kept: list[Item] = []
    for item in shapes:
        mesh = meshes.get((item.label, item.item_id)) if item.top == "views" else None
        if mesh is not None:
            item = replace(item, mesh=mesh.source, split=item.split or mesh.split)
        kept.append(item)
    rendered = {(item.label, item.item_id) for item in shapes if item.top == "views"}
    return [i for i in kept if i.top == "views" or (i.label, i.item_id) not in rendered]


def _splits(items: list[Item], table: SplitTable, options: Options) -> list[Split]:
    """The split of each item of a stream."""
    given: list[Split | None] = [
        table.split_of(item.source) or table.split_of(item.mesh) or item.split for item in items
    ]
    known: dict[str, Split] = {
        _hash_id(item): split for item, split in zip(items, given, strict=True) if split
    }
    by_class: dict[str, set[str]] = {}
    for item in items:
        by_class.setdefault(item.label or "", set()).add(_hash_id(item))
    chosen = exact_splits(
        (
            dict.fromkeys(sorted(ids, key=lambda one: split_hash(one, seed=options.seed)), 1)
            for ids in by_class.values()
        ),
        test_share=options.test_share,
        val_share=options.val_share,
        given=known,
    )
    return [split or chosen[_hash_id(item)] for item, split in zip(items, given, strict=True)]


def _hash_id(item: Item) -> str:
    """What an item's split is drawn from; the same for a mesh and for its views."""
    return f"{_STREAMS[item.top]}/{item.label or ''}/{item.item_id}"


def _record(key: str, stream: str, split: Split, item: Item, options: Options) -> Record:
    file, source = item.files[0], item.source
    if stream != "shape":
        return Record(key, stream, split, item.label, image=file, source_path=source)
    if item.top == "meshes":
        up, because = _UP[file.suffix.lower()]
        if options.up_axis is not None:
            up, because = options.up_axis, "given by -o up_axis"
        return Record(
            key,
            stream,
            split,
            item.label,
            mesh=file,
            source_path=source,
            up_axis=up,
            up_because=because,
            up_certain=options.up_axis is not None or file.suffix.lower() in _DEFINED,
        )
    held = len(item.files)
    views = tuple(item.files[k * held // options.views] for k in range(options.views))
    extra = {} if item.mesh is None else {"mesh": item.mesh}
    return Record(key, stream, split, item.label, views=views, source_path=source, extra=extra)


ADAPTERS = (
    Adapter(
        name="folder",
        title="Your own images, sketches, meshes or rendered views, in folders",
        layout="""\
images/<class>/<picture>              or images/<picture>, images/{train,val,test}/<class>/<picture>
sketches/<class>/<picture>            in the same forms
meshes/<class>/<mesh>                 in the same forms: .off .obj .ply .stl .glb .gltf
views/<class>/<shape>/<picture>       in the same forms
split.csv                             optional: path,split""",
        terms="Yours.",
        options=Options,
        records=records,
    ),
)
