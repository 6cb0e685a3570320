"""MI3DOR by its second tree and by lists: label files, paths and labels that do not fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataio.datasets import mi3dor
from dataio.datasets.registry import parse_options
from dataio.findings import Findings
from dataio.records import DataError, Record
from tests.dataio.mi3dor_tree import make_tree, touch


def listed(root: Path, *, findings: Findings | None = None, **options) -> list[Record]:
    return mi3dor.records(root, mi3dor.Options(**options), findings or Findings("mi3dor"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "MI3DOR")


LABELS = {"bed": 1, "flower_pot": 7}  # in MI3DOR's own order of 21 classes
LISTS: dict = {"image_lists": {"test": "images.txt"}, "shape_lists": {"test": "views.txt"}}


def lines(tree: Path, stream: str, *, prefix: str = "", step: int = 1) -> list[str]:
    """`path label` of every test picture of the tree; `step` 3 takes views 1, 4, 7 and 10."""
    return [
        f"{prefix}{file.relative_to(tree).as_posix()} {label}"
        for name, label in LABELS.items()
        for file in sorted((tree / stream / "test" / name).rglob("*.*"))
        if stream == "image" or int(file.stem[-3:]) % step == 1 % step
    ]


def write(tree: Path, images: list[str] | None = None, views: list[str] | None = None) -> None:
    """The two lists that `LISTS` names; by default whole and right."""
    (tree / "images.txt").write_text("\n".join(images or lines(tree, "image")))
    (tree / "views.txt").write_text("\n".join(views or lines(tree, "view")))


def refused(root: Path, message: str, **options) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        listed(root, **{**LISTS, **options})
    assert "\n" not in str(caught.value)


def test_whole_lists_give_the_records_of_the_tree(tree):
    write(tree)
    wanted = [r for r in listed(tree) if r.split == "test"]
    got = listed(tree, **LISTS)
    assert [(r.key, r.label, r.image, r.views) for r in got] == [
        (r.key, r.label, r.image, r.views) for r in wanted
    ]


def test_lists_are_options_of_the_command_line_too(tree):
    write(tree)
    given = {"shape_lists": "{test: views.txt}", "image_lists": "{test: images.txt}"}
    options = parse_options(mi3dor.ADAPTERS[0], given)
    assert isinstance(options, mi3dor.Options)
    assert mi3dor.records(tree, options, Findings("mi3dor")) == listed(tree, **LISTS)
    with pytest.raises(DataError, match=r"option image_lists\.tset"):
        parse_options(mi3dor.ADAPTERS[0], {"image_lists": "{tset: a.txt}"})


def test_byte_order_mark_crlf_tabs_blank_lines_and_spaces_in_paths(tree):
    touch(tree, "image/test/bed/my bed 2.JPEG")
    text = "\ufeff" + "\r\n\r\n".join(lines(tree, "image")).replace(" 1", "\t1 ") + "\r\n"
    (tree / "views.txt").write_text("\n".join(lines(tree, "view")))
    (tree / "images.txt").write_bytes(text.encode())
    got = [r.source_path for r in listed(tree, **LISTS) if r.stream == "image"]
    assert len(got) == 7
    assert "image/test/bed/my bed 2.JPEG" in got


def test_views_are_grouped_by_shape_and_ordered_by_number_whatever_the_line(tree):
    views = lines(tree, "view")
    write(tree, views=views[::-1][1::2] + views[::-1][::2])
    got = {r.source_path: r.views for r in listed(tree, **LISTS) if r.stream == "shape"}
    assert got == {
        r.source_path: r.views for r in listed(tree) if (r.stream, r.split) == ("shape", "test")
    }


def test_a_lost_view_is_missed_in_its_own_shape(tree):
    views = lines(tree, "view")
    write(tree, views=views[:3] + views[4:])
    refused(tree, "shape bed_test_0001 has 11 of 12 views (missing 004)")
    got = listed(tree, **LISTS, missing_views="skip")
    shapes = {r.source_path: r.label for r in got if r.stream == "shape"}
    assert shapes == {
        "view/test/bed/bed_test_0002": "bed",
        "view/test/flower_pot/flower_pot_test_0001": "flower_pot",
        "view/test/flower_pot/flower_pot_test_0002": "flower_pot",
    }


def test_a_list_of_four_views_a_shape(tree):
    write(tree, views=lines(tree, "view", step=3))
    refused(tree, "has 4 of 12 views")
    got = listed(tree, **LISTS, views=4)
    numbers = {tuple(int(v.stem[-3:]) for v in r.views) for r in got if r.views}
    assert numbers == {(1, 4, 7, 10)}


def test_views_of_many_shapes_in_one_folder(tmp_path):
    names = [f"3d/bed_{n:04d}_{v}.png" for n in (1, 2) for v in range(12)]
    touch(tmp_path, *names)
    (tmp_path / "v.txt").write_text("\n".join(f"{name} 0" for name in names))
    (tmp_path / "names.txt").write_text("Bed\n\nLamp\n")
    got = listed(tmp_path, shape_lists={"train": "v.txt"}, class_file="names.txt")
    assert [(r.source_path, r.label) for r in got] == [
        ("3d/bed_0001", "bed"),
        ("3d/bed_0002", "bed"),
    ]
    assert [int(v.stem.split("_")[-1]) for v in got[0].views or ()] == list(range(12))


def test_a_path_of_another_machine_is_answered_with_the_prefix_to_strip(tree):
    write(tree, images=lines(tree, "image", prefix="/data1/u/MI3DOR/"))
    refused(
        tree,
        "mi3dor: list 'images.txt' line 1: '/data1/u/MI3DOR/image/test/bed/n00.JPEG' is not on "
        f"this machine. Its last 4 path parts exist under {str(tree)!r}; pass "
        "-o list_strip_prefix=/data1/u/MI3DOR, or pass --lenient",
    )
    assert len(listed(tree, **LISTS, list_strip_prefix="/data1/u/MI3DOR")) == 6 + 4
    write(tree, images=lines(tree, "image", prefix=f"{tree}/"))
    assert len(listed(tree, **LISTS)) == 6 + 4


@pytest.mark.parametrize("name", ["image/test/bed/gone.JPEG", "../elsewhere.png", "image/link.png"])
def test_a_file_that_is_not_under_the_root(tree, tmp_path, name):
    touch(tmp_path, "elsewhere.png")
    (tree / "image/link.png").symlink_to(tmp_path / "elsewhere.png")
    write(tree, images=[*lines(tree, "image"), f"{name} 1"])
    refused(
        tree, f"list 'images.txt' line 7: '{name}' is not a picture under {str(tree)!r}; restore"
    )
    findings = Findings("mi3dor", lenient=True)
    assert len(listed(tree, findings=findings, **LISTS)) == 6 + 4
    assert [one.item for one in findings.skipped] == ["list 'images.txt' line 7"]


@pytest.mark.parametrize("line", ["image/test/bed/n00.JPEG", "image/test/bed/n00.JPEG one", "7"])
def test_a_line_that_is_no_path_with_a_label(tree, line):
    write(tree, images=[*lines(tree, "image"), line])
    refused(tree, f"list 'images.txt' line 7: expected a path and a label, found {line!r}")


def test_a_line_that_comes_twice(tree):
    images = lines(tree, "image")
    write(tree, images=[*images, images[2]])
    refused(tree, "line 7: 'image/test/bed/n02.JPEG' again, first on line 3; remove the line")
    assert len(listed(tree, findings=Findings("mi3dor", lenient=True), **LISTS)) == 6 + 4


@pytest.mark.parametrize("text", ["", "\n", " ", "\r\n"])
def test_a_placeholder_list(tree, text):
    write(tree)
    (tree / "views.txt").write_text(text)
    refused(tree, "list 'views.txt' is a placeholder without any line")


def test_a_list_that_is_missing_or_no_text(tree):
    write(tree)
    (tree / "views.txt").write_bytes(b"\xff\xfe1")
    refused(tree, "views.txt' is not a UTF-8 text")
    (tree / "views.txt").unlink()
    refused(tree, f"cannot read {str(tree / 'views.txt')!r}: No such file")


def test_a_list_of_another_class_order_is_found_by_the_folders(tree):
    shifted = [line.replace(" 1", " 4") for line in lines(tree, "image")]
    write(tree, images=shifted)
    refused(
        tree,
        "mi3dor: list 'images.txt' line 1: list label 4 stands for 'camera' and 'bed'. The list "
        "was made with another class order; pass -o class_file=FILE",
    )
    write(tree, images=[line.replace(" 7", " 21") for line in lines(tree, "image")])
    refused(tree, "line 4: label 21, and 21 classes are known")


def test_a_class_file_sets_the_order(tree):
    order = [line.replace(" 1", " 0").replace(" 7", " 1") for line in lines(tree, "image")]
    views = [line[: -len("1")] + str(int(line.endswith(" 7"))) for line in lines(tree, "view")]
    write(tree, images=order, views=views)
    refused(tree, "list label 0 stands for 'airplane' and 'bed'")
    (tree / "classes.txt").write_text("Bed\r\nFlower Pot\r\n")
    assert {r.label for r in listed(tree, **LISTS, class_file="classes.txt")} == {
        "bed",
        "flower_pot",
    }
    (tree / "classes.txt").write_text("bed\nBed\n")
    refused(tree, "class_file 'classes.txt' names class 'bed' twice", class_file="classes.txt")


def test_a_tree_with_classes_of_its_own_has_them_in_sorted_order(tmp_path):
    root = make_tree(tmp_path / "own", ("bed", "yacht"))
    paths = [f"image/test/{c}/n00.JPEG {k}" for k, c in enumerate(("bed", "yacht"))]
    (root / "images.txt").write_text("\n".join(paths))
    got = listed(root, image_lists={"test": "images.txt"})
    assert [r.label for r in got] == ["bed", "yacht"]


def test_one_shape_with_two_labels(tmp_path):
    names = [f"3d/x_{v:02d}.png" for v in range(1, 13)]
    touch(tmp_path, *names)
    (tmp_path / "v.txt").write_text("\n".join(f"{n} {int(k == 5)}" for k, n in enumerate(names)))
    with pytest.raises(
        DataError,
        match=r"'v.txt' line 6: shape '3d/x' is 'bed' here, 'airplane' on line 1; correct one",
    ):
        listed(tmp_path, shape_lists={"train": "v.txt"})


def test_a_listed_view_without_a_number(tree):
    views = [*lines(tree, "view"), "view/test/bed/cover.png 1"]
    touch(tree, "view/test/bed/cover.png")
    write(tree, views=views)
    refused(tree, "'view/test/bed/cover.png' has no view number at the end of its name")


def test_chosen_classes_of_lists(tree):
    write(tree)
    assert {r.label for r in listed(tree, **LISTS, classes=("bed",))} == {"bed"}
    refused(tree, "unknown class 'bad'", classes=("bad",))


# ---- the second tree


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two beds and a camera on either side of train and test; lines of 3D are shapes."""
    root = tmp_path / "MI3DOR-1"
    for split, images, name in (("train", "images/", "label"), ("test", "", "labels")):
        shapes = [f"s{k}" for k in range(3)]
        touch(root, *(f"{split}/2D/{images}{s}.jpg" for s in shapes))
        touch(root, *(f"{split}/3D/{images}{s}/{s}_{v}.png" for s in shapes for v in range(1, 13)))
        flat = [f"{s}.jpg {label}" for s, label in zip(shapes, (1, 1, 4), strict=True)]
        deep = [f"{s}/{s}_1.png {label}" for s, label in zip(shapes, (1, 1, 4), strict=True)]
        (root / f"{split}/2D/{name}.txt").write_text("\n".join(flat))
        (root / f"{split}/3D/{name}.txt").write_text("\n".join(deep))
    return root


