"""The MI3DOR adapter on small made-up trees; no picture is opened, so the files may be empty."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from dataio.datasets import mi3dor
from dataio.findings import Findings
from dataio.names import canonical_name
from dataio.records import DataError, Record, slug
from tests.dataio.mi3dor_tree import add_shape, make_tree, touch

CLASSES = (
    "airplane", "bed", "bicycle", "bookshelf", "camera", "car", "chair", "flower_pot", "guitar",
    "keyboard", "knife", "monitor", "motorcycle", "pistol", "plant", "radio", "rifle", "stairs",
    "tent", "vase", "wardrobe",
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "MI3DOR")


def listed(root: Path, *, findings: Findings | None = None, **options) -> list[Record]:
    return mi3dor.records(root, mi3dor.Options(**options), findings or Findings("mi3dor"))


def test_every_image_and_shape_becomes_a_record_in_a_fixed_order(tree):
    got = listed(tree)
    order = [(r.stream, r.split, r.label) for r in got]
    assert len(got) == 2 * 2 * 3 + 2 * 2 * 2
    assert order[0] == ("image", "train", "bed")
    assert order[-1] == ("shape", "test", "flower_pot")
    assert len({r.key for r in got}) == len(got)
    assert listed(tree) == got
    shape = next(r for r in got if r.source_path == "view/test/bed/bed_test_0001")
    assert shape.key == "mi3dor-test-bed-bed_test_0001"
    assert shape.extra == {"mesh": "model/test/bed/bed_test_0001.obj"}
    assert shape.views is not None
    assert [v.name[-7:-4] for v in shape.views] == [f"{k:03d}" for k in range(1, 13)]


def test_views_are_ordered_by_the_integer_suffix(tree):
    folder = tree / "view/test/bed/bed_test_0001"
    for view in folder.iterdir():  # _1, _2 ... _12 sorts as _1, _10, _11, _12, _2 by name
        view.rename(folder / f"bed_test_0001_{int(view.stem[-3:])}.png")
    shape = next(r for r in listed(tree) if r.source_path.endswith("test/bed/bed_test_0001"))
    assert shape.views is not None
    assert [int(v.stem.rsplit("_", 1)[1]) for v in shape.views] == list(range(1, 13))


def test_val_split_and_sketches_are_read_where_there_are_any(tree):
    touch(tree, "image/val/bed/a.png", "sketch/test/bed/s.png")
    add_shape(tree, "val", "bed", 1)
    got = listed(tree, name="procedural")
    assert {r.split for r in got} == {"train", "val", "test"}
    assert [r.key for r in got if r.stream == "sketch"] == ["procedural-test-bed-s"]


def test_hidden_files_and_system_clutter_are_ignored(tree):
    before = listed(tree)
    touch(tree, ".DS_Store", "image/test/bed/._n00.JPEG", "image/test/bed/Thumbs.db")
    touch(tree, "__MACOSX/x", "view/test/bed/bed_test_0001/.DS_Store", "image/test/.trash/x.png")
    assert listed(tree) == before


def test_a_doubled_folder_is_accepted(tree, tmp_path):
    doubled = tmp_path / "outer" / "MI3DOR"
    shutil.copytree(tree, doubled / "MI3DOR")
    shutil.move(doubled / "MI3DOR/view", doubled / "MI3DOR/inner")
    shutil.copytree(doubled / "MI3DOR/inner", doubled / "MI3DOR/view/view")
    assert [r.key for r in listed(doubled)] == [r.key for r in listed(tree)]


def test_links_out_of_the_root_are_not_followed(tree, tmp_path):
    before = listed(tree)
    touch(tmp_path, "elsewhere.png")
    (tree / "image/test/bed/link.png").symlink_to(tmp_path / "elsewhere.png")
    assert listed(tree) == before


def test_a_root_one_level_too_high_is_answered_with_the_right_one(tree):
    message = (
        f"mi3dor: no data under {str(tree.parent)!r}. Expected image/{{train,test}}/<class>/ and "
        "view/{train,test}/<class>/<shape>/ there. Found: 'MI3DOR/'. "
        f"Did you mean {str(tree)!r}?"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        listed(tree.parent)


@pytest.mark.parametrize("beside", [True, False])
def test_a_folder_of_a_repeated_download_is_read_with_a_note(tree, beside):
    before = listed(tree)
    if beside:
        shutil.copytree(tree / "view", tree / "view(1)")
        note = "'view(1)' is not read, 'view' is"
    else:
        (tree / "view").rename(tree / "view(1)")
        note = "'view(1)' is read as 'view'"
    findings = Findings("mi3dor")
    got = listed(tree, findings=findings)
    assert [r.key for r in got] == [r.key for r in before]
    assert note in findings.warnings


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        listed(tmp_path / "nowhere")


def test_a_missing_view_is_an_error_or_skipped_or_filled(tree):
    folder = tree / "view/test/bed/bed_test_0002"
    for number in (1, 9):
        (folder / f"bed_test_0002_{number:03d}.png").unlink()
    message = r"shape bed_test_0002 has 10 of 12 views \(missing 001, 009\). Re-extract"
    with pytest.raises(DataError, match=message):
        listed(tree)
    assert len(listed(tree, missing_views="skip")) == len(listed(tree, missing_views="repeat")) - 1
    repeated = listed(tree, missing_views="repeat")
    views = next(r.views for r in repeated if r.source_path.endswith("bed_test_0002"))
    assert views is not None
    numbers = [int(v.stem[-3:]) for v in views]
    assert numbers == [12, 2, 3, 4, 5, 6, 7, 8, 8, 10, 11, 12]


def test_a_shape_folder_inside_another_is_refused(tree):
    add_shape(tree, "test", "bed", 3).rename(tree / "view/test/bed/bed_test_0001/bed_test_0003")
    with pytest.raises(DataError, match="'bed_test_0003' does not belong into shape folder"):
        listed(tree)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bed_test_0002_001.png", "does not belong into shape folder"),
        ("bed_test_0001_013.png", r"view 13, not of 1\.\.12"),
        ("bed_test_0001_1.jpg", "view 1, a second time"),
    ],
)
def test_a_stray_view_is_refused(tree, name, message):
    touch(tree, f"view/test/bed/bed_test_0001/{name}")
    with pytest.raises(DataError, match=message):
        listed(tree)


def test_a_class_on_one_side_only_is_an_error_or_dropped(tree):
    before = listed(tree)
    touch(tree, "image/test/lamp/a.png")
    add_shape(tree, "train", "car", 1)
    with pytest.raises(
        DataError, match="class 'car' is under view/train and not under image/train"
    ):
        listed(tree)
    assert listed(tree, missing_classes="drop") == before
    shutil.rmtree(tree / "view/train/car")
    with pytest.raises(DataError, match="class 'lamp' is under image/test and not under view/test"):
        listed(tree)


def test_sketches_may_cover_fewer_classes_than_the_photos(tree):
    touch(tree, "sketch/test/bed/s.png")
    assert sum(r.stream == "sketch" for r in listed(tree)) == 1
    touch(tree, "sketch/test/cup/s.png")
    with pytest.raises(DataError, match="class 'cup' is under sketch/test"):
        listed(tree)


def test_an_empty_class_folder_counts_as_absent(tree):
    (tree / "image/test/lamp").mkdir()
    (tree / "view/test/lamp").mkdir()
    before = listed(tree)
    assert "lamp" not in {r.label for r in before}
    touch(tree, "view/test/lamp/lamp_test_0001/readme.txt", "image/test/lamp/a.png")
    with pytest.raises(DataError, match="shape lamp_test_0001 has 0 of 12 views"):
        listed(tree)
    with pytest.raises(DataError, match="class 'lamp' is under image/test and not under view/test"):
        listed(tree, missing_views="skip")


def test_lenient_skips_each_defect_and_lists_it(tree):
    kept = [r.key for r in listed(tree) if not r.key.endswith("bed_test_0002")]
    (tree / "view/test/bed/bed_test_0002/bed_test_0002_005.png").unlink()
    add_shape(tree, "test", "bed", 3).rename(tree / "view/test/bed/bed_test_0001/bed_test_0003")
    touch(tree, "view/test/bed/bed_test_0001/bed_test_0001_013.png", "image/test/lamp/a.png")
    findings = Findings("mi3dor", lenient=True)
    assert [r.key for r in listed(tree, findings=findings)] == kept
    assert [one.item.rsplit("/", 1)[-1] for one in findings.skipped] == [
        "bed_test_0001_013.png",
        "bed_test_0003",
        "bed_test_0002",
        "lamp",
    ]
    with pytest.raises(DataError, match=r"view 13.*remove it, or pass --lenient to skip it"):
        listed(tree)


def test_repeated_views_are_counted_in_one_note(tree):
    for number in (1, 2):
        (tree / f"view/test/bed/bed_test_000{number}/bed_test_000{number}_003.png").unlink()
    findings = Findings("mi3dor")
    listed(tree, findings=findings, missing_views="repeat")
    note = "2 shapes have views repeated; first: shape bed_test_0001 has 11 of 12 views"
    assert any(warning.startswith(note) for warning in findings.warnings)


def test_chosen_classes_alone_are_looked_at(tree):
    (tree / "view/test/bed/bed_test_0001/bed_test_0001_003.png").unlink()
    assert {r.label for r in listed(tree, classes=("Flower Pot",))} == {"flower_pot"}
    with pytest.raises(DataError, match="unknown class 'beds'; did you mean 'bed'"):
        listed(tree, classes=("beds",))


def test_a_set_with_other_view_counts(tmp_path):
    root = make_tree(tmp_path / "own", shapes=0)
    for split in ("train", "test"):
        for label in ("bed", "flower_pot"):
            add_shape(root, split, label, 1, views=4)
    with pytest.raises(DataError, match=r"has 4 of 12 views \(missing 005"):
        listed(root)
    assert {len(r.views or ()) for r in listed(root, views=4) if r.stream == "shape"} == {4}


def whole(root: Path) -> Path:
    for split in ("train", "test"):
        for label in CLASSES:
            touch(root, f"image/{split}/{label}/a.jpg")
            add_shape(root, split, label, 1)
    return root


def test_published_counts_are_expected_of_a_whole_set_only(tmp_path, tree):
    part = Findings("mi3dor")
    listed(tree, findings=part)
    assert part.warnings == [
        "2 of the 21 classes are here; counts are not compared with the published ones"
    ]
    own = Findings("own", strict=True)
    listed(whole(tmp_path / "whole"), findings=own, name="own")
    assert own.warnings == []
    full = Findings("mi3dor")
    listed(tmp_path / "whole", findings=full)
    assert len(full.warnings) == 4
    assert full.warnings[0].startswith(
        "21 images in train, 10,500 are published (airplane 1 of 500, "
    )
    assert "21 shapes in train, 3,842 are published" in full.warnings
    assert "bicycle 1 of 31" in full.warnings[3]
    with pytest.raises(DataError, match=r"mi3dor: 21 images in train.*because of --strict"):
        listed(tmp_path / "whole", findings=Findings("mi3dor", strict=True))
    touch(tmp_path, "whole/image/test/sofa/a.jpg")
    add_shape(tmp_path / "whole", "test", "sofa", 1)
    more = Findings("mi3dor", strict=True)
    listed(tmp_path / "whole", findings=more)
    assert more.warnings == []


def test_class_names_meet_in_canonical_form(tree):
    (tree / "view/test/flower_pot").rename(tree / "view/test/Flower Pot")
    assert {r.label for r in listed(tree)} == {"bed", "flower_pot"}
    touch(tree, "image/test/Bed/a.png")
    with pytest.raises(DataError, match=r"'Bed' and 'bed'.*are one class 'bed'"):
        listed(tree)


def test_an_empty_stream_is_named(tree):
    shutil.rmtree(tree / "image")
    touch(tree, "image/readme.txt")
    with pytest.raises(DataError, match=r"no classes under .*Found: 'readme.txt'"):
        listed(tree)


def test_colliding_keys_are_told_apart_and_stay_stable(tree):
    touch(tree, "image/test/bed/n00.png", "image/test/bed/A b.png", "image/test/bed/a b.png")
    keys = [r.key for r in listed(tree)]
    assert len(set(keys)) == len(keys)
    assert keys == [r.key for r in listed(tree)]
    assert all(re.fullmatch(r"[a-z0-9_-]+", key) for key in keys)


@pytest.mark.parametrize("raw", ["bed_0001", "A b", "a.b", "ü", "", "..", "a/b"])
def test_a_slug_is_safe_and_leaves_safe_names_alone(raw):
    assert re.fullmatch(r"[a-z0-9_-]+", slug(raw))
    assert (slug(raw) == raw) == bool(re.fullmatch(r"[a-z0-9_-]+", raw))


def test_slugs_of_look_alikes_differ():
    assert len({slug(raw) for raw in ("a b", "a.b", "A b", "a_b")}) == 4


@pytest.mark.parametrize(
    ("raw", "canonical"), [(" Flower-Pot ", "flower_pot"), ("view(1)", "view"), ("Bed", "bed")]
)
def test_canonical_names(raw, canonical):
    assert canonical_name(raw) == canonical


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "a.b"}, "build it with slug"),
        ({"stream": "photo"}, "stream 'photo'"),
        ({"split": "dev"}, "split 'dev'"),
        ({"views": (Path("v.png"),)}, "2 are given"),
        ({"stream": "shape"}, "needs views or a mesh"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes, message):
    fields = {"key": "k", "stream": "image", "split": "test", "label": None, "image": Path("a.png")}
    Record(**fields)
    with pytest.raises(DataError, match=message):
        Record(**{**fields, **changes})
