"""The SHREC adapters on small trees in the tracks' own layouts; no picture or mesh is opened."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dataio.datasets.registry import parse_options
from dataio.datasets.shrec import ADAPTERS
from dataio.findings import Findings
from dataio.records import DataError, Record

SETS = {one.name: one for one in ADAPTERS}
CLASSES = {"bed": 3, "chair": 5, "couch": 1}
MODELS13 = "SHREC13_SBR_TARGET_MODELS"
MODELS14 = "SHREC14LSSTB_TARGET_MODELS"
SKETCHES14 = "SHREC14LSSTB_SKETCHES"
EVALUATION14 = "SHREC14_Sketch_Evaluation"
MODEL_CLA14 = f"{EVALUATION14}/SHREC14_SBR_Model.cla"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_cla(file: Path, classes: dict[str, list[str]]) -> None:
    lines = ["PSB 1", f"{len(classes)} {sum(map(len, classes.values()))}", ""]
    for name, ids in classes.items():
        lines += [f"{name} 0 {len(ids)}", *ids, ""]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("\r\n".join(lines).encode())


def ids_of(classes: dict[str, int], pattern: str) -> dict[str, list[str]]:
    numbers = iter(range(1, 1 + sum(classes.values())))
    return {name: [pattern.format(next(numbers)) for _ in range(n)] for name, n in classes.items()}


@pytest.fixture
def shrec13(tmp_path: Path) -> Path:
    root = tmp_path / "SHREC13"
    for k, label in enumerate(CLASSES):
        training = f"SHREC13_SBR_TRAINING_SKETCHES/SHREC13_SBR_TRAINING_SKETCHES/{label}"
        touch(root, *(f"{training}/train/{10 * k + i}.png" for i in range(2)))
        (root / training / "test").mkdir()
        touch(root, f"SHREC13_SBR_TESTING_SKETCHES/{label}/test/{10 * k + 5}.png")
    ids = ids_of(CLASSES, "{}")
    touch(root, *(f"{MODELS13}/models/m{i}.off" for own in ids.values() for i in own))
    write_cla(root / "SHREC2013_Sketch_Evaluation/SHREC13_SBR_Model.cla", ids)
    return root


@pytest.fixture
def shrec14(tmp_path: Path) -> Path:
    root = tmp_path / "SHREC14"
    for k, label in enumerate(CLASSES):
        folder = f"{SKETCHES14}/{label}"
        touch(root, *(f"{folder}/train/{10 * k + i}.png" for i in range(2)))
        touch(root, f"{folder}/test/{10 * k + 5}.png")
    ids = ids_of(CLASSES, "{:06d}")
    touch(root, *(f"{MODELS14}/M{i}.off" for own in ids.values() for i in own))
    write_cla(root / MODEL_CLA14, ids)
    return root


def read(
    name: str, root: Path, /, *, lenient: bool = False, strict: bool = False, **options: Any
) -> tuple[list[Record], Findings]:
    findings = Findings(name, lenient=lenient, strict=strict)
    chosen = SETS[name]
    return chosen.read(root, parse_options(chosen, options), findings), findings


def complaint(name: str, root: Path, /, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(name, root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def skipped(name: str, root: Path, /, **options: Any) -> tuple[list[str], list[str]]:
    """What a lenient reading leaves out, and the source paths of what it keeps."""
    made, findings = read(name, root, lenient=True, **options)
    return [one.reason for one in findings.skipped], [record.source_path for record in made]


def counts(made: list[Record]) -> Counter:
    return Counter((record.stream, record.split, record.label) for record in made)


@pytest.mark.parametrize("name", ["shrec13", "shrec14"])
def test_every_sketch_and_shape_becomes_a_record_in_a_fixed_order(name, request):
    root = request.getfixturevalue(name)
    made, findings = read(name, root)
    assert counts(made) == {
        **{("sketch", "train", label): 2 for label in CLASSES},
        **{("sketch", "test", label): 1 for label in CLASSES},
        **{("shape", "test", label): n for label, n in CLASSES.items()},
    }
    assert read(name, root)[0] == made
    assert len({record.key for record in made}) == len(made)
    assert not findings.skipped
    assert all(record.up_axis == "+z" for record in made)
    assert all((root / record.source_path).is_file() for record in made)


def test_keys_labels_and_files_of_shrec13(shrec13):
    made = {record.source_path: record for record in read("shrec13", shrec13)[0]}
    shape = made[f"{MODELS13}/models/m9.off"]
    assert (shape.key, shape.label) == ("shrec13-test-couch-m9", "couch")
    assert shape.mesh == shrec13 / MODELS13 / "models/m9.off"
    sketch = made["SHREC13_SBR_TESTING_SKETCHES/chair/test/15.png"]
    assert (sketch.key, sketch.split) == ("shrec13-test-chair-15", "test")
    assert sketch.image == shrec13 / sketch.source_path


def test_keys_do_not_change_with_the_letters_case(shrec14):
    before = {record.key for record in read("shrec14", shrec14)[0]}
    assert "shrec14-test-bed-m000001" in before
    for file in (shrec14 / MODELS14).iterdir():
        file.rename(file.with_name(file.name.replace("M", "m").replace(".off", ".OFF")))
    assert {record.key for record in read("shrec14", shrec14)[0]} == before
    named = read("shrec14", shrec14, name="mine")[0]
    assert {record.key.replace("mine", "shrec14") for record in named} == before


@pytest.mark.parametrize("pattern", ["{}", "{:04d}", "M{:06d}", "m{}"])
def test_ids_meet_their_files_by_number(shrec14, pattern):
    before = read("shrec14", shrec14)[0]
    write_cla(shrec14 / MODEL_CLA14, ids_of(CLASSES, pattern))
    assert read("shrec14", shrec14)[0] == before


def test_a_file_of_the_ids_own_name_is_meant_rather_than_one_of_its_number(shrec13):
    touch(shrec13, f"{MODELS13}/models/m0001.off")
    made, findings = read("shrec13", shrec13)
    assert f"{MODELS13}/models/m1.off" in {record.source_path for record in made}
    assert "1 files are not listed in SHREC13_SBR_Model.cla, first 'm0001.off'" in findings.warnings


def test_class_names_meet_whatever_their_case_and_hyphens(shrec14):
    (shrec14 / SKETCHES14 / "couch").rename(shrec14 / SKETCHES14 / "Flying Saucer")
    (shrec14 / SKETCHES14 / "bed").rename(shrec14 / SKETCHES14 / "mouse (animal)")
    ids = ids_of(CLASSES, "{:06d}")
    write_cla(
        shrec14 / MODEL_CLA14,
        {"mouse_(animal)": ids["bed"], "CHAIR": ids["chair"], "flying-saucer": ids["couch"]},
    )
    labels = {record.label for record in read("shrec14", shrec14)[0]}
    assert labels == {"mouse", "chair", "flying_saucer"}


def test_two_names_of_one_class_are_refused(shrec14):
    write_cla(shrec14 / MODEL_CLA14, {"bed": ["1"], "Bed": ["2"]})
    assert "SHREC14_SBR_Model.cla line 7: 'bed' (line 4) and 'Bed' are one class 'bed'" in (
        complaint("shrec14", shrec14)
    )


def test_folders_of_the_other_split_are_ignored_with_a_note(shrec13):
    training = shrec13 / "SHREC13_SBR_TRAINING_SKETCHES/SHREC13_SBR_TRAINING_SKETCHES"
    before, findings = read("shrec13", shrec13)
    assert any(
        "3 entries of class folders" in note and "'SHREC13_SBR_TRAINING_SKETCHES/" in note
        for note in findings.warnings
    )
    touch(training, "bed/test/5.png", "bed/test/999.png", "bed/loose.png")
    touch(shrec13, "SHREC13_SBR_TESTING_SKETCHES/bed/train/998.png")
    again, findings = read("shrec13", shrec13)
    assert again == before
    notes = " ".join(findings.warnings)
    assert "4 entries of class folders" in notes
    assert "first 'SHREC13_SBR_TESTING_SKETCHES/bed/train'" in notes


@pytest.mark.parametrize("top", [SKETCHES14, MODELS14, EVALUATION14, ""])
def test_an_archive_may_lie_in_a_folder_of_its_own_name(shrec14, top):
    before = [record.key for record in read("shrec14", shrec14)[0]]
    folder = shrec14 / top if top else shrec14
    moved = folder.rename(folder.with_name("moved"))
    folder.mkdir()
    moved.rename(folder / folder.name)
    assert [record.key for record in read("shrec14", shrec14)[0]] == before


def test_meshes_may_lie_in_models_and_the_evaluation_in_the_journals_folder(shrec14):
    before = [record.key for record in read("shrec14", shrec14)[0]]
    (shrec14 / EVALUATION14).rename(shrec14 / f"{EVALUATION14}_CVIU")
    (shrec14 / MODELS14).rename(shrec14 / "models")
    (shrec14 / MODELS14).mkdir()
    (shrec14 / "models").rename(shrec14 / MODELS14 / "models")
    assert [record.key for record in read("shrec14", shrec14)[0]] == before


def test_an_empty_root_says_what_belongs_there(shrec14, tmp_path):
    message = complaint("shrec14", tmp_path)
    assert f"shrec14: no data under '{tmp_path}'. Expected {SKETCHES14}, {MODELS14}, " in message
    assert f"Found: 'SHREC14/'. Did you mean '{shrec14}'?" in message


@pytest.mark.parametrize(
    ("gone", "what"),
    [(SKETCHES14, "sketches"), (MODELS14, "meshes"), (EVALUATION14, "class files")],
)
def test_a_missing_folder_is_named_with_what_is_there(shrec14, gone, what):
    (shrec14 / gone).rename(shrec14 / f"{gone} (1)")
    message = complaint("shrec14", shrec14)
    assert f"no {what} under '{shrec14}'. Expected {gone}" in message
    assert f"Found: '{SKETCHES14}" in message
    assert f"Is it '{gone} (1)'? Then rename it." in message


def test_a_missing_class_file_or_empty_mesh_folder_is_named(shrec14):
    (shrec14 / MODEL_CLA14).rename(shrec14 / EVALUATION14 / "SHREC14_SBR_models_train.cla")
    message = complaint("shrec14", shrec14)
    assert "Expected SHREC14_SBR_Model.cla there. Found: 'SHREC14_SBR_models_train.cla'" in message
    write_cla(shrec14 / MODEL_CLA14, ids_of(CLASSES, "{}"))
    shutil.rmtree(shrec14 / MODELS14)
    touch(shrec14, f"{MODELS14}/readme.txt")
    message = complaint("shrec14", shrec14)
    assert f"no meshes. Expected .off files in '{shrec14 / MODELS14}'. Found: 'read" in message


def test_a_wrong_header_is_named_with_its_line(shrec14):
    file = shrec14 / MODEL_CLA14
    file.write_text(file.read_text().replace("3 9", "3 10"))
    message = complaint("shrec14", shrec14, lenient=True)
    assert f"{file} line 2: header promises 3 classes and 10 models, body holds 3 and 9" in message


def test_a_listed_mesh_without_a_file_is_a_defect_and_an_unlisted_one_a_note(shrec14):
    (shrec14 / MODELS14 / "M000004.off").rename(shrec14 / MODELS14 / "M000077.off")
    message = complaint("shrec14", shrec14)
    assert "SHREC14_SBR_Model.cla line 10 lists model 000004 under 'chair', and " in message
    assert "has no .off file of that number" in message
    assert message.endswith("or pass --lenient to skip it")
    made, findings = read("shrec14", shrec14, lenient=True)
    assert [one.item for one in findings.skipped] == ["SHREC14_SBR_Model.cla model 000004"]
    assert counts(made)["shape", "test", "chair"] == CLASSES["chair"] - 1
    assert "1 files are not listed in SHREC14_SBR_Model.cla, first 'M000077.off'" in (
        findings.warnings
    )
    assert not read("shrec14", shrec14, classes="[bed]")[1].skipped


def test_an_id_for_two_files_and_two_ids_for_a_file_are_defects(shrec14):
    touch(shrec14, f"{MODELS14}/m000001.off")
    reasons, kept = skipped("shrec14", shrec14)
    assert len(reasons) == 1
    assert "under 'bed', which is 'M000001.off' and 'm000001.off' in " in reasons[0]
    assert "M000001.off" not in " ".join(kept)
    (shrec14 / MODELS14 / "m000001.off").unlink()
    ids = ids_of(CLASSES, "{:06d}")
    ids["chair"].append("1")
    write_cla(shrec14 / MODEL_CLA14, ids)
    reasons, kept = skipped("shrec14", shrec14)
    assert len(reasons) == 1
    assert (
        "line 15 lists model 1 under 'chair', and line 5 lists its file 'M000001.off' too"
        in (reasons[0])
    )
    assert kept.count(f"{MODELS14}/M000001.off") == 1


def test_a_class_of_one_side_is_an_error_or_dropped(shrec14):
    touch(shrec14, f"{SKETCHES14}/sofa/train/90.png")
    message = complaint("shrec14", shrec14)
    assert "class 'sofa' has sketches and no shapes of SHREC14_SBR_Model.cla" in message
    assert "missing_classes=drop" in message
    shutil.rmtree(shrec14 / SKETCHES14 / "bed")
    assert "class 'bed' has shapes and no sketches" in complaint("shrec14", shrec14)
    made, findings = read("shrec14", shrec14, missing_classes="drop")
    assert {record.label for record in made} == {"chair", "couch"}
    assert sum("; dropped" in note for note in findings.warnings) == 2


def test_inner_nodes_of_the_class_file_are_no_classes(shrec14):
    file = shrec14 / MODEL_CLA14
    body = file.read_text().replace("3 9", "4 9").replace("bed 0 3", "seat 0 0\nbed seat 3")
    file.write_text(body)
    assert {record.label for record in read("shrec14", shrec14)[0]} == set(CLASSES)


def test_classes_are_chosen_by_name_or_synonym(shrec14):
    made, findings = read("shrec14", shrec14, classes="[sofa, Bed]", strict=True)
    assert {record.label for record in made} == {"bed", "couch"}
    assert not findings.warnings
    assert "unknown class 'chairs'; did you mean 'chair'?" in (
        complaint("shrec14", shrec14, classes="[chairs]")
    )


def test_held_out_shapes_are_a_fifth_of_each_class_by_seed(shrec14):
    sizes = {"bed": 20, "chair": 60, "couch": 1}
    ids = ids_of(sizes, "{:06d}")
    touch(shrec14, *(f"{MODELS14}/M{i}.off" for own in ids.values() for i in own))
    write_cla(shrec14 / MODEL_CLA14, ids)
    made = read("shrec14", shrec14, gallery="heldout")[0]
    held = counts(made)
    assert [held["shape", "test", label] for label in sizes] == [4, 12, 1]
    assert [held["shape", "train", label] for label in sizes] == [16, 48, 0]
    assert read("shrec14", shrec14, gallery="heldout")[0] == made
    other = read("shrec14", shrec14, gallery="heldout", seed="1")[0]
    assert {record.key for record in other} != {record.key for record in made}
    part = read("shrec14", shrec14, part="true")[0]
    assert part == [record for record in made if record.label == "chair"]
    every = counts(read("shrec14", shrec14, part="true", gallery="all")[0])
    assert every["shape", "test", "chair"] == 60


def test_part_without_a_large_class_says_so(shrec14):
    message = complaint("shrec14", shrec14, part="true")
    assert "no class with sketches and shapes is left to pack" in message
    assert "no option 'part'" in complaint("shrec13", shrec14, part="true")


def test_published_counts_are_expected(shrec13, shrec14):
    warnings = read("shrec13", shrec13)[1].warnings
    assert "3 classes, 90 are published" in warnings
    assert "6 train sketches, 4500 are published" in warnings
    assert "3 test sketches, 2700 are published" in warnings
    assert "9 shapes, 1258 are published" in warnings
    warnings = read("shrec14", shrec14)[1].warnings
    assert "3 classes, 171 are published" in warnings
    assert "6 train sketches, 8550 are published" in warnings
    assert "3 test sketches, 5130 are published" in warnings
    assert "9 shapes, 8987 are published" in warnings
    assert not read("shrec14", shrec14, name="mine", strict=True)[1].warnings
    with pytest.raises(DataError, match=r"171 are published .*--strict"):
        read("shrec14", shrec14, strict=True)


def test_one_archive_of_sketches_is_enough(shrec13):
    shutil.rmtree(shrec13 / "SHREC13_SBR_TRAINING_SKETCHES")
    made, findings = read("shrec13", shrec13)
    assert {r.split for r in made if r.stream == "sketch"} == {"test"}
    assert "0 train sketches, 4500 are published" in findings.warnings


def test_a_sketch_of_both_splits_is_a_defect(shrec14):
    touch(shrec14, f"{SKETCHES14}/bed/test/1.png")
    message = complaint("shrec14", shrec14)
    assert f"sketch 1 of class 'bed' is in '{SKETCHES14}/bed/train/1.png' and in " in message
    reasons, kept = skipped("shrec14", shrec14)
    assert len(reasons) == 1
    assert f"{SKETCHES14}/bed/train/1.png" in kept
    assert f"{SKETCHES14}/bed/test/1.png" not in kept


def sketch_lists(root: Path) -> None:
    folder = root / EVALUATION14
    ids = {label: [str(10 * k), f"{10 * k + 1:03d}"] for k, label in enumerate(CLASSES)}
    write_cla(folder / "SHREC14_SBR_Sketch_Train.cla", ids)
    ids = {label.upper(): [str(10 * k + 5)] for k, label in enumerate(CLASSES)}
    write_cla(folder / "SHREC14_SBR_Sketch_Test.cla", ids)


def test_sketch_lists_that_agree_change_nothing(shrec14):
    before = read("shrec14", shrec14)[0]
    sketch_lists(shrec14)
    made, findings = read("shrec14", shrec14)
    assert made == before
    assert not any("listed" in note for note in findings.warnings)


def test_sketches_are_compared_with_their_lists(shrec14):
    sketch_lists(shrec14)
    folder = shrec14 / SKETCHES14
    (folder / "bed/train/0.png").rename(folder / "chair/train/0.png")
    (folder / "couch/test/25.png").rename(folder / "couch/test/26.png")
    message = complaint("shrec14", shrec14)
    assert (
        "SHREC14_SBR_Sketch_Train.cla line 5 lists sketch 0 under 'bed', and it is in " in message
    )
    made, findings = read("shrec14", shrec14, lenient=True)
    assert [one.item for one in findings.skipped] == [
        f"{SKETCHES14}/chair/train/0.png",
        "SHREC14_SBR_Sketch_Test.cla sketch 25",
    ]
    assert "not among the sketches of test" in findings.skipped[1].reason
    assert "1 files are not listed in SHREC14_SBR_Sketch_Test.cla, first '26.png'" in (
        findings.warnings
    )
    kept = {record.source_path for record in made}
    assert f"{SKETCHES14}/chair/train/0.png" not in kept
    assert f"{SKETCHES14}/couch/test/26.png" in kept


def test_one_list_of_all_sketches_is_compared_where_there_is_no_other(shrec13):
    file = shrec13 / "SHREC2013_Sketch_Evaluation/SHREC13_SBR_Sketch.cla"
    ids = {label: [str(10 * k + i) for i in (0, 1, 5)] for k, label in enumerate(CLASSES)}
    write_cla(file, ids)
    assert not read("shrec13", shrec13)[1].skipped
    write_cla(file, {**ids, "bed": [*ids["bed"], "8"]})
    assert "lists sketch 8 under 'bed', and it is not among the sketches of train and test" in (
        complaint("shrec13", shrec13)
    )
    shutil.rmtree(shrec13 / "SHREC13_SBR_TESTING_SKETCHES")
    assert not read("shrec13", shrec13)[1].skipped


def test_the_up_axis_is_an_option(shrec14):
    shapes = [r for r in read("shrec14", shrec14, up_axis="+y")[0] if r.stream == "shape"]
    assert {shape.up_axis for shape in shapes} == {"+y"}
    assert "option up_axis" in complaint("shrec14", shrec14, up_axis="up")
