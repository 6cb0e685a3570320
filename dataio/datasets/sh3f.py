"""Furniture libraries of Sweet Home 3D, a program for interior design: `.sh3f` files.

A library has a small product picture and a mesh of every piece. Five libraries with 820 pieces are
Debian's package `sweethome3d-furniture`; users download others from the program's site and make
their own. Names of pieces are words ("Armchair", "Oak table"); `sh3f_classes.yaml` makes classes of
them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from dataio.datasets.adapter_type import Adapter, AdapterOptions
from dataio.datasets.listing import Keys, exact_splits, found, kept_classes, split_hash, visible
from dataio.datasets.sh3f_classes import SHIPPED, Rule, label_of, read_rules
from dataio.datasets.sh3f_library import Entry, Library, UnusableEntry
from dataio.findings import Findings
from dataio.names import nearest
from dataio.records import DataError, Record, Split

_SUFFIX = ".sh3f"
_INSTALLED = "usr/share/sweethome3d/furniture"  # in Debian's package
_SHOWN = 8  # names of entries in a message


class Options(AdapterOptions):
    """Options of furniture libraries."""

    libraries: tuple[str, ...] | None = Field(
        default=None,
        description="Read these libraries alone, by the names of their files: "
        "libraries=BlendSwap-CC-0,Scopia.",
    )
    rules: Path | None = Field(
        default=None,
        description="File of rules that make classes of names; null: the one that is shipped, "
        "sh3f_classes.yaml. classes=FILE means the same.",
    )
    test_share: float = Field(
        default=0.25, ge=0, le=1, description="Share of each class that becomes test; exact."
    )
    val_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of each class that becomes val; exact."
    )
    seed: int = Field(default=0, description="Seed of the split.")
    unpacked: Path | None = Field(
        default=None,
        exclude=True,  # a place on this machine, which the packed data set does not keep
        description="Folder that pictures and meshes are unpacked into, which workers on other "
        "machines must see; null: ~/.cache/img2shape/sh3f.",
    )

    @model_validator(mode="before")
    @classmethod
    def _file_of_classes(cls, given: Any) -> Any:
        """`classes=FILE` is `rules=FILE`; `classes=[bed, chair]` keeps what it says."""
        if isinstance(given, dict) and isinstance(given.get("classes"), str):
            rest = {key: value for key, value in given.items() if key != "classes"}
            if rest.setdefault("rules", given["classes"]) != given["classes"]:
                raise ValueError("give the file of rules once, as classes=FILE")
            return rest
        return given

    @field_validator("libraries", mode="before")
    @classmethod
    def _separated(cls, given: Any) -> Any:
        if isinstance(given, str):
            return tuple(name.strip() for name in given.split(",") if name.strip())
        return given

    @model_validator(mode="after")
    def _shares_fit(self) -> Options:
        if self.test_share + self.val_share > 1:
            raise ValueError("test_share and val_share are more than 1 together")
        return self


@dataclass(frozen=True)
class _Pair:
    """The picture and the mesh of one entry."""

    source: str  # name of the library's file, # and the entry's id
    label: str
    picture: Path
    mesh: Path
    rotation: tuple[float, ...]
    extra: dict[str, str]


def records(root: Path, options: Options, findings: Findings) -> list[Record]:
    """A picture and a shape for every entry of every library that is in a class.

    Libraries come by name, entries by their number. Both records of an entry are of one split and
    of one instance, the entry.
    Raises DataError if the data are not usable; an entry without its picture or mesh is a defect.
    """
    root = Path(root)
    rules = read_rules(options.rules or SHIPPED, dataset=findings.dataset)
    pairs = _pairs(root, options, findings, rules)
    if not pairs:
        raise DataError(
            f"{findings.dataset}: no entry under {str(root)!r} has a class, a picture and a mesh "
            "that is read; see the counts above, and give other rules with -o classes=FILE"
        )
    kept = kept_classes({pair.label for pair in pairs}, options.classes, dataset=findings.dataset)
    pairs = [pair for pair in pairs if pair.label in kept]
    keys = Keys(options.name or "sh3f")
    made: list[Record] = []
    for pair, split in zip(pairs, _splits(pairs, options), strict=True):
        label, source = pair.label, pair.source
        item = source.replace(f"{_SUFFIX}#", "-")
        picture, shape = (
            keys.make(split, label, f"{item}-{what}", source=f"{source} {what}")
            for what in ("picture", "shape")
        )
        about: dict[str, Any] = {"source_path": source, "instance": source, "extra": pair.extra}
        made.append(Record(picture, "image", split, label, image=pair.picture, **about))
        made.append(
            Record(
                shape,
                "shape",
                split,
                label,
                mesh=pair.mesh,
                up_axis="+y",
                rotation=pair.rotation,
                **about,
            )
        )
    return made


def _pairs(root: Path, options: Options, findings: Findings, rules: Sequence[Rule]) -> list[_Pair]:
    """Every usable entry with a class; the others are counted and named."""
    files = _library_files(root, options, findings.dataset)
    unpack_into = options.unpacked or Path.home() / ".cache" / "img2shape" / "sh3f"
    pairs: list[_Pair] = []
    without_class: list[str] = []
    formats: dict[str, list[str]] = {}
    about: list[dict[str, Any]] = []
    for file in files:
        place = file.name  # all lie in one folder
        with Library(file, unpack_into=unpack_into, dataset=findings.dataset) as library:
            said = library.about()
            about.append({"file": place, **said, "entries": len(library.entries)})
            findings.note(
                f"{place}: {said.get('name', 'without a name')}, {len(library.entries)} entries, "
                f"licence: {said.get('license', 'not given')}, "
                f"provider: {said.get('provider', 'not given')}"
            )
            seen: set[str] = set()
            for entry in library.entries:
                source = f"{place}#{entry.entry_id}"
                try:
                    if not entry.name:
                        raise UnusableEntry("has no name")
                    label = label_of(entry.name, rules)
                    if label is None:
                        without_class.append(entry.name)
                        continue
                    if entry.entry_id in seen:
                        raise UnusableEntry("its id is there twice")
                    seen.add(entry.entry_id)
                    mesh = library.mesh(entry)
                    if isinstance(mesh, str):
                        formats.setdefault(mesh, []).append(entry.name)
                        continue
                    picture, rotation = library.picture(entry), _facing(entry.rotation())
                except UnusableEntry as error:
                    reason = f"{source} ({entry.name or 'no name'}): {error}"
                    findings.defect(source, reason, remedy="repair the library")
                    continue
                pairs.append(_Pair(source, label, picture, mesh, rotation, _extra(entry, said)))
    findings.metadata["libraries"] = about
    _note_left_out(without_class, formats, options, findings)
    return pairs


def _library_files(root: Path, options: Options, dataset: str) -> list[Path]:
    folder_files = _in_folder(root) or _in_folder(root / _INSTALLED)
    files = [root] if root.is_file() else folder_files
    if not files:
        raise DataError(
            f"{dataset}: no library under {str(root)!r}. Expected a {_SUFFIX} file or a folder of "
            f"them, such as {_INSTALLED} of Debian's sweethome3d-furniture. Found: {found(root)}."
        )
    if options.libraries is None:
        return files
    by_name = {file.stem.casefold(): file for file in files}
    for name in options.libraries:
        if name.casefold().removesuffix(_SUFFIX) not in by_name:
            stems = [file.stem for file in files]
            raise DataError(f"{dataset}: libraries: no library {name!r}{nearest(name, stems)}")
    wanted = {name.casefold().removesuffix(_SUFFIX) for name in options.libraries}
    return [file for file in files if file.stem.casefold() in wanted]


def _in_folder(folder: Path) -> list[Path]:
    entries = visible(folder, root=folder) if folder.is_dir() else []
    return [Path(e.path) for e in entries if e.name.lower().endswith(_SUFFIX) and e.is_file()]


def _facing(rotation: tuple[float, ...] | None) -> tuple[float, ...]:
    """The rotation, then half a turn about the up axis.

    Furniture faces +z, and the first view of a mesh whose up axis is +y looks along +z.
    """
    a, b, c, d, e, f, g, h, i = rotation or (1, 0, 0, 0, 1, 0, 0, 0, 1)
    return -a, -b, -c, d, e, f, -g, -h, -i


def _extra(entry: Entry, library: dict[str, str]) -> dict[str, str]:
    """What is kept of an entry with its samples; its own licence goes before the library's."""
    fields = {"license": library.get("license", ""), "library": library.get("name", "")}
    for name in ("name", "category", "tags", "creator", "license"):
        fields[name] = entry.fields.get(name, "").strip() or fields.get(name, "")
    return {name: value for name, value in sorted(fields.items()) if value}


