"""One label space for several data sets that call a class by different names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dataio.names import nearest, one_form, synonyms
from dataio.records import DataError
from dataio.shards.manifest import Manifest


@dataclass(frozen=True)
class ClassMap:
    """Which name of a data set stands for which class of the label space."""

    classes: tuple[str, ...]  # the label space, in order of the class numbers
    names: tuple[Mapping[str, str], ...]  # for each data set: its own name -> class


def match_classes(
    data_sets: Mapping[str, Sequence[str]],
    *,
    classes: Sequence[str] | None = None,
    mapping: Mapping[str, Sequence[str]] | None = None,
    required: Literal["all", "any", "none"] = "any",
) -> ClassMap:
    """Match the class names of several data sets.

    A class is met by its own name, by the names that `mapping` lists for it, and by the well-known
    synonyms (sofa, couch). A name that is a class itself stands for no other. Names are compared
    in NFC; the label space is in it too.

    Args:
        data_sets: what to call a data set in errors -> its class names.
        classes: the label space; None takes the classes that all data sets have, by the first one's
            names.
        mapping: class -> more names that stand for it.
        required: how many of the data sets must have a class of `classes`.

    Raises:
        DataError: a class that a data set lacks which must have it, with its nearest names; a name
            that two classes claim; a `mapping` for a class that is not asked for; or no class in
            common.
    """
    mapping = {one_form(k): tuple(map(one_form, names)) for k, names in (mapping or {}).items()}
    first = [one_form(name) for name in next(iter(data_sets.values()))]
    listed = {other for others in mapping.values() for other in others}
    wanted = (
        list(map(one_form, classes)) if classes is not None else sorted({*first, *mapping} - listed)
    )
    _check_mapping(wanted, mapping)
    claims = _claims(wanted, mapping)
    names = [
        {n: claims[one_form(n)] for n in held if one_form(n) in claims}
        for held in data_sets.values()
    ]
    if classes is None:
        shared = set.intersection(*(set(one.values()) for one in names))
        if not shared:
            listed = "; ".join(f"{d}: {', '.join(sorted(h))}" for d, h in data_sets.items())
            raise DataError(f"the data sets have no class in common ({listed}); give a mapping")
        wanted = sorted(shared)
        names = [{n: c for n, c in one.items() if c in shared} for one in names]
    for name in wanted:
        lacking = [d for d, one in zip(data_sets, names, strict=True) if name not in one.values()]
        allowed = {"all": 0, "any": len(data_sets) - 1, "none": len(data_sets)}[required]
        if len(lacking) > allowed:
            raise DataError(
                f"{lacking[0]}: has no class '{name}'{nearest(name, sorted(data_sets[lacking[0]]))}"
                f"; leave it out, or say which name stands for it (mapping: {name}: [..])"
            )
    return ClassMap(tuple(wanted), tuple(names))


def renamed(manifest: Manifest, names: Mapping[str, str]) -> Manifest:
    """The manifest with some labels called otherwise; its content and fingerprint stay the same.

    `names` is old name -> new name; labels that it lacks are kept.
    """
    if all(old == new for old, new in names.items()):
        return manifest
    labels = manifest.labels.copy()
    labels[:] = [names.get(label, label) for label in manifest.labels.tolist()]
    classes = tuple(sorted({names.get(name, name) for name in manifest.classes}))
    numbers = {None: -1, **{name: i for i, name in enumerate(classes)}}
    class_ids = np.array([numbers[label] for label in labels.tolist()], dtype=np.int64)
    return replace(manifest, labels=labels, classes=classes, class_ids=class_ids)


def _check_mapping(wanted: Sequence[str], mapping: Mapping[str, Sequence[str]]) -> None:
    for name in mapping:
        if name not in wanted:
            raise DataError(
                f"mapping: '{name}' is not among the classes{nearest(name, wanted)}; "
                "write class: [names that stand for it]"
            )


def _claims(wanted: Sequence[str], mapping: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Name -> the class it stands for; own names first, then the mapping, then synonyms."""
    claims = {name: name for name in wanted}
    listed: dict[str, str] = {}
    for name, others in mapping.items():
        for other in others:
            if listed.setdefault(other, name) != name or claims.get(other, name) != name:
                owner = claims.get(other, listed[other])
                raise DataError(f"mapping: '{other}' stands for both '{owner}' and '{name}'")
    claims.update(listed)
    for name in wanted:
        for other in sorted(synonyms(name)):
            claims.setdefault(other, name)
    return claims
