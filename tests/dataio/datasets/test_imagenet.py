"""The ImageNet adapter on small trees in the official layouts; photos may be empty files."""

from __future__ import annotations

import random
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from dataio.datasets.imagenet import ADAPTERS, DEFAULT_MAPPING, Options, records
from dataio.datasets.registry import parse_options
from dataio.findings import Findings
from dataio.records import DataError, Record

BED, SOFA, TABLE, BARBER = "n03388549", "n04344873", "n03201208", "n02791124"
SMALL = {"bed": (BED,), "chair": (BARBER, "n03376595"), "table": (TABLE,)}
WNIDS = [wnid for wnids in SMALL.values() for wnid in wnids]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "imagenet"
    for wnid in [*WNIDS, "n01440764"]:
        touch(root, *(f"train/{wnid}/{wnid}_{k}.JPEG" for k in (3, 10, 2)))
    touch(root, f"train/{BED}/notes.txt", f"train/{BED}/.DS_Store")
    return root


def read(
    root: Path, *, lenient: bool = False, mapping: Any = SMALL, **options: Any
) -> tuple[list[Record], Findings]:
    findings = Findings("imagenet", lenient=lenient)
    return records(root, Options(mapping=mapping, **options), findings), findings


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(root, **options)
    return str(caught.value)


def test_photos_of_the_mapped_classes_become_records(tree):
    made, _ = read(tree)
    assert [one.label for one in made] == ["bed"] * 3 + ["chair"] * 6 + ["table"] * 3
    assert {(one.stream, one.split) for one in made} == {("image", "train")}
    first = made[0]
    assert first.key == f"imagenet-train-bed-{BED}_10"
    assert first.image == tree / first.source_path
    assert first.extra == {"wnid": BED}
    assert {one.extra["wnid"] for one in made if one.label == "chair"} == {BARBER, "n03376595"}


def test_the_default_classes_are_those_of_the_transfer_pairs(tree):
    assert set(DEFAULT_MAPPING) == {"bed", "chair", "sofa", "table"}
    for wnids in DEFAULT_MAPPING.values():
        touch(tree, *(f"train/{wnid}/{wnid}_1.JPEG" for wnid in wnids))
    made = records(tree, Options(), Findings("imagenet"))
    assert {one.label: one.extra["wnid"] for one in made}["sofa"] == SOFA
    assert {one.extra["wnid"] for one in made} == set(chain(*DEFAULT_MAPPING.values()))


def test_at_most_so_many_photos_a_class_in_the_same_draw_everywhere(tmp_path):
    for name in ("one", "two"):
        touch(tmp_path / name, f"train/{BED}/{BED}_0.JPEG")
    photos = [f"train/{wnid}/{wnid}_{k}.JPEG" for wnid in SMALL["chair"] for k in range(40)]
    touch(tmp_path / "one", *photos)
    touch(tmp_path / "two", *random.Random(0).sample(photos, len(photos)))
    mapping = {"chair": SMALL["chair"], "bed": BED}
    drawn = {
        limit: [one.key for one in read(tmp_path / "one", mapping=mapping, max_per_class=limit)[0]]
        for limit in (10, 20, None)
    }
    assert [len(keys) for keys in drawn.values()] == [11, 21, 81]
    assert set(drawn[10]) < set(drawn[20]) < set(drawn[None])
    again = read(tmp_path / "two", mapping=mapping, max_per_class=10)[0]
    assert [one.key for one in again] == drawn[10]
    assert {one.extra["wnid"] for one in again} > set(SMALL["chair"])
    other = read(tmp_path / "one", mapping=mapping, max_per_class=10, seed=1)[0]
    assert [one.key for one in other] != drawn[10]
    assert Options().max_per_class == 1300


def test_a_missing_class_folder_is_a_defect(tree):
    shutil.rmtree(tree / "train" / TABLE)
    touch(tree, f"train/{TABLE}.tar")
    message = refused(tree)
    assert f"no folder 'train/{TABLE}' (class 'table') under" in message
    assert "extract its archive" in message
    made, findings = read(tree, lenient=True)
    assert {one.label for one in made} == {"bed", "chair"}
    assert [one.item for one in findings.skipped] == [f"train/{TABLE}"]


