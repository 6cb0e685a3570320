"""The Pix3D adapter on a small tree in the official layout; photos may be empty files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dataio.datasets.listing import hashed_split
from dataio.datasets.pix3d import ADAPTERS, Options, records
from dataio.findings import Findings
from dataio.packing.encoding import encode
from dataio.records import DataError, Record


def row(category: str, number: str, shape: str, /, **changes: Any) -> dict[str, Any]:
    """A row as in the published table; a value of None takes the key away."""
    suffix = changes.pop("suffix", "jpg")
    full = {
        "img": f"img/{category}/{number}.{suffix}",
        "category": category,
        "img_size": [640, 480],
        "mask": f"mask/{category}/{number}.png",
        "model": f"model/{category}/{shape}/model.obj",
        "truncated": False,
        "occluded": False,
        "slightly_occluded": True,
        "bbox": [100, 50, 300, 150],
        **changes,
    }
    return {key: value for key, value in full.items() if value is not None}


ROWS = [
    row("bed", "0001", "IKEA_A"),
    row("bed", "0002", "IKEA_A", suffix="tiff", truncated="True", occluded="False"),
    row("bed", "0003", "IKEA_B", occluded="true"),
    row("chair", "0001", "MARKUS", model="model/chair/MARKUS/model_1.5_2.0.obj"),
    row("chair", "0002", "MARKUS", model="model/chair/MARKUS/model_0.5_2.0.obj"),
    row("table", "1749", "LACK"),
]


def write(root: Path, rows: list[Any]) -> Path:
    root.mkdir(exist_ok=True)
    (root / "pix3d.json").write_text(json.dumps(rows))
    return root


def add_files(root: Path, rows: list[dict[str, Any]]) -> Path:
    for one in rows:
        for key in ("img", "model"):
            file = root / one[key]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        mask = root / one["mask"]
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (512, 384) if "1749" in one["mask"] else (640, 480), 255).save(mask)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return add_files(write(tmp_path / "pix3d", ROWS), ROWS)


def read(root: Path, *, lenient: bool = False, **options: Any) -> tuple[list[Record], Findings]:
    findings = Findings("pix3d", lenient=lenient)
    return records(root, Options(**options), findings), findings


def images(made: list[Record]) -> dict[str, Record]:
    return {one.source_path: one for one in made if one.stream == "image"}


def shapes(made: list[Record]) -> dict[str, Record]:
    return {one.source_path: one for one in made if one.stream == "shape"}


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(root, **options)
    return str(caught.value)


def test_photos_and_shape_folders_become_records(tree):
    made, _ = read(tree)
    assert list(images(made)) == [one["img"] for one in ROWS]
    assert list(shapes(made)) == [
        "model/bed/IKEA_A", "model/bed/IKEA_B", "model/chair/MARKUS", "model/table/LACK",
    ]  # fmt: skip
    markus = shapes(made)["model/chair/MARKUS"]
    assert markus.mesh == tree / "model/chair/MARKUS/model_0.5_2.0.obj"  # no model.obj: the first
    assert (markus.up_axis, markus.label) == ("+y", "chair")
    photo = images(made)["img/chair/0001.jpg"]
    assert photo.extra["shape_id"] == markus.extra["shape_id"] == "model/chair/MARKUS"
    assert photo.extra["model"] == "model/chair/MARKUS/model_1.5_2.0.obj"
    assert photo.key == f"pix3d-{photo.split}-chair-0001"
    assert images(made)["img/bed/0002.tiff"].extra["truncated"] is True
    assert len({one.key for one in made}) == len(made)
    assert read(tree)[0] == made


def test_a_model_obj_is_preferred_to_variants(tree):
    (tree / "model/chair/MARKUS/model.obj").touch()
    (tree / "model/chair/MARKUS/a.obj").touch()
    mesh = shapes(read(tree)[0])["model/chair/MARKUS"].mesh
    assert mesh is not None
    assert mesh.name == "model.obj"


def test_photos_are_cropped_to_the_padded_box(tree):
    assert images(read(tree)[0])["img/bed/0001.jpg"].crop == (80.0, 40.0, 320.0, 160.0)
    assert images(read(tree, padding=0)[0])["img/bed/0001.jpg"].crop == (100, 50, 300, 150)
    whole = images(read(tree, crop="none")[0])["img/bed/0001.jpg"]
    assert (whole.crop, whole.mask) == (None, None)


@pytest.mark.parametrize(
    "bbox", [[5, 5, 5, 9], [9, 5, 5, 9], [700, 0, 800, 9], [-9, -9, 0, 0], [float("nan"), 0, 9, 9]]
)
def test_a_box_of_no_use_keeps_the_photo_whole_and_is_noted(tree, bbox):
    write(tree, [{**ROWS[0], "bbox": bbox}, *ROWS[1:]])
    made, findings = read(tree)
    assert images(made)["img/bed/0001.jpg"].crop is None
    assert any(
        note.startswith("1 photos have an empty box")
        and "pix3d.json[0] ('img/bed/0001.jpg')" in note
        for note in findings.warnings
    )


def test_masks_are_for_crop_mask_alone(tree):
    assert all(one.mask is None for one in images(read(tree)[0]).values())
    masked = images(read(tree, crop="mask")[0])
    assert masked["img/bed/0001.jpg"].mask == tree / "mask/bed/0001.png"
    assert masked["img/bed/0001.jpg"].crop == (80.0, 40.0, 320.0, 160.0)


def test_the_known_bad_mask_is_never_used(tree):
    made, findings = read(tree, crop="mask")
    assert images(made)["img/table/1749.jpg"].mask is None
    message = (
        "table/1749: mask 512x384, image 640x480. Known bad mask; it is not used, row kept "
        "(drop_known_bad=true to drop)"
    )
    assert message in findings.warnings
    assert "img/table/1749.jpg" not in images(read(tree, drop_known_bad=True)[0])


def test_another_mask_of_the_wrong_size_is_a_defect(tree):
    Image.new("L", (10, 20)).save(tree / "mask/bed/0001.png")
    message = refused(tree, crop="mask")
    assert "bed/0001: mask 10x20, image 640x480" in message
    assert "pass crop=bbox" in message
    made, findings = read(tree, crop="mask", lenient=True)
    assert "img/bed/0001.jpg" not in images(made)
    assert [one.item for one in findings.skipped] == ["img/bed/0001.jpg"]
    (tree / "mask/bed/0001.png").unlink()
    assert "mask 'mask/bed/0001.png' is missing or no picture" in refused(tree, crop="mask")


def test_clean_drops_truncated_and_occluded_photos_written_either_way(tree):
    made, _ = read(tree, clean=True)
    assert set(images(made)) == {one["img"] for one in (ROWS[0], *ROWS[3:])}
    assert "model/bed/IKEA_B" in shapes(made)


@pytest.mark.parametrize(
    ("bad", "options", "message"),
    [
        (row("bed", "9", "X", bbox=None), {}, "pix3d.json[6] ('img/bed/9.jpg'): lacks 'bbox'"),
        (row("bed", "9", "X", img=None), {}, "pix3d.json[6]: lacks 'img'"),
        (
            row("bed", "9", "X", category=None, model=None),
            {},
            "pix3d.json[6] ('img/bed/9.jpg'): lacks 'category', 'model'",
        ),
        (row("bed", "9", "X", truncated=None), {"clean": True}, "lacks 'truncated'"),
        (row("bed", "9", "X", occluded="maybe"), {}, "occluded 'maybe', expected true or false"),
        (row("bed", "9", "X", bbox=[1, 2, 3]), {}, "bbox [1, 2, 3], expected [x0, y0, x1, y1]"),
        (row("bed", "9", "X", bbox=7), {}, "bbox 7, expected"),
        (row("bed", "9", "X", img="img/../9.jpg"), {}, "expected img/<category>/<file>"),
        (row("bed", "9", "X", img="/etc/passwd"), {}, "expected img/<category>/<file>"),
        (
            row("bed", "9", "X", model="model/bed/a.obj"),
            {},
            "model 'model/bed/a.obj', expected model/<category>/<shape>/<file>",
        ),
        (row("bed", "9", "X", category="chair"), {}, "category 'chair', but its model is a 'bed'"),
        (ROWS[1], {}, "('img/bed/0002.tiff'): the photo is also in pix3d.json[1]"),
        ("text", {}, "pix3d.json[6]: a str, expected an object"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tree, bad, options, message):
    write(tree, [*ROWS, bad])
    assert message in refused(tree, **options)
    made, findings = read(tree, lenient=True, **options)
    assert len(findings.skipped) == 1
    write(tree, ROWS)
    assert made == read(tree, **options)[0]


def test_a_missing_photo_is_named(tree):
    (tree / "img/bed/0001.jpg").unlink()
    assert "pix3d.json[0] ('img/bed/0001.jpg'): there is no such photo under" in refused(tree)
    made, findings = read(tree, lenient=True)
    assert len(images(made)) == 5
    assert [one.item for one in findings.skipped] == ["img/bed/0001.jpg"]


def test_a_photo_that_links_out_of_the_root_is_missing(tree, tmp_path):
    (tmp_path / "outside.jpg").touch()
    (tree / "img/bed/0001.jpg").unlink()
    (tree / "img/bed/0001.jpg").symlink_to(tmp_path / "outside.jpg")
    assert "there is no such photo" in refused(tree)


def test_a_missing_shape_is_named_once(tree):
    (tree / "model/bed/IKEA_A/model.obj").unlink()
    assert "shape folder 'model/bed/IKEA_A' holds no .obj file" in refused(tree)
    (tree / "model/bed/IKEA_A").rmdir()
    message = "pix3d.json[0] ('img/bed/0001.jpg'): there is no shape folder 'model/bed/IKEA_A'"
    assert message in refused(tree)
    made, findings = read(tree, lenient=True)
    assert [one.item for one in findings.skipped] == ["model/bed/IKEA_A"]
    assert len(images(made)) == 6  # the photos are of use without their own shape
    assert len(shapes(made)) == 3


def test_counts_other_than_the_published_ones_are_a_warning_or_an_error(tree):
    _, findings = read(tree)
    message = "found 6 photos and 4 shapes of 3 categories; published are 10,069, 395 and 9"
    assert message in findings.warnings
    with pytest.raises(DataError, match=message):
        records(tree, Options(), Findings("pix3d", strict=True))


def test_splits_are_by_hash_of_the_path(tree):
    made, _ = read(tree, seed=3, test_share=0.5)
    assert all(one.split == hashed_split(one.source_path, seed=3, test_share=0.5) for one in made)
    assert {one.split for one in read(tree, test_share=1)[0]} == {"test"}
    assert {one.split for one in read(tree, test_share=0)[0]} == {"train"}


def coco(root: Path, name: str, numbers: list[int]) -> str:
    names = [{"file_name": ROWS[number]["img"]} for number in numbers]
    (root / name).write_text(json.dumps({"images": names, "annotations": []}))
    return name


def test_split_files_decide_for_photos_and_their_shapes(tree):
    files = {
        "train_file": coco(tree, "train.json", [0, 1, 3]),
        "test_file": coco(tree, "test.json", [2, 4]),
    }
    made, findings = read(tree, test_share=0, **files)
    assert [one.split for one in images(made).values()] == [
        "train",
        "train",
        "test",
        "train",
        "test",
    ]
    assert {path: one.split for path, one in shapes(made).items()} == {
        "model/bed/IKEA_A": "train",
        "model/bed/IKEA_B": "test",
        "model/chair/MARKUS": "test",  # shown in both
        "model/table/LACK": "train",  # shown in none, by hash
    }
    assert "1 photos are in neither split file; left out" in findings.warnings
    assert "1 shapes are shown by photos of both splits; they are of test" in findings.warnings


def test_bad_split_files_are_named(tree):
    train = coco(tree, "train.json", [0, 1])
    assert "train_file needs test_file too" in refused(tree, train_file=train)
    both = coco(tree, "test.json", [1])
    message = refused(tree, train_file=train, test_file=both)
    assert "'test.json' images[0]: 'img/bed/0002.tiff' is in 'train.json' too" in message
    (tree / "odd.json").write_text('{"images": [{"file_name": "img/bed/x.jpg"}]}')
    message = refused(tree, train_file=train, test_file="odd.json")
    assert "'odd.json' images[0]: 'img/bed/x.jpg' is not in pix3d.json" in message
    (tree / "odd.json").write_text('{"images": ["img/bed/x.jpg"]}')
    assert "no images[].file_name" in refused(tree, train_file=train, test_file="odd.json")
    assert "cannot read" in refused(tree, train_file=train, test_file="gone.json")


def test_a_table_that_is_no_json_or_no_list_is_named(tree):
    (tree / "pix3d.json").write_text('[{"img": 1},\n {"img" 2}]')
    assert re.search(r"pix3d\.json' line 2 column 9: not JSON", refused(tree))
    (tree / "pix3d.json").write_text('{"img": 1}')
    assert "holds a dict, expected a list of objects" in refused(tree)


def test_a_root_elsewhere_is_answered_with_what_is_expected(tree):
    message = refused(tree.parent)
    assert "Expected pix3d.json, img/<category>/ and model/<category>/<shape>/ there" in message
    assert f"Did you mean {str(tree)!r}?" in message
    doubled = tree / "pix3d"
    doubled.mkdir()
    for name in ("img", "mask", "model", "pix3d.json"):
        (tree / name).rename(doubled / name)
    assert len(read(tree)[0]) == 10


def test_classes_are_chosen_by_name(tree):
    made, _ = read(tree, classes=("chair",))
    assert {one.label for one in made} == {"chair"}
    assert "unknown class 'chairs'; did you mean 'chair'?" in refused(tree, classes=("chairs",))


def test_the_name_is_the_first_part_of_the_keys(tree):
    assert all(one.key.startswith("mine-") for one in read(tree, name="mine")[0])


def test_a_photo_can_be_encoded_with_its_mask(tree):
    Image.new("RGB", (640, 480), "red").save(tree / "img/bed/0001.jpg")
    record = images(read(tree, crop="mask")[0])["img/bed/0001.jpg"]
    encoded = encode(record, image_size=None, views="stack", render=None)
    assert (encoded.suffix, encoded.views) == ("jpg", 0)


def test_the_adapter_is_described():
    (adapter,) = ADAPTERS
    assert adapter.name == "pix3d"
    assert all(field.description for field in adapter.options.model_fields.values())


def test_a_photo_of_another_size_than_its_box_is_for_is_a_defect(tree):
    Image.new("RGB", (60, 40)).save(tree / "img/bed/0001.jpg")
    message = refused(tree)
    assert "pix3d.json[0] ('img/bed/0001.jpg'): photo 60x40, pix3d.json says 640x480" in message
    assert "restore the file, pass crop=none" in message
    made, findings = read(tree, lenient=True)
    assert "img/bed/0001.jpg" not in images(made)
    assert [one.item for one in findings.skipped] == ["img/bed/0001.jpg"]
    assert "img/bed/0001.jpg" in images(read(tree, crop="none")[0])


def test_the_box_is_for_the_size_in_the_table(tree):
    Image.new("RGB", (480, 640)).save(tree / "img/bed/0001.jpg")  # may be turned by EXIF
    assert images(read(tree)[0])["img/bed/0001.jpg"].drawn_on == (640, 480)


def test_a_photo_and_its_shape_are_one_instance(tree):
    made, _ = read(tree)
    for one in made:
        assert one.instance == one.extra["shape_id"] != ""
    pictured = {one.instance for one in images(made).values()}
    assert pictured <= {one.instance for one in shapes(made).values()}
