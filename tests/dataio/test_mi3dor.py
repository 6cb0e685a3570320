"""The MI3DOR adapter on small made-up trees; no picture is opened, so the files may be empty."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from dataio.datasets.mi3dor import records
from dataio.names import canonical_name
from dataio.records import DataError, Record, slug


def touch(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def add_shape(root: Path, split: str, label: str, number: int, views: int = 12) -> Path:
    shape = f"{label}_{split}_{number:04d}"
    folder = root / "view" / split / label / shape
    touch(folder, *(f"{shape}_{k:03d}.png" for k in range(1, views + 1)))
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "MI3DOR"
    for split in ("train", "test"):
        for label in ("bed", "flower_pot"):
            touch(root, *(f"image/{split}/{label}/n0{k}.JPEG" for k in range(3)))
            for number in (1, 2):
                add_shape(root, split, label, number)
    touch(root, "model/test/bed/bed_test_0001.obj")
    return root


def listed(root: Path, **options) -> list[Record]:
    return list(records(root, **options))


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
    got = listed(tree, dataset="procedural")
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
        records(tree.parent)


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        records(tmp_path / "nowhere")


def test_a_missing_view_is_an_error_or_skipped_or_filled(tree):
    folder = tree / "view/test/bed/bed_test_0002"
    for number in (1, 9):
        (folder / f"bed_test_0002_{number:03d}.png").unlink()
    message = r"shape bed_test_0002 has 10 of 12 views \(missing 001, 009\). Re-extract"
    with pytest.raises(DataError, match=message):
        records(tree)
    assert len(listed(tree, missing_views="skip")) == len(listed(tree, missing_views="repeat")) - 1
    repeated = listed(tree, missing_views="repeat")
    views = next(r.views for r in repeated if r.source_path.endswith("bed_test_0002"))
    assert views is not None
    numbers = [int(v.stem[-3:]) for v in views]
    assert numbers == [12, 2, 3, 4, 5, 6, 7, 8, 8, 10, 11, 12]


def test_a_shape_folder_inside_another_is_refused(tree):
    add_shape(tree, "test", "bed", 3).rename(tree / "view/test/bed/bed_test_0001/bed_test_0003")
    with pytest.raises(DataError, match="'bed_test_0003' does not belong into shape folder"):
        records(tree)


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
        records(tree)


def test_a_class_on_one_side_only_is_an_error_or_dropped(tree):
    before = listed(tree)
    touch(tree, "image/test/lamp/a.png")
    add_shape(tree, "train", "car", 1)
    with pytest.raises(
        DataError, match="class 'car' is under view/train and not under image/train"
    ):
        records(tree)
    assert listed(tree, missing_classes="drop") == before
    shutil.rmtree(tree / "view/train/car")
    with pytest.raises(DataError, match="class 'lamp' is under image/test and not under view/test"):
        records(tree)


def test_sketches_may_cover_fewer_classes_than_the_photos(tree):
    touch(tree, "sketch/test/bed/s.png")
    assert sum(r.stream == "sketch" for r in listed(tree)) == 1
    touch(tree, "sketch/test/cup/s.png")
    with pytest.raises(DataError, match="class 'cup' is under sketch/test"):
        records(tree)


def test_class_names_meet_in_canonical_form(tree):
    (tree / "view/test/flower_pot").rename(tree / "view/test/Flower Pot")
    assert {r.label for r in listed(tree)} == {"bed", "flower_pot"}
    touch(tree, "image/test/Bed/a.png")
    with pytest.raises(DataError, match=r"'Bed' and 'bed'.*are one class 'bed'"):
        records(tree)


def test_an_empty_stream_is_named(tree):
    shutil.rmtree(tree / "image")
    touch(tree, "image/readme.txt")
    with pytest.raises(DataError, match=r"no classes under .*Found: 'readme.txt'"):
        records(tree)


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
