"""The tables of ShapeNetCore: names of its synsets, and the official splits of its models."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from dataio.datasets.listing import read_text
from dataio.findings import Findings
from dataio.names import canonical_name, nearest
from dataio.records import SPLITS, DataError, Split

TAXONOMY = "taxonomy.json"
OFFICIAL_SPLITS = "all.csv"

# The 55 synsets of the data set by the first of the names that its taxonomy has for each; some
# copies come without that file.
SYNSETS = {
    "02691156": "airplane",
    "02747177": "ashcan",
    "02773838": "bag",
    "02801938": "basket",
    "02808440": "bathtub",
    "02818832": "bed",
    "02828884": "bench",
    "02843684": "birdhouse",
    "02871439": "bookshelf",
    "02876657": "bottle",
    "02880940": "bowl",
    "02924116": "bus",
    "02933112": "cabinet",
    "02942699": "camera",
    "02946921": "can",
    "02954340": "cap",
    "02958343": "car",
    "02992529": "cellular_telephone",
    "03001627": "chair",
    "03046257": "clock",
    "03085013": "computer_keyboard",
    "03207941": "dishwasher",
    "03211117": "display",
    "03261776": "earphone",
    "03325088": "faucet",
    "03337140": "file",
    "03467517": "guitar",
    "03513137": "helmet",
    "03593526": "jar",
    "03624134": "knife",
    "03636649": "lamp",
    "03642806": "laptop",
    "03691459": "loudspeaker",
    "03710193": "mailbox",
    "03759954": "microphone",
    "03761084": "microwave",
    "03790512": "motorcycle",
    "03797390": "mug",
    "03928116": "piano",
    "03938244": "pillow",
    "03948459": "pistol",
    "03991062": "pot",
    "04004475": "printer",
    "04074963": "remote_control",
    "04090263": "rifle",
    "04099429": "rocket",
    "04225987": "skateboard",
    "04256520": "sofa",
    "04330267": "stove",
    "04379243": "table",
    "04401088": "telephone",
    "04460130": "tower",
    "04468005": "train",
    "04530566": "vessel",
    "04554684": "washer",
}
# Two more folders of version 1; their models are in other synsets too (motorcycle, vessel).
_EXTRA_SYNSETS = {"02834778": "bicycle", "02858304": "boat"}

Model = tuple[str, str]  # synset, model id: ids repeat across synsets


def synset_names(root: Path, *, dataset: str) -> dict[str, str]:
    """Canonical class name by synset: of `root/taxonomy.json` where there is one, and built in.

    A synset's name is the first of its list of names. Raises DataError for a taxonomy that cannot
    be read.
    """
    file = root / TAXONOMY
    names = {**SYNSETS, **_EXTRA_SYNSETS}
    if not file.is_file():
        return names
    try:
        entries = json.loads(read_text(file, dataset=dataset))
        listed = {str(e["synsetId"]).zfill(8): str(e["name"]).split(",")[0] for e in entries}
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise DataError(
            f"{dataset}: {str(file)!r} is not a list of objects with synsetId and name ({error}); "
            "copy the original file again, or remove it to use the built-in names"
        ) from error
    return {**names, **{synset: canonical_name(name) for synset, name in listed.items()}}


def official_splits(file: Path, findings: Findings) -> dict[Model, Split]:
    """Split by (synset, model) of a table `id,synsetId,subSynsetId,modelId,split`.

    Read as text: tables that were numbers once have lost the leading zero of their synsets, which
    is put back. A row with another number of fields, no synset, an unknown split or a model that is
    listed before is a defect. Raises DataError for a table without the columns.
    """
    lines = csv.reader(read_text(file, dataset=findings.dataset).split("\n"))
    columns = _columns(next(lines, []), file, findings.dataset)
    splits: dict[Model, Split] = {}
    seen: dict[Model, int] = {}
    for line, fields in _rows(lines):
        where = f"{str(file)!r} line {line}"
        synset, model, split = (fields[c].strip() if c < len(fields) else "" for c in columns)
        key = (synset.zfill(8), model)
        if not (synset.isdecimal() and len(synset) <= 8 and model):
            problem = "expected the fields of the first line"
        elif split not in SPLITS:
            problem = f"split {split!r}{nearest(split, SPLITS)}"
        elif key in seen:
            problem = f"model {key[0]}/{model} is listed on line {seen[key]} too"
        else:
            seen[key] = line
            splits[key] = cast(Split, split)
            continue
        findings.defect(f"{file.name} line {line}", f"{where}: {problem}", remedy="correct it")
    return splits


def _columns(header: list[str], file: Path, dataset: str) -> list[int]:
    names = [name.strip().casefold() for name in header]
    wanted = ("synsetId", "modelId", "split")
    lacking = [name for name in wanted if name.casefold() not in names]
    if lacking:
        raise DataError(
            f"{dataset}: {str(file)!r} line 1: no column {', '.join(lacking)}; expected "
            "id,synsetId,subSynsetId,modelId,split"
        )
    return [names.index(name.casefold()) for name in wanted]


def _rows(lines: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with their line numbers."""
    return ((line, fields) for line, fields in enumerate(lines, 2) if any(fields))
