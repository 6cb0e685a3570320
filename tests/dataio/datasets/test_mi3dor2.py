"""MI3DOR-2 by its lists, by folders, and with the shapes of ModelNet40; the files are empty."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataio.datasets import mi3dor2
from dataio.datasets.published import MODELNET40_CLASSES
from dataio.findings import Findings
from dataio.records import DataError, Record
from tests.dataio.mi3dor_tree import make_tree, touch

SPLITS = ("train", "test")


def listed(root: Path, *, findings: Findings | None = None, **options) -> list[Record]:
    return mi3dor2.records(root, mi3dor2.Options(**options), findings or Findings("mi3dor-2"))


def write_lists(root: Path, *, slash: str = "", classes: tuple[str, ...] = ("bed", "sofa")) -> Path:
    """One image and one shape of every class in train and test, and the four list files."""
    for split in SPLITS:
        for folder, kind in (("2D", "Image"), ("3D", "View")):
            lines = []
            for name in classes:
                names = [f"{name}/{name}_0001_{v:03d}.jpg" for v in range(1, 13)]
                names = names if folder == "3D" else [f"{name}/n01.JPEG"]
                touch(root / split / folder, *names)
                lines += [f"{slash}{one} {MODELNET40_CLASSES.index(name)}" for one in names]
            (root / split / f"MI3DOR_2_{kind}_{split}_list.txt").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("slash", ["", "/"])
def test_its_lists_are_glued_behind_their_roots(tmp_path, slash):
    got = listed(write_lists(tmp_path, slash=slash))
    assert [(r.key, r.source_path) for r in got[::2]] == [
        ("mi3dor-2-train-bed-n01", "train/2D/bed/n01.JPEG"),
        ("mi3dor-2-test-bed-n01", "test/2D/bed/n01.JPEG"),
        ("mi3dor-2-train-bed-bed_0001", "train/3D/bed/bed_0001"),
        ("mi3dor-2-test-bed-bed_0001", "test/3D/bed/bed_0001"),
    ]
    assert [r.label for r in got] == ["bed", "sofa"] * 4
    assert all(len(r.views or ()) == 12 for r in got if r.stream == "shape")


def test_a_list_that_is_missing_and_a_class_on_one_side(tmp_path):
    root = write_lists(tmp_path)
    images = root / "test/MI3DOR_2_Image_test_list.txt"
    images.write_text("bed/n01.JPEG 2\n")
    with pytest.raises(DataError, match="class 'sofa' is under view/test and not under image/test"):
        listed(root)
    assert {r.label for r in listed(root, missing_classes="drop") if r.split == "test"} == {"bed"}
    images.unlink()
    with pytest.raises(DataError, match=r"cannot read .*MI3DOR_2_Image_test_list\.txt"):
        listed(root)


def test_labels_that_contradict_the_folders(tmp_path):
    root = write_lists(tmp_path)
    (root / "test/MI3DOR_2_Image_test_list.txt").write_text("bed/n01.JPEG 3\n")
    message = "line 1: list label 3 stands for 'bench' and 'bed'. The list was made with another"
    with pytest.raises(DataError, match=re.escape(message)):
        listed(root)


def test_the_lists_with_paths_from_the_root(tmp_path):
    for split in SPLITS:
        views = [f"data/{split}/sofa_0001_{v:03d}.png" for v in range(1, 13)]
        touch(tmp_path, f"data/{split}/n1.jpg", *views)
        (tmp_path / f"Model_net_40_source_{split}.txt").write_text(f"data/{split}/n1.jpg 30")
        (tmp_path / f"Model_net_40_target_{split}.txt").write_text(
            "\n".join(f"{view} 30" for view in views)
        )
    got = listed(tmp_path)
    assert [(r.stream, r.split, r.label) for r in got] == [
        ("image", "train", "sofa"),
        ("image", "test", "sofa"),
        ("shape", "train", "sofa"),
        ("shape", "test", "sofa"),
    ]


def test_folders_like_those_of_mi3dor(tmp_path):
    root = make_tree(tmp_path / "MI3DOR-2")
    findings = Findings("mi3dor-2")
    assert len(listed(root, findings=findings)) == 2 * 2 * (3 + 2)
    assert findings.warnings == [
        "2 of the 40 classes are here; counts are not compared with the published ones"
    ]
    with pytest.raises(DataError, match=re.escape(f"Did you mean {str(root)!r}?")):
        listed(tmp_path)


# ---- the shapes of ModelNet40


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    root = tmp_path / "modelnet40v1"
    for split, number in (("train", 1), ("test", 2)):
        for name in ("bed", "flower_pot"):
            stem = f"{name}/{split}/{name}_{number:04d}"
            touch(root, *(f"{stem}_{v:03d}.jpg" for v in range(1, 13)))
    return root


def test_the_shapes_of_modelnet_alone(shapes, tmp_path):
    findings = Findings("mi3dor-2")
    got = listed(tmp_path / "none", findings=findings, from_modelnet=str(shapes))
    assert [(r.key, r.stream) for r in got[:2]] == [
        ("mi3dor-2-train-bed-bed_0001", "shape"),
        ("mi3dor-2-test-bed-bed_0002", "shape"),
    ]
    assert len(got) == 4
    assert (
        "the shapes are ModelNet40's: which of its 3,183 training shapes MI3DOR-2 lacks is not "
        "known, nor are its images; there are none here"
    ) in findings.warnings


def test_the_shapes_of_modelnet_beside_own_images(shapes, tmp_path):
    root = tmp_path / "own"
    for split in SPLITS:
        touch(root, *(f"image/{split}/{c}/{c}_0001.jpg" for c in ("bed", "flower_pot")))
    got = listed(root, from_modelnet=str(shapes))
    assert [r.stream for r in got] == ["image"] * 4 + ["shape"] * 4
    assert len({r.key for r in got}) == 8  # an image and a shape are both called bed_0001
    touch(root, "image/test/lamp/a.jpg")
    with pytest.raises(DataError, match="class 'lamp' is under image/test and not under view/test"):
        listed(root, from_modelnet=str(shapes))


def test_own_lists_give_their_images_beside_the_shapes_of_modelnet(shapes, tmp_path):
    root = write_lists(tmp_path / "lists", classes=("bed", "flower_pot"))
    got = listed(root, from_modelnet=str(shapes))
    assert {r.source_path for r in got if r.stream == "image" and r.label == "bed"} == {
        "train/2D/bed/n01.JPEG",
        "test/2D/bed/n01.JPEG",
    }
    assert {r.source_path for r in got if r.stream == "shape" and r.label == "bed"} == {
        "bed/train/bed_0001",
        "bed/test/bed_0002",
    }


def test_published_counts_are_expected_of_all_forty_classes(tmp_path):
    root = write_lists(tmp_path, classes=MODELNET40_CLASSES)
    findings = Findings("mi3dor-2")
    listed(root, findings=findings)
    assert findings.warnings == [
        "40 images in train, 19,294 are published",
        "40 images in test, 400 are published",
        "40 shapes in train, 3,182 are published",
        "40 shapes in test, 800 are published",
    ]
