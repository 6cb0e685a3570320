"""ModelNet40's meshes and image sets by their names; the files are empty."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataio.datasets import modelnet
from dataio.datasets.modelnet import MeshOptions, ViewOptions, mesh_records, view_records
from dataio.datasets.published import MODELNET40_CLASSES
from dataio.findings import Findings
from dataio.records import DataError, Record
from tests.dataio.mi3dor_tree import touch


def meshes(root: Path, *, findings: Findings | None = None, **options) -> list[Record]:
    return mesh_records(root, MeshOptions(**options), findings or Findings("modelnet40"))


def views(root: Path, *, findings: Findings | None = None, **options) -> list[Record]:
    return view_records(root, ViewOptions(**options), findings or Findings("modelnet40-views"))


@pytest.fixture
def mesh_tree(tmp_path: Path) -> Path:
    root = tmp_path / "ModelNet40"
    for name in ("bed", "night_stand"):
        touch(root, *(f"{name}/train/{name}_{k:04d}.off" for k in (1, 2)))
        touch(root, f"{name}/test/{name}_0003.off")
    touch(root, "README.txt", ".DS_Store", "__MACOSX/bed/train/x.off")
    return root


WHITE = "{c}/{s}/{c}_{n:04d}_{v:03d}.jpg"
BLACK = "{c}/{s}/{c}_{n:04d}.obj.shaded_v{v:03d}.png"


def add_views(root: Path, form: str, split: str, number: int, *, label="bed", count=12) -> None:
    touch(root, *(form.format(c=label, s=split, n=number, v=v) for v in range(1, count + 1)))


@pytest.fixture(params=[WHITE, BLACK, BLACK.replace("shaded", "whiteshaded")])
def form(request) -> str:
    return request.param


@pytest.fixture
def view_tree(tmp_path: Path, form: str) -> Path:
    root = tmp_path / "modelnet40v1"
    for label in ("bed", "night_stand"):
        add_views(root, form, "train", 1, label=label)
        add_views(root, form, "train", 2, label=label)
        add_views(root, form, "test", 3, label=label)
    return root


# ---- meshes


def test_every_mesh_becomes_a_record_with_z_up(mesh_tree):
    got = meshes(mesh_tree)
    assert [(r.key, r.split, r.label) for r in got] == [
        ("modelnet40-train-bed-bed_0001", "train", "bed"),
        ("modelnet40-train-bed-bed_0002", "train", "bed"),
        ("modelnet40-test-bed-bed_0003", "test", "bed"),
        ("modelnet40-train-night_stand-night_stand_0001", "train", "night_stand"),
        ("modelnet40-train-night_stand-night_stand_0002", "train", "night_stand"),
        ("modelnet40-test-night_stand-night_stand_0003", "test", "night_stand"),
    ]
    assert {r.up_axis for r in got} == {"+z"}
    assert got[0].mesh == mesh_tree / "bed/train/bed_0001.off"
    assert got[0].source_path == "bed/train/bed_0001.off"
    beds = meshes(mesh_tree, name="m", classes=("Bed",))
    assert [r.key for r in beds] == [f"m-{r.split}-bed-bed_000{k}" for k, r in enumerate(beds, 1)]
    assert len(beds) == 3


def test_unpadded_numbers_are_ordered_as_numbers(tmp_path):
    touch(tmp_path, *(f"bed/train/bed_{k}.OFF" for k in (10, 9, 1)))
    numbers = [r.source_path for r in meshes(tmp_path)]
    assert numbers == [f"bed/train/bed_{k}.OFF" for k in (1, 9, 10)]


def test_a_shape_that_is_there_twice(mesh_tree):
    touch(mesh_tree, "bed/test/bed_2.off")
    message = r"'bed/test/bed_2\.off' and 'bed/train/bed_0002\.off' are one shape; remove one"
    with pytest.raises(DataError, match=message):
        meshes(mesh_tree)
    findings = Findings("modelnet40", lenient=True)
    assert len(meshes(mesh_tree, findings=findings)) == 6
    assert [one.item for one in findings.skipped] == ["bed/test/bed_2.off"]


@pytest.mark.parametrize("name", ["night_stand_0009.off", "bed.off", "stand_0001.off"])
def test_a_mesh_of_another_class(mesh_tree, name):
    touch(mesh_tree, f"bed/test/{name}")
    message = f"'bed/test/{name}' is not named like a shape of 'bed', bed_<NNNN>; move it out"
    with pytest.raises(DataError, match=re.escape(message)):
        meshes(mesh_tree)


def test_a_class_twice_and_links_and_doubled_folders(mesh_tree, tmp_path):
    before = [r.key for r in meshes(mesh_tree)]
    (mesh_tree / "bed/test/bed_0004.off").symlink_to(tmp_path / "elsewhere.off")
    touch(tmp_path, "elsewhere.off")
    assert [r.key for r in meshes(mesh_tree)] == before
    outer = tmp_path / "outer" / "ModelNet40"
    outer.mkdir(parents=True)
    mesh_tree.rename(outer / "ModelNet40")
    assert [r.key for r in meshes(outer)] == before
    with pytest.raises(DataError, match=re.escape(f"Did you mean {str(outer)!r}?")):
        meshes(outer.parent)
    touch(outer / "ModelNet40", "Bed/train/bed_0001.off")
    with pytest.raises(DataError, match=r"'Bed' and 'bed'.*are one class"):
        meshes(outer)


def test_meshes_are_not_views(mesh_tree):
    with pytest.raises(
        DataError, match=r"hold no shape of this data set; modelnet40 reads \.off files"
    ):
        views(mesh_tree)


def test_an_empty_class_folder_is_noted(mesh_tree):
    (mesh_tree / "bed/val").mkdir()
    findings = Findings("modelnet40")
    assert len(meshes(mesh_tree, findings=findings)) == 6
    assert "'bed/val' is empty" in findings.warnings


# ---- image sets


def test_every_run_of_views_becomes_a_record(view_tree, form):
    got = views(view_tree)
    assert [(r.key, r.split, r.label) for r in got[2:4]] == [
        ("modelnet40-views-test-bed-bed_0003", "test", "bed"),
        ("modelnet40-views-train-night_stand-night_stand_0001", "train", "night_stand"),
    ]
    assert len(got) == 6
    assert got[2].source_path == "bed/test/bed_0003"
    wanted = [form.format(c="bed", s="test", n=3, v=v) for v in range(1, 13)]
    assert got[2].views == tuple(view_tree / name for name in wanted)


@pytest.mark.parametrize("count", [12, 20, 80])
def test_the_number_of_views_is_that_of_the_set(tmp_path, count):
    add_views(tmp_path, WHITE, "train", 1, count=count)
    add_views(tmp_path, WHITE, "test", 2, count=count)
    assert [len(r.views or ()) for r in views(tmp_path)] == [count, count]
    with pytest.raises(DataError, match=f"has {min(count, 13)} of 13|view 14, not of 1..13"):
        views(tmp_path, views=13)


def test_unpadded_views_are_ordered_as_numbers(tmp_path):
    touch(tmp_path, *(f"bed/train/bed_1_{v}.jpg" for v in range(12)))
    (only,) = views(tmp_path)
    assert [v.name for v in only.views or ()] == [f"bed_1_{v}.jpg" for v in range(12)]


def test_a_missing_view(view_tree, form):
    (view_tree / form.format(c="bed", s="train", n=2, v=7)).unlink()
    with pytest.raises(DataError, match=r"shape bed_0002 has 11 of 12 views \(missing 007\)"):
        views(view_tree)
    findings = Findings("modelnet40-views")
    assert len(views(view_tree, missing_views="skip", findings=findings)) == 5
    assert [one.item for one in findings.skipped] == ["bed_0002"]
    filled = views(view_tree, missing_views="repeat")[1].views
    assert filled is not None
    assert filled[6] == filled[5]


def test_a_view_that_is_there_twice(view_tree, form):
    suffix = ".jpeg" if form == WHITE else ".PNG"
    touch(view_tree, str(Path(form.format(c="bed", s="test", n=3, v=4)).with_suffix(suffix)))
    with pytest.raises(DataError, match="is view 4, a second time; remove it"):
        views(view_tree)


@pytest.mark.parametrize("name", ["depth.png", "bed_0003.png", "bed_0003.obj.depth_v001.png"])
def test_a_stray_picture(view_tree, name):
    touch(view_tree, f"bed/test/{name}")
    message = f"'bed/test/{name}' is not named like a view, <class>_<NNNN>_<VVV>.jpg or "
    with pytest.raises(DataError, match=re.escape(message)):
        views(view_tree)
    findings = Findings("modelnet40-views", lenient=True)
    assert len(views(view_tree, findings=findings)) == 6
    assert [one.item for one in findings.skipped] == [f"bed/test/{name}"]


def test_a_view_of_another_class(view_tree, form):
    name = Path(form.format(c="night_stand", s="x", n=1, v=1)).name
    touch(view_tree, f"bed/test/{name}")
    with pytest.raises(DataError, match=r"is not named like a shape of 'bed', bed_<NNNN>; move it"):
        views(view_tree)


# ---- published counts


def test_published_counts_are_expected_of_all_forty_classes(tmp_path):
    for label in MODELNET40_CLASSES:
        touch(tmp_path, f"{label}/train/{label}_0001.off", f"{label}/test/{label}_0002_001.jpg")
    findings = Findings("modelnet40")
    assert len(meshes(tmp_path, findings=findings)) == 40
    assert findings.warnings == ["40 shapes in train, 9,843 are published"]
    findings = Findings("modelnet40-views")
    assert len(views(tmp_path, findings=findings)) == 40
    assert findings.warnings == ["40 shapes in test, 800 are published"]
    with pytest.raises(DataError, match=r"9,843 are published.*--strict"):
        meshes(tmp_path, findings=Findings("modelnet40", strict=True))
    assert len(meshes(tmp_path, findings=Findings("m", strict=True), classes=("bed",))) == 1


def test_both_adapters_are_declared():
    assert [one.name for one in modelnet.ADAPTERS] == ["modelnet40", "modelnet40-views"]
