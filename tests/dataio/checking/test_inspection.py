import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from dataio.checking.inspection import (
    Header,
    chosen,
    class_counts,
    describe,
    groups,
    one_sided,
    read_header,
)
from dataio.checking.sheet import contact_sheet
from dataio.packing.records_to_shards import pack
from dataio.records import DataError
from dataio.shards.manifest import Manifest
from dataio.shards.reading import content_member
from tests.dataio.packed import packed, picture, records


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return packed(tmp_path_factory.mktemp("inspection"))


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def saved(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "views", "expected"),
    [
        (encoded(np.zeros((20, 30, 3), np.uint8)), 0, Header(20, 30, 3)),
        (encoded(np.zeros((20, 30), np.uint8), "JPEG"), 0, Header(20, 30, 1)),
        (encoded(np.zeros((60, 20), np.uint8), "JPEG"), 3, Header(20, 20, 1)),
        (saved(np.zeros((3, 16, 16, 3), np.uint8)), 3, Header(16, 16, 3)),
        (saved(np.zeros((3, 16, 16), np.uint8)), 3, Header(16, 16, 1)),
    ],
)
def test_headers(data, views, expected):
    assert read_header(data, views=views, key="k") == expected


def test_a_header_of_nothing_is_an_error():
    with pytest.raises(DataError, match="sample 'k': no picture"):
        read_header(b"nothing at all", views=0, key="k")


def test_groups_and_class_counts(manifest):
    rows = groups(manifest)
    assert list(rows) == ["image/train", "shape/train", "shape/test"]
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(len(manifest)))
    counts = class_counts(manifest)
    assert counts["class0"] == {"image/train": 8, "shape/train": 4, "shape/test": 1}
    for kind, members in rows.items():
        assert sum(count.get(kind, 0) for count in counts.values()) == len(members)


def test_the_choice_is_fair_and_fixed(manifest):
    rows = np.arange(len(manifest))
    some = chosen(manifest, rows, 9)
    assert some.tolist() == sorted(set(some.tolist()))
    assert np.array_equal(some, chosen(manifest, rows[::-1], 9))
    assert set(chosen(manifest, rows, 5)) < set(some)
    assert len(chosen(manifest, rows, 99)) == len(manifest)


def test_classes_of_one_side(manifest):
    assert one_sided(manifest) == {}
    labels = manifest.labels.copy()
    labels[manifest.select("image", "train")] = "class0"
    labels[0] = None
    assert one_sided(dataclasses.replace(manifest, labels=labels)) == {
        "train": {"queries_only": [], "gallery_only": ["class1", "class2"]}
    }


def test_description(manifest):
    found = describe(manifest, sampled=7)
    assert (found["dataset"], found["samples"]) == ("tiny", 35)
    assert found["size_bytes"] == sum(shard.size_bytes for shard in manifest.shards)
    assert found["metadata"]["creator"] == "img2shape"
    images, shapes = found["groups"]["image/train"], found["groups"]["shape/train"]
    assert (images["samples"], images["classes"], images["unlabelled"]) == (22, 3, 0)
    assert (images["headers_read"], images["grey_share"]) == (7, 0.0)
    assert images["height"] == images["width"] == {"min": 32, "median": 32, "max": 32}
    assert "views" not in images
    assert shapes["views"] == {"min": 5, "median": 5, "max": 5}
    assert shapes["grey_share"] == 1.0
    rows = manifest.select("shape", "train")
    per_shard = np.unique(manifest.shard_ids[rows], return_counts=True)[1]
    assert shapes["shards"] == len(per_shard)
    assert shapes["samples_per_shard"]["max"] == per_shard.max()
    assert shapes["content_bytes"] == sum(content_member(manifest, r).size for r in rows.tolist())


# ---- contact sheet -----------------------------------------------------------------------------


def cell_at(sheet: Image.Image, *, top: int, column: int, cell: int) -> np.ndarray:
    left = 4 + column * (cell + 4)
    return np.asarray(sheet.crop((left, top, left + cell, top + cell))).astype(int)


def test_the_sheet_shows_each_class_and_each_view(tmp_path):
    """Three pictures and one shape of two views, all of one size: their pixels are on the sheet."""
    plain = list(records(tmp_path / "raw", images=3, shapes=1, views=2))
    manifest = pack(plain, tmp_path / "set", dataset="few", views="npy")
    sheet = contact_sheet(manifest, columns=3, rows=2, cell=32)
    assert sheet.mode == "RGB"
    assert sheet.width == 3 * 36 + 4
    first = 4 + 2 * 14  # below the title
    for column in (0, 2):  # class0, class2: PNG files
        shown = cell_at(sheet, top=first, column=column, cell=32)
        assert np.array_equal(shown, picture(column))
    second = first + (32 + 14 + 4) + 2 * 14
    for column in (0, 1):
        shown = cell_at(sheet, top=second, column=column, cell=32)
        assert np.array_equal(shown, picture(1000 + column, channels=1))
    assert (cell_at(sheet, top=second, column=2, cell=32) == 255).all()
    assert sheet.tobytes() == contact_sheet(manifest, columns=3, rows=2, cell=32).tobytes()


def test_a_damaged_sample_is_a_red_cell(tmp_path):
    manifest = pack(records(tmp_path / "raw", images=1, shapes=0), tmp_path / "set", dataset="one")
    place = content_member(manifest, 0)
    with open(tmp_path / "set" / manifest.shards[0].name, "r+b") as file:
        file.seek(place.offset)
        file.write(bytes(place.size))
    shown = cell_at(contact_sheet(manifest, columns=2, cell=32), top=32, column=0, cell=32)
    assert (shown == (255, 0, 0)).all()


def test_a_long_or_foreign_name_fits(tmp_path):
    plain = list(records(tmp_path / "raw", images=2, shapes=0))
    named = [
        dataclasses.replace(record, label=label)
        for record, label in zip(plain, ("w" * 200, "椅子"), strict=True)
    ]
    manifest = pack(named, tmp_path / "set", dataset="names")
    sheet = np.asarray(contact_sheet(manifest, columns=2, cell=32))
    below_title = 4 + 2 * 14
    assert (sheet[below_title:, 36:40] == 255).all()  # nothing runs into the gap between the cells
