"""The ShapeNetCore adapters on small trees in the official layouts; meshes may be empty files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from dataio.datasets.listing import hashed_split
from dataio.datasets.shapenet import ADAPTERS, Options
from dataio.datasets.shapenet_tables import SYNSETS
from dataio.findings import Findings
from dataio.records import DataError, Record

BED, CHAIR, TABLE = "02818832", "03001627", "04379243"
MESH = {"shapenet-v1": "model.obj", "shapenet-v2": "models/model_normalized.obj"}
BY_NAME = {adapter.name: adapter for adapter in ADAPTERS}


def add(root: Path, synset: str, *models: str, mesh: str = MESH["shapenet-v2"]) -> None:
    for model in models:
        file = root / synset / model / mesh
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "ShapeNetCore.v2"
    add(root, CHAIR, "1a", "u9f", "0b")
    add(root, BED, "1a", "77")
    return root


def read(
    root: Path, *, name: str = "shapenet-v2", lenient: bool = False, **options: Any
) -> tuple[list[Record], Findings]:
    findings = Findings(name, lenient=lenient)
    return BY_NAME[name].read(root, Options(**options), findings), findings


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(root, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", list(MESH))
def test_models_become_records_by_class(tmp_path, name):
    root = tmp_path / "set"
    add(root, CHAIR, "1a", "0b", mesh=MESH[name])
    add(root, BED, "1a", mesh=MESH[name])
    made, findings = read(root, name=name)
    assert [one.source_path for one in made] == [f"{BED}/1a", f"{CHAIR}/0b", f"{CHAIR}/1a"]
    assert [one.label for one in made] == ["bed", "chair", "chair"]
    bed = made[0]
    assert bed.mesh == root / BED / "1a" / MESH[name]
    assert (bed.stream, bed.up_axis) == ("shape", "+y")
    assert bed.key == f"{name}-{bed.split}-bed-1a"
    assert bed.extra == {"synset": BED, "model": "1a", "version": name[-2:]}
    assert "2 of 55 synsets are here; 3 shapes are read" in findings.warnings
    assert "1 models are in two synsets or more (first: 1a)" in findings.warnings


def test_folders_without_a_mesh_are_listed_and_no_error(tree):
    (tree / CHAIR / "2c" / "models").mkdir(parents=True)
    (tree / CHAIR / "3d" / "images").mkdir(parents=True)
    made, findings = read(tree)
    assert len(made) == 5
    message = (
        "2 of 5 model folders of 03001627 have no models/model_normalized.obj (first: 2c); skipped"
    )
    assert message in findings.warnings
    assert [(one.item, one.reason) for one in findings.skipped] == [
        (f"{CHAIR}/{model}", "no models/model_normalized.obj") for model in ("2c", "3d")
    ]


def test_a_mesh_that_links_out_of_the_root_counts_as_missing(tree, tmp_path):
    (tmp_path / "outside.obj").touch()
    mesh = tree / CHAIR / "1a" / MESH["shapenet-v2"]
    mesh.unlink()
    mesh.symlink_to(tmp_path / "outside.obj")
    assert [one.item for one in read(tree)[1].skipped] == [f"{CHAIR}/1a"]


def test_the_other_version_is_recognised(tree):
    message = refused(tree, name="shapenet-v1")
    assert "no model folder" in message
    assert "holds model.obj; these are of the other version, use shapenet-v2" in message


def test_an_archive_that_is_not_extracted_is_seen_in_the_message(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    (root / f"{CHAIR}.zip").touch()
    message = refused(root)
    assert "Expected <synset>/<model>/models/model_normalized.obj (extract the archives)" in message
    assert f"Found: '{CHAIR}.zip'" in message


def test_a_root_too_high_and_doubled_folders(tree, tmp_path):
    assert f"Did you mean {str(tree)!r}?" in refused(tmp_path)
    keys = [one.key for one in read(tree)[0]]
    shutil.move(tree / CHAIR, tree / "inner")
    (tree / CHAIR).mkdir()
    shutil.move(tree / "inner", tree / CHAIR / CHAIR)
    made, _ = read(tree)
    assert [one.key for one in made] == keys
    assert made[-1].source_path == f"{CHAIR}/{CHAIR}/u9f"


def taxonomy(root: Path, *entries: Any) -> None:
    (root / "taxonomy.json").write_text(json.dumps(entries))


def test_class_names_are_the_first_of_the_taxonomy(tree):
    add(tree, "01234567", "x")
    taxonomy(
        tree,
        {"synsetId": CHAIR, "name": "Seat Thing,chair", "children": [], "numInstances": 3},
        {"synsetId": "01234567", "name": "grand piano,grand"},
        {"synsetId": 2818832, "name": "bed"},
    )
    assert {one.label for one in read(tree)[0]} == {"bed", "seat_thing", "grand_piano"}


def test_a_synset_nobody_knows_is_a_defect(tree):
    before = [one.key for one in read(tree)[0]]
    add(tree, "01234567", "x")
    assert "taxonomy.json has no such synset" in refused(tree)
    made, findings = read(tree, lenient=True)
    assert [one.key for one in made] == before
    assert [one.item for one in findings.skipped] == ["01234567"]


def test_one_name_for_two_synsets_is_an_error(tree):
    taxonomy(tree, {"synsetId": CHAIR, "name": "bed"})
    assert f"synsets {BED} and {CHAIR} are both called 'bed'" in refused(tree)


@pytest.mark.parametrize("text", ["{", '["chair"]', '[{"synsetId": "03001627"}]', "7"])
def test_a_broken_taxonomy_is_named(tree, text):
    (tree / "taxonomy.json").write_text(text)
    assert re.search(r"taxonomy\.json' is not a list of objects .* remove it", refused(tree))


def table(root: Path, *rows: str, header: str = "id,synsetId,subSynsetId,modelId,split") -> None:
    (root / "all.csv").write_text("\r\n".join((header, *rows)) + "\r\n", encoding="utf-8-sig")


def by_source(made: list[Record]) -> dict[str, str]:
    return {one.source_path: one.split for one in made}


def test_official_splits_are_read_also_without_leading_zeros(tree):
    table(
        tree,
        "1,3001627,3001627,1a,train",
        "2,03001627,03002210,0b,val",
        "3,3001627,3001627,u9f,test",
        "",
        "4,2818832,2818832,1a,test",
        "5,02818832,02818832,77,train",
        "6,3001627,3001627,gone,train",
        "7,4379243,4379243,other-synset,train",
    )
    made, findings = read(tree)
    assert by_source(made) == {
        f"{BED}/1a": "test", f"{BED}/77": "train",
        f"{CHAIR}/1a": "train", f"{CHAIR}/0b": "val", f"{CHAIR}/u9f": "test",
    }  # fmt: skip
    assert f"1 models of all.csv have no mesh here (first: {CHAIR}/gone)" in findings.warnings


def test_models_that_the_table_lacks_are_split_by_hash(tree):
    table(tree, "1,3001627,3001627,1a,val")
    made, findings = read(tree, seed=4, test_share=0.5)
    splits = by_source(made)
    assert splits.pop(f"{CHAIR}/1a") == "val"
    assert splits == {
        path: hashed_split(path.split("/")[1], seed=4, test_share=0.5) for path in splits
    }
    assert f"4 models are not in all.csv (first: {BED}/1a); split by hash" in findings.warnings


def test_without_the_table_or_on_request_all_are_split_by_hash(tree):
    made, findings = read(tree, test_share=1)
    assert set(by_source(made).values()) == {"test"}
    assert any(note.startswith("no all.csv") for note in findings.warnings)
    table(tree, "1,3001627,3001627,1a,val")
    made, findings = read(tree, split="hash", test_share=0)
    assert set(by_source(made).values()) == {"train"}
    assert not any("all.csv" in note for note in findings.warnings)


def test_copies_of_a_model_are_on_one_side(tmp_path):
    root = tmp_path / "set"
    names = [f"{k:x}" for k in range(40)]
    add(root, CHAIR, *names)
    add(root, BED, *names)
    splits = by_source(read(root, test_share=0.5)[0])
    assert {splits[f"{CHAIR}/{name}"] == splits[f"{BED}/{name}"] for name in names} == {True}
    assert set(splits.values()) == {"train", "test"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,3001627,3001627,1a,dev", "line 3: split 'dev'"),
        ("1,3001627,3001627,1a,trains", "did you mean 'train'?"),
        ("1,3001627,3001627", "line 3: expected the fields of the first line"),
        ("1,chair,chair,1a,train", "line 3: expected the fields of the first line"),
        ("1,3001627,3001627,0b,test", f"line 3: model {CHAIR}/0b is listed on line 2 too"),
    ],
)
def test_a_bad_row_of_the_table_is_named_by_line(tree, row, message):
    table(tree, "0,03001627,03001627,0b,val", row)
    assert message in refused(tree)
    made, findings = read(tree, lenient=True)
    assert by_source(made)[f"{CHAIR}/0b"] == "val"
    assert [one.item for one in findings.skipped] == ["all.csv line 3"]


def test_a_table_with_other_columns_is_named(tree):
    table(tree, header="id,synset,model,split")
    assert "all.csv' line 1: no column synsetId, modelId; expected" in refused(tree)


def test_at_most_so_many_shapes_a_class_in_the_same_draw_everywhere(tmp_path):
    root = tmp_path / "set"
    add(root, CHAIR, *(f"{k:x}" for k in range(60)))
    add(root, BED, "only")
    ten = by_source(read(root, max_shapes_per_class=10)[0])
    twenty = by_source(read(root, max_shapes_per_class=20)[0])
    assert (len(ten), len(twenty)) == (11, 21)
    assert ten.items() < twenty.items()
    assert set(twenty.values()) == {"train", "test"}  # the draw does not follow the split
    assert ten.keys() != by_source(read(root, max_shapes_per_class=10, seed=1)[0]).keys()
    assert ten.keys() != set(sorted(by_source(read(root)[0]))[:11])


def test_classes_are_chosen_by_name_or_synonym(tree):
    add(tree, "04256520", "s")
    assert {one.label for one in read(tree, classes=("couch",))[0]} == {"sofa"}
    assert "unknown class 'chairs'; did you mean 'chair'?" in refused(tree, classes=("chairs",))


def test_the_adapters_are_described():
    assert list(BY_NAME) == list(MESH)
    assert all(field.description for field in Options.model_fields.values())
    assert len(SYNSETS) == 55
    assert TABLE in SYNSETS