def test_val_in_class_folders_gets_the_split_that_is_asked_for(tree):
    for number, wnid in enumerate(WNIDS, 1):
        touch(tree, f"val/{wnid}/ILSVRC2012_val_{number:08d}.JPEG")
    assert {one.split for one in read(tree)[0]} == {"train"}
    made, _ = read(tree, part="val")
    assert [one.split for one in made] == ["val"] * 4
    both, _ = read(tree, part="all", val_split="test")
    assert sorted({(one.split, one.source_path.split("/")[0]) for one in both}) == [
        ("test", "val"), ("train", "train"),
    ]  # fmt: skip


# The numbers of the development kit do not follow the alphabet.
KIT = {1: "n02119789", 2: TABLE, 3: BED, 4: BARBER}
VAL_CLASSES = [3, 1, 4, 2, 3]


def flat_val(root: Path) -> Path:
    touch(root, *(f"val/ILSVRC2012_val_{k:08d}.JPEG" for k in range(1, 6)))
    return root


def ground_truth(root: Path, numbers: list[int] | None = None) -> str:
    text = "".join(f"{number}\n" for number in numbers or VAL_CLASSES)
    (root / "truth.txt").write_text(text)
    return "truth.txt"


def matlab(file: Path) -> Path:
    table = np.zeros(len(KIT), dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for row, (number, wnid) in enumerate(KIT.items()):
        table[row] = (number, wnid, "some words")
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"synsets": table})
    return file


EXPECTED = {
    "val/ILSVRC2012_val_00000001.JPEG": "bed",
    "val/ILSVRC2012_val_00000003.JPEG": "chair",
    "val/ILSVRC2012_val_00000004.JPEG": "table",
    "val/ILSVRC2012_val_00000005.JPEG": "bed",
}


@pytest.mark.parametrize("form", ["meta.mat", "folder", "numbered", "in order", "wnids", "kaggle"])
def test_flat_val_is_labelled_by_any_of_the_known_files(tree, form):
    flat_val(tree)
    options: dict[str, Any] = {"val_labels": ground_truth(tree), "devkit": "kit.txt"}
    kit = tree / "kit.txt"
    if form == "meta.mat":
        options["devkit"] = matlab(tree / "meta.mat")
    elif form == "folder":
        options["devkit"] = matlab(tree / "devkit_t12/data/meta.mat").parents[1]
    elif form == "numbered":
        kit.write_text("".join(f"{k} {wnid} fox, table\n" for k, wnid in reversed(KIT.items())))
    elif form == "in order":
        kit.write_text("".join(f"{wnid} kit fox\n" for wnid in KIT.values()))
    elif form == "wnids":
        (tree / "truth.txt").write_text("\r\n".join(KIT[k] for k in VAL_CLASSES) + "\r\n\r\n")
        options.pop("devkit")
    else:
        rows = [f"ILSVRC2012_val_{k:08d},{KIT[c]} 1 2 3 4" for k, c in enumerate(VAL_CLASSES, 1)]
        (tree / "truth.txt").write_text("\n".join(["ImageId,PredictionString", *rows[::-1]]))
        options.pop("devkit")
    made, findings = read(tree, part="val", **options)
    assert {one.source_path: one.label for one in made} == EXPECTED
    assert (
        "'val/' holds 5 photos and val_labels 5 labels; published are 50,000" in findings.warnings
    )


def test_flat_val_without_labels_says_what_to_give(tree):
    message = refused(flat_val(tree), part="val")
    assert (
        "'val/' holds 5 files and no class folders. Give "
        "val_labels=ILSVRC2012_validation_ground_truth.txt and devkit=meta.mat, or use part=train"
    ) in message
    assert len(read(tree)[0]) == 12


def test_numbers_without_the_kit_are_refused(tree):
    labels = ground_truth(flat_val(tree))
    message = refused(tree, part="val", val_labels=labels)
    assert "truth.txt' holds numbers of classes; give devkit=meta.mat too" in message


def test_an_alphabetical_list_is_not_taken_for_the_kit(tree):
    labels = ground_truth(flat_val(tree))
    (tree / "kit.txt").write_text("".join(f"{wnid} x\n" for wnid in sorted(KIT.values())))
    message = refused(tree, part="val", val_labels=labels, devkit="kit.txt")
    assert "lists the classes in alphabetical order" in message


