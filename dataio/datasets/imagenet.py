"""ImageNet (ILSVRC2012; Russakovsky et al., IJCV 2015): photos of chosen classes, as queries.

A class of ours is one or several of ImageNet's, given by their WordNet ids in the option `mapping`.
The default stands for what ShapeNetCore and Pix3D call bed, chair, sofa and table. ImageNet has no
leaf of these names: four-poster is the bed; barber chair, folding chair, rocking chair and throne
are the chairs (as in 16-class ImageNet, Geirhos et al. 2018); studio couch and dining table the
others. At most 1,300 photos of each are drawn, by hash.

Some files are CMYK, and one PNG is called .JPEG: packing handles both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from dataio.datasets.adapter_type import Adapter, AdapterOptions
from dataio.datasets.draw import drawn
from dataio.datasets.imagenet_val import GROUND_TRUTH, WNID, val_wnids
from dataio.datasets.listing import Keys, found, is_picture, kept_classes, located, visible
from dataio.findings import Findings
from dataio.names import canonical_name
from dataio.records import DataError, Record, Split

DEFAULT_MAPPING = {
    "bed": ("n03388549",),
    "chair": ("n02791124", "n03376595", "n04099969", "n04429376"),
    "sofa": ("n04344873",),
    "table": ("n03201208",),
}

_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")
_VAL_PHOTOS = 50_000
_KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # under the folder it was unpacked in

_Wnids = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)
]


class Options(AdapterOptions):
    """Options of `imagenet`."""

    mapping: dict[str, _Wnids] = Field(
        default=DEFAULT_MAPPING,
        description="Class -> WordNet ids whose photos stand for it, such as {bed: [n03388549]}.",
    )
    part: Literal["train", "val", "all"] = Field(
        default="train", description="Which of ImageNet's folders to read."
    )
    val_split: Split = Field(
        default="val", description="Split that the photos of val/ get; those of train/ are train."
    )
    max_per_class: int | None = Field(
        default=1300, ge=1, description="Draw so many photos of a class and folder; null: all."
    )
    val_labels: Path | None = Field(
        default=None,
        description=f"For val/ without class folders: {GROUND_TRUTH} (with devkit), a WordNet id a "
        "line, or Kaggle's LOC_val_solution.csv; relative to the root, or absolute.",
    )
    devkit: Path | None = Field(
        default=None, description="meta.mat, the development kit's folder, or a text file of both."
    )
    seed: int = Field(default=0, ge=0, description="Of the draw.")

    @field_validator("mapping")
    @classmethod
    def _check_mapping(cls, mapping: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        owners: dict[str, str] = {}
        for label, wnids in mapping.items():
            for wnid in wnids:
                if not WNID.fullmatch(wnid):
                    raise ValueError(f"{label}: {wnid!r} is no WordNet id such as n03388549")
                if owners.setdefault(wnid, label) != label:
                    raise ValueError(f"{wnid} stands for {owners[wnid]!r} and for {label!r}")
        names = [canonical_name(label) for label in mapping]
        if not names or not all(mapping.values()) or len(set(names)) < len(names):
            raise ValueError("give every class once, with at least one WordNet id")
        return dict(sorted(zip(names, mapping.values(), strict=True)))


def records(root: Path, options: Options, findings: Findings) -> list[Record]:
    """The drawn photos, by folder (train, val), class and name; `extra["wnid"]` is the WordNet id.

    Raises DataError naming folder, file or option if the tree is not usable.
    """
    top = root
    expected = "train/<WordNet id>/ or val/, or the Kaggle copy's ILSVRC/Data/CLS-LOC/"
    root = located(
        root, lambda folder: bool(_bases(folder)), dataset=findings.dataset, expected=expected
    )
    root = _bases(root)[0]
    kept = kept_classes(options.mapping, options.classes, dataset=findings.dataset)
    labels = {
        wnid: label for label, wnids in options.mapping.items() if label in kept for wnid in wnids
    }
    keys = Keys(options.name or "imagenet")
    made: list[Record] = []
    for part in ("train", "val") if options.part == "all" else (options.part,):
        split: Split = "train" if part == "train" else options.val_split
        photos = _photos(root, part, labels, options, findings, top=top)
        for label in sorted(kept):
            of_class = [photo for photo in photos if labels[photo[0]] == label]
            limit, seed = options.max_per_class, options.seed
            for wnid, source in drawn(of_class, limit, seed=seed, item_id=_name):
                file = root / source
                made.append(
                    Record(
                        keys.make(split, label, file.stem, source=source),
                        "image",
                        split,
                        label,
                        image=file,
                        source_path=source,
                        extra={"wnid": wnid},
                    )
                )
    return made


def _name(photo: tuple[str, str]) -> str:
    return Path(photo[1]).name


def _bases(folder: Path) -> list[Path]:
    """The folders of train/ and val/ at or below `folder`."""
    candidates = (folder, *(folder / inner for inner in _KAGGLE))
    return [one for one in candidates if (one / "train").is_dir() or (one / "val").is_dir()]


def _photos(
    root: Path,
    part: str,
    labels: dict[str, str],
    options: Options,
    findings: Findings,
    *,
    top: Path,
) -> list[tuple[str, str]]:
    """(WordNet id, path under the root) of all photos of the wanted ids."""
    folder = root / part
    if not folder.is_dir():
        raise DataError(
            f"{findings.dataset}: no folder '{part}/' under {str(root)!r}. Found: {found(root)}. "
            f"Add it, or pass part={'val' if part == 'train' else 'train'}"
        )
    flat = part == "val" and not any(entry.is_dir() for entry in visible(folder, root=root))
    if flat:
        return _flat_val(root, labels, options, findings, top=top)
    photos: list[tuple[str, str]] = []
    for wnid, label in sorted(labels.items()):
        if not (folder / wnid).is_dir():
            findings.defect(
                f"{part}/{wnid}",
                f"no folder '{part}/{wnid}' (class {label!r}) under {str(root)!r}. Found: "
                f"{found(folder)}",
                remedy="extract its archive, take it out of mapping",
            )
            continue
        for entry in visible(folder / wnid, root=root):
            if is_picture(entry):
                photos.append((wnid, f"{part}/{wnid}/{entry.name}"))
    return photos


def _flat_val(
    root: Path, labels: dict[str, str], options: Options, findings: Findings, *, top: Path
) -> list[tuple[str, str]]:
    names = [entry.name for entry in visible(root / "val", root=root) if is_picture(entry)]
    if options.val_labels is None:
        raise DataError(
            f"{findings.dataset}: 'val/' holds {len(names)} files and no class folders. Give "
            f"val_labels={GROUND_TRUTH} and devkit=meta.mat, or use part=train"
        )
    devkit = None if options.devkit is None else top / options.devkit
    wnids = val_wnids(top / options.val_labels, devkit, dataset=findings.dataset)
    findings.expect(
        len(names) == len(wnids) == _VAL_PHOTOS,
        f"'val/' holds {len(names)} photos and val_labels {len(wnids)} labels; "
        f"published are {_VAL_PHOTOS:,}",
    )
    photos: list[tuple[str, str]] = []
    for name in names:
        match = _VAL_NAME.fullmatch(Path(name).stem)
        wnid = wnids.get(int(match[1])) if match else None
        if wnid is None:
            reason = (
                f"'val/{name}' is not one of the {len(wnids)} photos of {str(options.val_labels)!r}"
                if match
                else f"'val/{name}' is not called ILSVRC2012_val_<8 digits>"
            )
            findings.defect(f"val/{name}", reason, remedy="give the labels of all photos")
        elif wnid in labels:
            photos.append((wnid, f"val/{name}"))
    return photos


ADAPTERS = (
    Adapter(
        name="imagenet",
        title="ImageNet (ILSVRC2012): photos of beds, chairs, sofas, tables, or any classes",
        layout="""\
train/<WordNet id>/<WordNet id>_<n>.JPEG
val/<WordNet id>/ILSVRC2012_val_<8 digits>.JPEG      or directly in val/, with val_labels
ILSVRC/Data/CLS-LOC/{train,val}/                     the same in the Kaggle copy""",
        terms="Non-commercial research and education, by registration; do not pass shards on.",
        options=Options,
        records=records,
    ),
)