def _note_left_out(
    without_class: list[str], formats: dict[str, list[str]], options: Options, findings: Findings
) -> None:
    if without_class:
        counted = sorted(Counter(without_class).items())
        names = ", ".join(name if n == 1 else f"{name} ({n})" for name, n in counted)
        findings.note(
            f"{len(without_class)} entries are in no class of {(options.rules or SHIPPED).name} "
            f"and are left out: {names}"
        )
    for suffix, names in sorted(formats.items()):
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        findings.note(
            f"{len(names)} entries have a mesh of a format that is not read, {suffix}, and are "
            f"left out: {', '.join(names[:_SHOWN])}{more}"
        )


def _splits(pairs: Sequence[_Pair], options: Options) -> list[Split]:
    """The split of each pair: exact shares of each class, drawn by the seed.

    Pairs with the same picture or the same mesh, byte for byte, are of one split.
    """
    group_of = _groups(pairs)
    of_class: dict[str, dict[int, list[_Pair]]] = {}
    for index, pair in enumerate(pairs):
        of_class.setdefault(pair.label, {}).setdefault(group_of[index], []).append(pair)

    def hashed(members: Sequence[_Pair]) -> bytes:
        return split_hash(f"{members[0].label}/{members[0].source}", seed=options.seed)

    drawn = (
        {group: len(groups[group]) for group in sorted(groups, key=lambda g: hashed(groups[g]))}
        for _, groups in sorted(of_class.items())
    )
    chosen = exact_splits(drawn, test_share=options.test_share, val_share=options.val_share)
    return [chosen[group] for group in group_of]


def _groups(pairs: Sequence[_Pair]) -> list[int]:
    """For each pair the first one that it is tied to by equal files, over any number of ties."""
    first: dict[bytes, int] = {}
    group_of = list(range(len(pairs)))
    for index, pair in enumerate(pairs):
        for file in (pair.picture, pair.mesh):
            content = hashlib.sha256(file.read_bytes()).digest()
            tied = group_of[first.setdefault(content, index)]
            low, high = sorted((tied, group_of[index]))
            if low != high:
                group_of = [low if group == high else group for group in group_of]
    return group_of


ADAPTERS = (
    Adapter(
        name="sh3f",
        title="Furniture libraries of Sweet Home 3D: product pictures and meshes",
        layout="""\
<library>.sh3f                        a file, or a folder of them: Debian's sweethome3d-furniture
  PluginFurnitureCatalog.properties   inside: id, name, icon, model, modelRotation of each entry""",
        terms="Each library's own (CC0, CC BY, Free Art, ...), which is printed and kept.",
        options=Options,
        records=records,
    ),
)
