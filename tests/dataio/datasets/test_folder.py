"""The adapter of your own files on small trees; files may be empty, no picture is opened."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dataio.datasets.folder import ADAPTERS, Options, records
from dataio.findings import Findings
from dataio.records import DataError, Record


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return touch(
        tmp_path / "mine",
        *(f"images/{c}/{k}.jpg" for c in ("chair", "Flower Pot") for k in range(6)),
        *(f"sketches/chair/s{k}.png" for k in range(2)),
        *(f"meshes/{c}/m{k}.obj" for c in ("chair", "Flower Pot") for k in range(3)),
        *(f"views/chair/v{k}/{n}.png" for k in range(2) for n in range(1, 13)),
    )


def read(
    root: Path, *, lenient: bool = False, strict: bool = False, **options: Any
) -> tuple[list[Record], Findings]:
    findings = Findings("folder", lenient=lenient, strict=strict)
    return records(root, Options(**options), findings), findings


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(root, **options)
    return str(caught.value)


def by_source(made: list[Record]) -> dict[str, Record]:
    return {one.source_path: one for one in made}


def splits(made: list[Record]) -> dict[str, str]:
    return {one.source_path: one.split for one in made}


def test_every_file_and_folder_of_views_becomes_a_record(tree):
    made, findings = read(tree)
    assert Counter((one.stream, one.label) for one in made) == {
        ("image", "chair"): 6, ("image", "flower_pot"): 6, ("sketch", "chair"): 2,
        ("shape", "chair"): 5, ("shape", "flower_pot"): 3,
    }  # fmt: skip
    assert [one.stream for one in made] == ["image"] * 12 + ["sketch"] * 2 + ["shape"] * 8
    assert len({one.key for one in made}) == len(made)
    pot = by_source(made)["images/Flower Pot/0.jpg"]
    assert pot.key == f"folder-{pot.split}-flower_pot-0"
    assert pot.image == tree / "images/Flower Pot/0.jpg"
    assert by_source(made)["meshes/chair/m0.obj"].mesh == tree / "meshes/chair/m0.obj"
    assert findings.warnings == []
    assert read(tree)[0] == made


@pytest.mark.parametrize(
    "names",
    [
        ["images/chair/a.JPEG"], ["sketches/chair/a.tiff"], ["meshes/chair/a.glb"],
        ["views/chair/one/1.webp"],
    ],
)  # fmt: skip
def test_any_of_the_folders_may_be_missing_and_pictures_have_any_format(tmp_path, names):
    (made, _) = read(touch(tmp_path, *names), test_share=0)
    assert [(one.label, one.split) for one in made] == [("chair", "train")]


def test_without_class_folders_items_have_no_label(tmp_path):
    root = touch(
        tmp_path, "images/a.jpg", "sketches/a.png", "meshes/m.obj", "meshes/m.mtl",
        "meshes/texture.png", "views/one/1.png", "views/chair/two/1.png",
    )  # fmt: skip
    made, findings = read(root, views=1)
    assert {one.source_path: one.label for one in made} == {
        "images/a.jpg": None, "sketches/a.png": None, "views/one": None,
        "views/chair/two": "chair", "meshes/m.obj": None,
    }  # fmt: skip
    assert by_source(made)["images/a.jpg"].key in ("folder-train-a", "folder-test-a")
    assert findings.warnings == []


def test_folders_called_like_splits_are_splits_if_all_of_them_are(tmp_path):
    root = touch(
        tmp_path, "images/train/bus/a.jpg", "images/Test/bus/b.jpg", "images/val/c.jpg",
        "meshes/train/bus/m.off", "views/test/bus/one/1.png", "views/test/two/1.png",
        "sketches/train/a.png", "sketches/bus/b.png",
    )  # fmt: skip
    made, _ = read(root, views=1, test_share=0)
    assert {one.source_path: (one.label, one.split) for one in made} == {
        "images/train/bus/a.jpg": ("bus", "train"),
        "images/Test/bus/b.jpg": ("bus", "test"),
        "images/val/c.jpg": (None, "val"),
        "meshes/train/bus/m.off": ("bus", "train"),
        "views/test/bus/one": ("bus", "test"),
        "views/test/two": (None, "test"),
        "sketches/train/a.png": ("train", "train"),  # a vehicle
        "sketches/bus/b.png": ("bus", "train"),
    }


def names(record: Record) -> list[str]:
    assert record.views is not None
    return [view.stem for view in record.views]


@pytest.mark.parametrize(
    ("held", "wanted", "numbers"),
    [
        (12, 12, list(range(1, 13))),
        (24, 12, list(range(1, 25, 2))),
        (5, 4, [1, 2, 3, 4]),
        (20, 12, [1, 2, 4, 6, 7, 9, 11, 12, 14, 16, 17, 19]),
        (3, 6, [1, 1, 2, 2, 3, 3]),
        (1, 3, [1, 1, 1]),
    ],
)
def test_views_are_in_order_of_their_numbers_and_as_many_as_asked_for(
    tmp_path, held, wanted, numbers
):
    root = touch(tmp_path, *(f"views/chair/one/view{n}_of_2.png" for n in range(1, held + 1)))
    made, findings = read(root, views=wanted)
    assert names(made[0]) == [f"view{n}_of_2" for n in numbers]
    noted = any("another number of views" in note for note in findings.warnings)
    assert noted == (held != wanted)


def test_views_win_over_the_mesh_of_the_same_shape(tree):
    touch(tree, "meshes/chair/v0.obj", "meshes/chair/v0.stl", "meshes/v1.obj")
    made, _ = read(tree)
    assert by_source(made)["views/chair/v0"].extra == {"mesh": "meshes/chair/v0.obj"}
    assert by_source(made)["views/chair/v1"].extra == {}
    assert not {"meshes/chair/v0.obj", "meshes/chair/v0.stl"} & by_source(made).keys()
    assert "meshes/v1.obj" in by_source(made)  # not of that class


def test_up_follows_the_format_unless_said(tmp_path):
    kinds = ("GLB", "gltf", "obj", "off", "ply", "stl")
    root = touch(tmp_path, *(f"meshes/{k}.{kind}" for k, kind in enumerate(kinds)))
    made = read(root)[0]
    assert [one.up_axis for one in made] == ["+y", "+y", "+y", "+z", "+z", "+z"]
    assert [one.up_certain for one in made] == [True, True, False, False, False, False]
    assert "Blender, three.js and obj2gltf take +y" in made[2].up_because
    given = read(root, up_axis="+y")[0]
    assert {(one.up_axis, one.up_because, one.up_certain) for one in given} == {
        ("+y", "given by -o up_axis", True)
    }


def test_ids_that_occur_twice_get_keys_of_their_own(tmp_path):
    touch(tmp_path, "images/a/x.jpg", "images/a/x.png", "sketches/a/x.png")
    for seed in range(8):  # most probably one picture in two formats: of one split
        made, _ = read(tmp_path, seed=seed, test_share=0.5)
        assert len({one.key for one in made}) == 3
        assert made[0].split == made[1].split


# Splits.


def many(root: Path, count: int = 60) -> Path:
    return touch(root, *(f"images/{c}/{k}.jpg" for c in ("a", "b") for k in range(count)))


@pytest.mark.parametrize(
    ("count", "test", "val"),
    [(1, 0, 0), (2, 1, 0), (3, 1, 1), (12, 2, 1), (13, 3, 1), (200, 40, 20)],
)
def test_every_class_has_exactly_the_shares_asked_for(tmp_path, count, test, val):
    for seed in range(4):
        made, _ = read(many(tmp_path, count), seed=seed, val_share=0.1)
        for label in ("a", "b"):
            counts = Counter(one.split for one in made if one.label == label)
            assert (counts["test"], counts["val"]) == (test, val)


def test_the_items_of_the_lowest_hashes_are_chosen(tmp_path):
    """So an item stays in the test split until lower hashes have come for the whole share."""
    made, _ = read(many(tmp_path, 20), seed=3, val_share=0.2)
    for label in ("a", "b"):
        own = [one for one in made if one.label == label]
        own.sort(
            key=lambda one: hashlib.sha1(
                f"3:image/{label}/{one.source_path[9:-4]}".encode()
            ).digest()
        )
        assert [one.split for one in own] == ["test"] * 4 + ["val"] * 4 + ["train"] * 12


def test_few_items_change_their_split_when_others_are_added(tmp_path):
    before = splits(read(many(tmp_path))[0])
    after = splits(read(many(tmp_path, 66))[0])
    moved = [path for path in before if before[path] != after[path]]
    # 2 classes with 6 new items: the test split grows by one, and each new item moves at most one.
    assert len(moved) <= 2 * 6
    assert sum(split == "test" for split in after.values()) == 2 * 13
    assert splits(read(tmp_path, seed=1)[0]) != after


def test_listed_items_count_in_the_shares_of_their_class(tmp_path):
    root = many(tmp_path, 20)  # 4 of each class are of test
    write_csv(root, "path,split\nimages/a/0.jpg,test\nimages/a/1.jpg,test\nimages/b/0.jpg,train\n")
    got = splits(read(root)[0])
    assert got["images/a/0.jpg"] == got["images/a/1.jpg"] == "test" != got["images/b/0.jpg"]
    for label in ("a", "b"):
        assert sum(s == "test" for p, s in got.items() if p.startswith(f"images/{label}/")) == 4


def test_the_same_item_in_two_formats_is_of_one_split_also_if_one_is_listed(tmp_path):
    root = touch(tmp_path, "images/a/x.jpg", "images/a/x.png", "images/a/y.jpg")
    write_csv(root, "path,split\nimages/a/x.png,val\n")
    assert splits(read(root)[0]) == {
        "images/a/x.jpg": "val", "images/a/x.png": "val", "images/a/y.jpg": "test",
    }  # fmt: skip


def test_a_shape_keeps_its_split_when_its_views_are_made(tmp_path):
    root = touch(tmp_path, *(f"meshes/a/{k}.obj" for k in range(30)))
    before = {path.split("/")[-1][:-4]: split for path, split in splits(read(root)[0]).items()}
    touch(root, *(f"views/a/{k}/1.png" for k in range(30)))
    after = {path.split("/")[-1]: split for path, split in splits(read(root)[0]).items()}
    assert before == after


def test_the_split_does_not_depend_on_the_place_or_the_order_of_writing(tmp_path):
    paths = [f"images/{c}/{k}.jpg" for c in ("a", "b") for k in range(30)]
    touch(tmp_path / "one", *paths)
    touch(tmp_path / "two", *random.Random(0).sample(paths, len(paths)))
    first, second = (splits(read(tmp_path / name)[0]) for name in ("one", "two"))
    assert list(first.items()) == list(second.items())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [2, 3])
def test_a_class_of_two_or_more_has_train_and_test_items(tmp_path, count, seed):
    classes = [f"c{k}" for k in range(12)]
    root = touch(tmp_path, *(f"images/{c}/{k}.jpg" for c in classes for k in range(count)))
    for share in (0.05, 0.9):
        made, _ = read(root, seed=seed, test_share=share)
        for label in classes:
            assert {one.split for one in made if one.label == label} == {"train", "test"}


def test_a_share_of_nothing_or_of_all_is_kept(tmp_path):
    root = many(tmp_path, 5)
    assert set(splits(read(root, test_share=0)[0]).values()) == {"train"}
    assert set(splits(read(root, test_share=1)[0]).values()) == {"test"}
    assert "test_share and val_share are more than 1" in refused(root, val_share=0.9)


def write_csv(root: Path, text: str, encoding: str = "utf-8") -> None:
    (root / "split.csv").write_bytes(text.encode(encoding))


@pytest.mark.parametrize(
    "text",
    [
        "images/chair/0.jpg,test\nimages/chair,val\n",
        "path,split\nimages/chair,val\nimages/chair/0.jpg,test\n",
        "Path,Split\r\n\r\n./images/chair/ , VAL\r\nimages\\chair\\0.jpg,test\r\n",
        'path;split\nimages/chair;val\n"images/chair/0.jpg";test',
        "images/chair\tval\nimages/chair/0.jpg\ttest",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_table_decides_the_innermost_line_first(tree, text, encoding):
    write_csv(tree, text, encoding)
    made, findings = read(tree, test_share=0)
    got = splits(made)
    assert got.pop("images/chair/0.jpg") == "test"
    assert all((split == "val") == path.startswith("images/chair") for path, split in got.items())
    assert findings.warnings == []


def test_the_table_may_name_shapes_of_either_kind(tree):
    touch(tree, "meshes/chair/v1.obj")
    write_csv(tree, "views/chair/v0,test\nmeshes/chair/v1.obj,val\nmeshes/chair/m0.obj,val\n")
    got = splits(read(tree, test_share=0)[0])
    assert got["views/chair/v0"] == "test"
    assert got["views/chair/v1"] == got["meshes/chair/m0.obj"] == "val"


def test_the_table_decides_before_the_folder(tmp_path):
    root = touch(tmp_path, "images/train/a/1.jpg", "images/train/a/2.jpg", "images/test/a/3.jpg")
    write_csv(root, "images/train/a/2.jpg,val")
    assert list(splits(read(root)[0]).values()) == ["test", "train", "val"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/chair/1.jpg,tests", "line 3: unknown split 'tests'; did you mean 'test'?"),
        ("images/chair/0.jpg,val", "line 3: 'images/chair/0.jpg' is on line 2 too"),
        ("./images/chair/0.jpg,test", "line 3: 'images/chair/0.jpg' is on line 2 too"),
        ("images/chair/1.jpg", "line 3: 1 fields, expected path,split"),
        ("images/chair/a,b.jpg,test", "line 3: 3 fields, expected path,split; quote a path"),
        ("/etc/passwd,test", "line 3: '/etc/passwd'; give paths under"),
        ("../mine/images,test", "line 3: '../mine/images'; give paths under"),
    ],
)
def test_a_bad_line_of_the_table_is_named(tree, row, message):
    write_csv(tree, f"path,split\nimages/chair/0.jpg,test\n{row}\n")
    assert message in refused(tree)
    assert "split.csv'" in refused(tree)
    assert message in refused(tree, lenient=True)  # a guess could mix train and test


def test_a_line_for_a_file_that_is_not_there_is_a_defect(tree):
    write_csv(tree, "images/chair/0.jpg,val\nimages/chair/77.jpg,test\n")
    assert "split.csv' line 2: there is no 'images/chair/77.jpg' under" in refused(tree)
    made, findings = read(tree, lenient=True)
    assert splits(made)["images/chair/0.jpg"] == "val"
    assert [one.item for one in findings.skipped] == ["split.csv line 2"]


def test_a_line_of_no_item_is_noted(tree):
    write_csv(tree, "views/chair/v0/1.png,test\n")
    _, findings = read(tree)
    message = "1 lines of split.csv are of no item that is read (line 1 ('views/chair/v0/1.png'))"
    assert findings.warnings == [message]


def test_a_table_that_is_no_text_is_named(tree):
    write_csv(tree, "images/chair/0.jpg,tést", "latin-1")
    assert "is not a UTF-8 text" in refused(tree)


# What a new user meets.


def test_an_empty_root_is_answered_with_the_layouts(tmp_path):
    message = refused(touch(tmp_path, "chair/a.jpg"))
    assert message == (
        f"folder: no data under {str(tmp_path)!r}. Expected images/<class>/<picture>, "
        "sketches/<class>/<picture>, meshes/<class>/<mesh> or views/<class>/<shape>/<picture> "
        "(<class>/ may be left out) there. Found: 'chair/'."
    )
    assert "Found: no such folder" in refused(tmp_path / "gone")
    (tmp_path / "images").mkdir()
    message = refused(tmp_path)
    assert f"nothing to pack in 'images' under {str(tmp_path)!r}. Expected images/<" in message


def test_a_near_miss_is_answered_with_what_was_meant(tree, tmp_path):
    assert f"Did you mean {str(tree)!r}?" in refused(tree.parent)
    assert f"Did you mean {str(tree)!r}?" in refused(tree / "images")
    other = touch(tmp_path / "other", "image/chair/a.jpg")
    assert "Folder 'image'; did you mean 'images'?" in refused(other)


def test_folders_that_are_not_read_are_noted_and_letter_case_does_not_matter(tree):
    (tree / "images").rename(tree / "Images")
    touch(tree, "mesh/chair/a.obj", ".git/x", "README.md")
    made, findings = read(tree)
    assert by_source(made)["Images/chair/0.jpg"].stream == "image"
    assert findings.warnings == ["folder 'mesh' is not read; did you mean 'meshes'?"]


def test_pictures_one_level_too_deep_are_a_defect(tree):
    before = read(tree)[0]
    touch(tree, "images/chair/more/a.jpg")
    assert "'images/chair/more' holds pictures inside 'images/chair'; move them" in refused(tree)
    made, findings = read(tree, lenient=True)
    assert made == before
    assert [one.item for one in findings.skipped] == ["images/chair/more"]
    touch(tree, "meshes/chair/textures/a.png")  # no meshes: nothing to say
    assert read(tree, lenient=True)[0] == before
    touch(tree, "views/chair/v0/more/1.png")
    assert read(tree, lenient=True)[1].skipped[-1].item == "views/chair/v0/more"


def test_views_in_no_folder_of_a_shape_are_a_defect(tree):
    touch(tree, "views/1.png")
    assert "view 'views/1.png' is not in the folder of a shape" in refused(tree)
    (tree / "views/1.png").unlink()
    touch(tree, "views/chair/v9/notes.txt")
    assert "'views/chair/v9' holds no views" in refused(tree)
    assert read(tree, lenient=True)[1].skipped[0].item == "views/chair/v9"


def test_files_of_another_kind_are_noted_and_clutter_is_not(tree, tmp_path):
    before = read(tree)[0]
    touch(tree, "images/chair/readme.txt", "images/chair/b.svg", "images/chair/.DS_Store")
    touch(tree, "images/Thumbs.db", "meshes/chair/m0.mtl", "__MACOSX/x", "images/__MACOSX/y.jpg")
    (tree / "images/empty").mkdir()
    touch(tmp_path, "outside.jpg")
    (tree / "images/chair/link.jpg").symlink_to(tmp_path / "outside.jpg")
    made, findings = read(tree)
    assert made == before
    assert findings.warnings == [
        "'images/empty' holds no pictures",
        "2 files under 'images' are no pictures (first: 'images/chair/b.svg'); not read",
    ]


def test_two_folders_of_one_class_are_an_error(tree):
    touch(tree, "images/flower-pot/a.jpg")
    message = refused(tree)
    assert "folders 'images/Flower Pot' and 'images/flower-pot' are one class" in message


def test_a_class_on_one_side_only_is_a_warning_or_an_error(tree):
    touch(tree, "images/sofa/a.jpg", "meshes/couch/a.obj", "meshes/lamp/a.obj")
    _, findings = read(tree)
    assert findings.warnings == [
        "1 classes have images or sketches and no shapes: sofa; 'sofa' and 'couch' look like one "
        "class, give them one name",
        "2 classes have shapes and neither images nor sketches: couch, lamp; 'couch' and 'sofa' "
        "look like one class, give them one name",
    ]
    assert "an error because of --strict" in refused(tree, strict=True)


def test_classes_are_chosen_by_name(tree):
    made, _ = read(tree, classes=("flower_pot",))
    assert {one.label for one in made} == {"flower_pot"}
    assert "unknown class 'chairs'; did you mean 'chair'?" in refused(tree, classes=("chairs",))


def test_the_adapter_is_described():
    (adapter,) = ADAPTERS
    assert adapter.name == "folder"
    assert all(field.description for field in adapter.options.model_fields.values())


# Names in both of Unicode's forms: an archive from macOS has them decomposed.

COMPOSED, DECOMPOSED = "St\u00fchle", "Stu\u0308hle"


def test_a_class_in_two_forms_is_one_class(tmp_path):
    root = touch(
        tmp_path,
        f"images/{COMPOSED}/0.jpg",
        f"sketches/{DECOMPOSED}/0.jpg",
        f"meshes/{DECOMPOSED}/a.off",
    )
    made, findings = read(root)
    assert {one.label for one in made} == {"st\u00fchle"}
    assert findings.warnings == []
    assert [len(read(root, classes=[name])[0]) for name in (COMPOSED, DECOMPOSED)] == [3, 3]
    touch(root, f"images/{DECOMPOSED}/1.jpg")
    assert "are one class 'st\u00fchle'; rename or merge them" in refused(root)


def test_an_item_in_two_forms_is_one_item(tmp_path):
    root = touch(tmp_path, f"meshes/a/{COMPOSED}.off", f"views/a/{DECOMPOSED}/1.png")
    made = read(root)[0]
    assert [one.source_path for one in made] == [f"views/a/{DECOMPOSED}"]
    assert made[0].extra == {"mesh": f"meshes/a/{COMPOSED}.off"}
    other = touch(tmp_path / "other", f"views/a/{COMPOSED}/1.png")
    assert read(other)[0][0].key == made[0].key


@pytest.mark.parametrize("held", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("listed", [COMPOSED, DECOMPOSED])
def test_the_table_names_a_path_in_either_form(tmp_path, held, listed):
    root = touch(tmp_path, f"images/{held}/{held}.jpg", f"images/{held}/b.jpg")
    write_csv(root, f"images/{listed}/{listed}.jpg,val\nimages/{listed},test\n")
    made, findings = read(root)
    assert sorted(one.split for one in made) == ["test", "val"]
    assert findings.warnings == []
    write_csv(root, f"images/{COMPOSED}/b.jpg,val\nimages/{DECOMPOSED}/b.jpg,test\n")
    assert "is on line 1 too; list it once" in refused(root)


def test_a_picture_and_a_shape_of_one_class_and_name_are_one_instance(tmp_path):
    root = touch(
        tmp_path,
        "images/chair/Oslo.JPG", "images/chair/bergen.png", "images/table/oslo.jpg",
        "images/chair/Stu\u0308hle.jpg",  # as macOS spells it
        "sketches/chair/Oslo.png",
        "meshes/chair/Oslo.obj", "meshes/chair/oslo.ply", "meshes/chair/St\u00fchle.glb",
        "views/table/bergen/1.png", "views/table/oslo/1.png",
    )  # fmt: skip
    made, findings = read(root)
    instance = {source: one.instance for source, one in by_source(made).items()}
    assert instance == {
        "images/chair/Oslo.JPG": "chair/Oslo", "sketches/chair/Oslo.png": "chair/Oslo",
        "meshes/chair/Oslo.obj": "chair/Oslo", "meshes/chair/oslo.ply": "",
        "images/chair/bergen.png": "", "views/table/bergen": "",
        "images/table/oslo.jpg": "table/oslo", "views/table/oslo": "table/oslo",
        "images/chair/Stu\u0308hle.jpg": "chair/St\u00fchle",
        "meshes/chair/St\u00fchle.glb": "chair/St\u00fchle",
    }  # fmt: skip
    assert any(note.startswith("4 of 5 pictures have a shape of") for note in findings.warnings)


def test_nothing_is_said_of_pairs_where_there_are_none(tree):
    made, findings = read(tree)
    assert not any(one.instance for one in made)
    assert findings.warnings == []