def test_the_second_tree_is_read_by_its_label_files(labelled):
    got = listed(labelled)
    assert [(r.stream, r.split) for r in got[::3]] == [
        ("image", "train"),
        ("image", "test"),
        ("shape", "train"),
        ("shape", "test"),
    ]
    assert [r.label for r in got[:3]] == ["bed", "bed", "camera"]
    assert (got[0].key, got[0].source_path) == ("mi3dor-train-bed-s0", "train/2D/images/s0.jpg")
    assert (got[-1].source_path, len(got[-1].views or ())) == ("test/3D/s2", 12)


def test_the_second_tree_with_a_view_lost_a_shape_twice_and_a_file_gone(labelled):
    (labelled / "test/3D/s2/s2_12.png").unlink()
    with pytest.raises(DataError, match=r"shape s2 has 11 of 12 views \(missing 012\)"):
        listed(labelled)
    touch(labelled, "test/3D/s2/s2_12.png")
    labels = labelled / "test/3D/labels.txt"
    labels.write_text(labels.read_text() + "\ns1/s1_2.png 1")
    with pytest.raises(DataError, match="line 4: 'test/3D/s1' again, first on line 2"):
        listed(labelled)
    (labelled / "train/2D/label.txt").unlink()
    with pytest.raises(DataError, match=r"train/2D' has no label\.txt"):
        listed(labelled)
