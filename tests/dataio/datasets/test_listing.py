"""What the adapters share: keys, splits by hash, classes that are kept, folders and text files."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from dataio.datasets.listing import (
    Keys,
    class_folders,
    exact_splits,
    hashed_split,
    is_picture,
    kept_classes,
    located,
    read_text,
    visible,
)
from dataio.records import DataError
from tests.dataio.mi3dor_tree import touch


def test_a_key_names_its_parts():
    keys = Keys("My Set")
    assert keys.make("test", "bed", "b_1", source="x") == "my_set-5175bae0-test-bed-b_1"
    assert Keys("s").make("val", None, "A.off", source="x").startswith("s-val-a_off-")


def test_a_taken_key_gets_the_digest_of_its_source():
    keys = Keys("s")
    first, second = (keys.make("test", "bed", "b", source=s) for s in ("a/b.png", "a/b.jpg"))
    assert first == "s-test-bed-b"
    assert second == "s-test-bed-b-" + hashlib.sha1(b"a/b.jpg").hexdigest()[:8]
    with pytest.raises(DataError, match=r"s: 'a/b\.jpg' is listed twice"):
        keys.make("test", "bed", "b", source="a/b.jpg")
    taken = Keys("s", taken=[first])
    assert taken.make("test", "bed", "b", source="a/b.jpg") == second


def test_a_long_key_is_cut_and_stays_unique_and_stable():
    long = ["x" * 200, "x" * 200 + "y", "\udcff" * 300]

    def made() -> list[str]:
        keys = Keys("s")
        ids = [*long, long[0]]
        return [keys.make("test", "bed", i, source=str(n)) for n, i in enumerate(ids)]

    assert made() == made()
    assert len(set(made())) == 4
    assert max(map(len, made())) == 90
    assert all(re.fullmatch(r"s-test-bed-[a-z0-9_-]+", key) for key in made())


def test_the_hashed_split_of_an_item_depends_on_itself_and_the_seed_alone():
    ids = [f"shape{k}" for k in range(1000)]
    split = {i: hashed_split(i, seed=0, test_share=0.2) for i in ids}
    assert 150 < sum(s == "test" for s in split.values()) < 250
    assert split != {i: hashed_split(i, seed=1, test_share=0.2) for i in ids}
    assert {hashed_split(i, seed=0, test_share=0.0) for i in ids} == {"train"}
    assert {hashed_split(i, seed=0, test_share=1.0) for i in ids} == {"test"}
    digest = int(hashlib.sha1(b"0:shape0").hexdigest()[:16], 16)
    assert split["shape0"] == ("test" if digest < 0.2 * 2**64 else "train")


def test_exact_splits_count_items_and_keep_a_unit_of_several_classes_whole():
    chosen = exact_splits(
        [{"a": 1, "b": 3, "c": 2, "d": 2}, {"b": 1, "e": 1}, {"f": 1}],
        test_share=0.375,
        val_share=0.25,
        given={"c": "val"},
    )
    # The first class wants 3 of test: a, then d (b has 3), and its 2 of val are c.
    # The second wants one of test; b is of train already, so e.
    assert chosen == {
        "a": "test", "b": "train", "c": "val", "d": "test", "e": "test", "f": "train",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (0, (0.5, 0.5), (0, 0)), (1, (0.5, 0.5), (1, 0)), (1, (0.2, 0.1), (0, 0)),
        (2, (0.01, 0.01), (1, 0)), (3, (0.01, 0.01), (1, 1)), (10, (0.25, 0.0), (3, 0)),
        (10, (1.0, 0.0), (10, 0)), (10, (0.0, 1.0), (0, 10)), (4, (0.9, 0.1), (4, 0)),
        (5, (0.98, 0.0), (4, 0)),
    ],
)  # fmt: skip
def test_exact_splits_have_the_nearest_whole_number(count, shares, expected):
    test, val = shares
    chosen = exact_splits([dict.fromkeys(range(count), 1)], test_share=test, val_share=val)
    counted = Counter(chosen.values())
    assert (counted["test"], counted["val"]) == expected
    in_order = sorted(chosen.values(), key=("test", "val", "train").index)
    assert list(chosen.values()) == in_order


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (None, {"couch", "bed", "table"}),
        (("Bed",), {"bed"}),
        (("sofa", "TABLE"), {"couch", "table"}),
        ((), set()),
    ],
)
def test_classes_are_kept_by_name_or_synonym(wanted, kept):
    assert kept_classes(["couch", "bed", "table"], wanted, dataset="s") == kept


def test_a_class_by_its_own_name_brings_no_synonyms():
    assert kept_classes(["couch", "sofa"], ["sofa"], dataset="s") == {"sofa"}


def test_an_unknown_class_is_answered_with_the_nearest():
    with pytest.raises(DataError, match=r"s: classes: unknown class 'Tabel'; did you mean 'table'"):
        kept_classes(["bed", "table"], ["Tabel"], dataset="s")


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        *((f"a.{s}", True) for s in ("jpg", "JPEG", "Png", "webp", "bmp", "gif", "tif", "TIFF")),
        ("a.txt", False),
        ("jpg", False),
        (".png", False),
        ("folder.png", False),
    ],
)
def test_pictures_are_told_by_their_suffix(tmp_path, name, picture):
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    else:
        touch(tmp_path, name)
    with os.scandir(tmp_path) as entries:
        assert [is_picture(entry) for entry in entries] == [picture]


def test_clutter_and_links_out_of_the_root_are_not_visible(tmp_path):
    root = tmp_path / "root"
    touch(root, "b/x", "a", ".DS_Store", "._a", "Thumbs.db", "desktop.ini", "__MACOSX/a")
    touch(tmp_path, "outside")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "in").symlink_to(root / "a")
    assert [entry.name for entry in visible(root, root=root)] == ["a", "b", "in"]


def test_class_folders_that_are_one_class(tmp_path):
    touch(tmp_path, "Night Stand/x", "bed/x", "a.txt")
    assert list(class_folders(tmp_path, root=tmp_path, dataset="s")) == ["bed", "night_stand"]
    touch(tmp_path, "night_stand/x")
    with pytest.raises(DataError, match=r"'Night Stand' and 'night_stand'.*one class"):
        class_folders(tmp_path, root=tmp_path, dataset="s")


def test_a_text_is_read_without_mark_and_with_plain_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffbed\r\nstühle\n".encode())
    assert read_text(tmp_path / "a.txt", dataset="s") == "bed\nstühle\n"


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("stühle".encode("latin-1"))
    with pytest.raises(DataError, match=r"s: '.*a\.txt' is not a UTF-8 text \(byte 2\)"):
        read_text(tmp_path / "a.txt", dataset="s")
    with pytest.raises(DataError, match=r"s: cannot read '.*b\.txt': No such file"):
        read_text(tmp_path / "b.txt", dataset="s")


def test_a_root_is_located_with_a_hint(tmp_path):
    def here(folder: Path) -> bool:
        return (folder / "data.txt").is_file()

    root = tmp_path / "set" / "inner"
    touch(root, "inner/data.txt", "readme")
    assert located(root, here, dataset="s", expected="data.txt") == root / "inner"
    message = (
        f"s: no data under {str(root.parent)!r}. Expected data.txt there. Found: 'inner/'. "
        f"Did you mean {str(root)!r}?"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        located(root.parent, here, dataset="s", expected="data.txt")
    with pytest.raises(DataError, match="Found: no such folder"):
        located(tmp_path / "nowhere", here, dataset="s", expected="data.txt")
