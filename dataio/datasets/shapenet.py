"""ShapeNetCore (Chang et al., 2015), versions 1 and 2: meshes by synset.

There is one archive a synset, and any of them may be absent. A class is a synset, called by the
first of its names in `taxonomy.json`, or by a built-in table of the 55 without that file.

Hundreds of models are folders without a mesh, many cars above all: they are left out, counted in a
note and listed, not an error. At least two meshes of version 1 hold nothing, 03624134/67ada28e...
and 04090263/4a32519f...: rendering reports them. The versions are normalised differently, so do not
mix them; meshes are y up, in version 2 the front is -z.

A model may be in two synsets (a kind of thing and the wider one), so a shape is known by synset and
model. The official splits are those of `all.csv` (of the SHREC'16 and '17 tracks), beside the
synsets. Models that it lacks, and all without the file, are split by a hash of the model's id:
copies of a model never end up on both sides.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field

from dataio.datasets.adapter_type import Adapter, AdapterOptions
from dataio.datasets.draw import drawn
from dataio.datasets.listing import (
    Keys,
    file_under,
    hashed_split,
    kept_classes,
    located,
    undoubled,
    visible,
)
from dataio.datasets.shapenet_tables import (
    OFFICIAL_SPLITS,
    SYNSETS,
    TAXONOMY,
    official_splits,
    synset_names,
)
from dataio.findings import Finding, Findings
from dataio.records import DataError, Record

_MESHES = {"v1": "model.obj", "v2": "models/model_normalized.obj"}
_SYNSET = re.compile(r"\d{8}")


class Options(AdapterOptions):
    """Options of `shapenet-v1` and `shapenet-v2`."""

    split: Literal["official", "hash"] = Field(
        default="official",
        description="official: by all.csv, and by hash what it lacks; hash: all by hash.",
    )
    seed: int = Field(default=0, ge=0, description="Of the split by hash and of the draw.")
    test_share: float = Field(
        default=0.2, ge=0, le=1, description="Share of test in the split by hash."
    )
    max_shapes_per_class: int | None = Field(
        default=None,
        ge=1,
        description="Draw so many shapes of a class at most, by hash; null: all. Tables and chairs "
        "are many thousands, beds a few hundred.",
    )


@dataclass(frozen=True)
class _Model:
    synset: str
    name: str  # opaque: mostly 32 hexadecimal digits, not always
    mesh: str  # relative to the root


def records(root: Path, options: Options, findings: Findings, *, version: str) -> list[Record]:
    """The shapes, by class and model; `extra` has synset, model and version.

    Raises DataError naming folder or file if the tree is not usable.
    """
    root = located(
        root,
        lambda folder: bool(_synset_folders(folder)),
        dataset=findings.dataset,
        expected=f"<synset>/<model>/{_MESHES[version]} (extract the archives)",
    )
    folders = _classes(root, findings)
    kept = kept_classes(folders, options.classes, dataset=findings.dataset)
    models = {
        label: _models(root, folder, version, findings)
        for label, folder in folders.items()
        if label in kept
    }
    _check_some(root, models, version, findings)
    made = _records(root, models, options, findings, version=version)
    findings.note(f"{len(folders)} of {len(SYNSETS)} synsets are here; {len(made)} shapes are read")
    return made


def _synset_folders(root: Path) -> list[Path]:
    entries = visible(root, root=root)
    return [Path(e.path) for e in entries if e.is_dir() and _SYNSET.fullmatch(e.name)]


def _classes(root: Path, findings: Findings) -> dict[str, Path]:
    """The synset folders by class name, in its order."""
    names = synset_names(root, dataset=findings.dataset)
    folders: dict[str, Path] = {}
    for folder in _synset_folders(root):
        name = names.get(folder.name)
        if name is None:
            reason = f"folder {str(folder)!r}: {TAXONOMY} has no such synset, nor is it known"
            findings.defect(folder.name, reason, remedy=f"add it to {TAXONOMY}, or remove it")
        elif name in folders:
            raise DataError(
                f"{findings.dataset}: synsets {folders[name].name} and {folder.name} are both "
                f"called {name!r} in {TAXONOMY}; rename one there"
            )
        else:
            folders[name] = folder
    return dict(sorted(folders.items()))


def _models(root: Path, folder: Path, version: str, findings: Findings) -> list[_Model]:
    """The models of a synset that have a mesh; the others are noted."""
    synset, mesh = folder.name, _MESHES[version]
    entries = [e for e in visible(undoubled(folder), root=root) if e.is_dir()]
    models: list[_Model] = []
    lacking: list[str] = []
    for entry in entries:
        relative = (Path(entry.path).relative_to(root) / mesh).as_posix()
        if file_under(root, relative) is None:
            lacking.append(entry.name)
        else:
            models.append(_Model(synset, entry.name, relative))
    if lacking:
        findings.note(
            f"{len(lacking)} of {len(entries)} model folders of {synset} have no {mesh} (first: "
            f"{lacking[0]}); skipped"
        )
        findings.skipped += [Finding(f"{synset}/{name}", f"no {mesh}") for name in lacking]
    return models


def _check_some(
    root: Path, models: dict[str, list[_Model]], version: str, findings: Findings
) -> None:
    if any(models.values()):
        return
    hint = "extract the archives of the synsets again"
    for other, mesh in _MESHES.items():
        if other != version and any(root.glob(f"{'[0-9]' * 8}/*/{mesh}")):
            hint = f"these are of the other version, use shapenet-{other}"
    raise DataError(
        f"{findings.dataset}: no model folder under {str(root)!r} holds {_MESHES[version]}; {hint}"
    )


def _records(
    root: Path,
    models: dict[str, list[_Model]],
    options: Options,
    findings: Findings,
    *,
    version: str,
) -> list[Record]:
    splits = _official(root, models, options, findings)
    keys = Keys(options.name or f"shapenet-{version}")
    made: list[Record] = []
    limit = options.max_shapes_per_class
    for label, held in models.items():
        for model in drawn(held, limit, seed=options.seed, item_id=lambda model: model.name):
            split = splits.get((model.synset, model.name)) or hashed_split(
                model.name, seed=options.seed, test_share=options.test_share
            )
            source = Path(model.mesh).parents[len(Path(_MESHES[version]).parts) - 1].as_posix()
            made.append(
                Record(
                    keys.make(split, label, model.name, source=source),
                    "shape",
                    split,
                    label,
                    mesh=root / model.mesh,
                    source_path=source,
                    up_axis="+y",
                    extra={"synset": model.synset, "model": model.name, "version": version},
                )
            )
    synsets = Counter(one.extra["model"] for one in made)
    shared = [name for name, count in synsets.items() if count > 1]
    if shared:
        findings.note(f"{len(shared)} models are in two synsets or more (first: {shared[0]})")
    return made


def _official(
    root: Path, models: dict[str, list[_Model]], options: Options, findings: Findings
) -> dict:
    """The official splits of the models at hand, where they are asked for."""
    if options.split == "hash":
        return {}
    file = root / OFFICIAL_SPLITS
    if not file.is_file():
        findings.note(f"no {OFFICIAL_SPLITS} in {str(root)!r}; all models are split by hash")
        return {}
    splits = official_splits(file, findings)
    present = {(model.synset, model.name) for held in models.values() for model in held}
    unlisted = present - splits.keys()
    if unlisted:
        findings.note(
            f"{len(unlisted)} models are not in {OFFICIAL_SPLITS} (first: "
            f"{'/'.join(min(unlisted))}); split by hash"
        )
    synsets = {synset for synset, _ in present}
    absent = {key for key in splits if key[0] in synsets} - present
    if absent:
        findings.note(
            f"{len(absent)} models of {OFFICIAL_SPLITS} have no mesh here (first: "
            f"{'/'.join(min(absent))})"
        )
    return splits


def _adapter(version: str, layout: str) -> Adapter:
    return Adapter(
        name=f"shapenet-{version}",
        title=f"ShapeNetCore {version} (Chang et al., 2015): meshes of 55 classes",
        layout=layout,
        terms="Non-commercial research and education; do not pass shards on.",
        options=Options,
        records=partial(records, version=version),
    )


_TABLES = f"""
{TAXONOMY}                                  optional: names of the synsets
{OFFICIAL_SPLITS}                                        optional: official splits"""

ADAPTERS = (
    _adapter("v1", f"<synset>/<model>/{_MESHES['v1']}{_TABLES}"),
    _adapter("v2", f"<synset>/<model>/{_MESHES['v2']}{_TABLES}"),
)