@pytest.mark.parametrize(
    ("labels", "kit", "message"),
    [
        ("3\n1\n9\n", "1 n02119789\n3 n03388549\n", "truth.txt' line 3: '9' is not one of the 2"),
        ("3\nbed\n", "3 n03388549\n", "truth.txt' line 2: 'bed' is not one of the 1"),
        ("n03388549\nbed\n", "", "truth.txt' line 2: 'bed', expected a WordNet id"),
        ("1\n", "1 n02119789\n2 x\n", "kit.txt' line 2: '2 x', expected a WordNet id"),
        ("1\n", "n03388549 a\nfox\n", "kit.txt' line 2: 'fox', expected a WordNet id"),
        ("\n", "", "truth.txt' is empty"),
        ("ImageId,PredictionString\nval_1,n02119789\n", "", "truth.txt' line 2: 'val_1,n02"),
    ],
)
def test_a_broken_label_file_is_named_with_its_line(tree, labels, kit, message):
    flat_val(tree)
    (tree / "truth.txt").write_text(labels)
    (tree / "kit.txt").write_text(kit)
    assert message in refused(tree, part="val", val_labels="truth.txt", devkit="kit.txt")


def test_a_broken_meta_mat_is_named(tree):
    labels = ground_truth(flat_val(tree))
    (tree / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut")
    message = refused(tree, part="val", val_labels=labels, devkit="meta.mat")
    assert "meta.mat' is not the meta.mat of the ILSVRC2012 development kit" in message
    message = refused(tree, part="val", val_labels=labels, devkit="gone.mat")
    assert "cannot read" in message
    assert "gone.mat" in message


def test_a_val_photo_without_a_label_is_a_defect(tree):
    labels = ground_truth(flat_val(tree), VAL_CLASSES[:4])
    kit = matlab(tree / "meta.mat")
    message = refused(tree, part="val", val_labels=labels, devkit=kit)
    assert "'val/ILSVRC2012_val_00000005.JPEG' is not one of the 4 photos of 'truth.txt'" in message
    touch(tree, "val/stray.jpg")
    made, findings = read(tree, part="val", val_labels=labels, devkit=kit, lenient=True)
    assert len(made) == 3
    assert "'val/stray.jpg' is not called ILSVRC2012_val_<8 digits>" in findings.skipped[1].reason


def test_the_kaggle_copy_is_found(tree, tmp_path):
    keys = [one.key for one in read(tree)[0]]
    base = tmp_path / "kaggle/ILSVRC/Data/CLS-LOC"
    base.parent.mkdir(parents=True)
    shutil.move(tree, base)
    for root in (tmp_path / "kaggle", tmp_path / "kaggle/ILSVRC", base):
        made, _ = read(root)
        assert [one.key for one in made] == keys
        assert made[0].source_path.startswith("train/")


def test_a_root_elsewhere_is_answered_with_what_is_expected(tree, tmp_path):
    message = refused(tmp_path)
    assert "Expected train/<WordNet id>/ or val/" in message
    assert f"Did you mean {str(tree)!r}?" in message
    assert "no folder 'val/' under" in refused(tree, part="val")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("{bed: [bed]}", "bed: 'bed' is no WordNet id such as n03388549"),
        (f"{{bed: {BED}, cot: {BED}}}", f"{BED} stands for 'bed' and for 'cot'"),
        ("{bed: []}", "at least one WordNet id"),
        ("{}", "at least one WordNet id"),
        ("bed", "option mapping"),
    ],
)
def test_a_bad_mapping_is_refused(mapping, message):
    with pytest.raises(DataError, match="imagenet: option mapping") as caught:
        parse_options(ADAPTERS[0], {"mapping": mapping})
    assert message in str(caught.value)


def test_a_mapping_may_have_one_id_a_class_and_names_in_any_form(tree):
    options = parse_options(ADAPTERS[0], {"mapping": f"{{Dining Table: {TABLE}, bed: [{BED}]}}"})
    made = ADAPTERS[0].read(tree, options, Findings("imagenet"))
    assert [one.label for one in made] == ["bed"] * 3 + ["dining_table"] * 3


def test_classes_are_chosen_by_name(tree):
    assert {one.label for one in read(tree, classes=("table",))[0]} == {"table"}
    assert "unknown class 'tables'; did you mean 'table'?" in refused(tree, classes=("tables",))


def test_the_options_are_described():
    assert all(field.description for field in Options.model_fields.values())
