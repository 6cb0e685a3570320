"""One label space over data sets that name their classes differently."""

from __future__ import annotations

import pytest

from dataio.records import DataError
from dataio.shards.labels import match_classes, renamed
from tests.dataio.packed import packed

SHREC = ("armchair", "bed", "chair", "couch", "table")
PIX3D = ("bed", "bookcase", "chair", "sofa", "table")


def test_the_intersection_is_by_name_and_synonym():
    matched = match_classes({"shrec": SHREC, "pix3d": PIX3D})
    assert matched.classes == ("bed", "chair", "couch", "table")  # the first one's names
    assert matched.names[0] == {"bed": "bed", "chair": "chair", "couch": "couch", "table": "table"}
    assert matched.names[1]["sofa"] == "couch"
    assert "bookcase" not in matched.names[1]


def test_named_classes_keep_their_order_and_take_synonyms():
    matched = match_classes({"shrec": SHREC, "pix3d": PIX3D}, classes=["sofa", "bed"])
    assert matched.classes == ("sofa", "bed")
    assert matched.names == ({"couch": "sofa", "bed": "bed"}, {"sofa": "sofa", "bed": "bed"})


def test_a_mapping_adds_names_and_wins_over_synonyms():
    matched = match_classes(
        {"shrec": SHREC}, classes=["chair", "sofa"], mapping={"chair": ["armchair", "couch"]},
        required="none",
    )  # fmt: skip
    assert matched.names == ({"armchair": "chair", "chair": "chair", "couch": "chair"},)


def test_a_class_of_the_label_space_stands_for_no_other():
    matched = match_classes({"a": ("couch", "sofa")}, classes=["couch", "sofa"])
    assert matched.names == ({"couch": "couch", "sofa": "sofa"},)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"classes": ["bed", "chairs"]}, ["shrec", "'chairs'", "did you mean 'chair'?"]),
        (
            {"classes": ["armchair"], "required": "all"},
            ["pix3d", "'armchair'", "mapping: armchair"],
        ),
        ({"classes": ["bed"], "mapping": {"bad": ["x"]}}, ["'bad'", "did you mean 'bed'?"]),
        ({"classes": ["bed", "sofa"], "mapping": {"sofa": ["bed"]}}, ["'bed'", "both", "'sofa'"]),
        ({"classes": ["bed", "sofa"], "mapping": {"sofa": ["x"], "bed": ["x"]}}, ["'x'", "both"]),
    ],
)
def test_what_cannot_be_matched_is_told(options, told):
    with pytest.raises(DataError) as error:
        match_classes({"shrec": SHREC, "pix3d": PIX3D}, **options)
    for part in told:
        assert part in str(error.value)


def test_nothing_in_common_lists_both():
    with pytest.raises(DataError, match=r"no class in common \(a: bed; b: car\); give a mapping"):
        match_classes({"a": ["bed"], "b": ["car"]})


def test_a_missing_class_is_allowed_where_nobody_must_have_it():
    assert match_classes({"a": ["bed"]}, classes=["car"], required="none").names == ({},)


def test_renaming_changes_labels_and_numbers_but_not_the_content(tmp_path):
    manifest = packed(tmp_path)
    changed = renamed(manifest, {"class0": "zebra", "class1": "class1"})
    assert changed.classes == ("class1", "class2", "zebra")
    assert changed.fingerprint == manifest.fingerprint
    for old, new, number in zip(manifest.labels, changed.labels, changed.class_ids, strict=True):
        assert new == {"class0": "zebra"}.get(old, old)
        assert changed.classes[number] == new
    assert renamed(manifest, {"class0": "class0"}) is manifest


def test_two_names_become_one_class(tmp_path):
    changed = renamed(packed(tmp_path), {"class0": "class1"})
    assert changed.classes == ("class1", "class2")
    assert set(changed.class_ids.tolist()) == {0, 1}


def test_names_are_compared_in_one_unicode_form():
    composed, decomposed = "st\u00fchle", "stu\u0308hle"
    both = {"a": (composed, "bed"), "b": (decomposed, "bed")}
    for classes in (None, [composed, "bed"], [decomposed, "bed"]):
        matched = match_classes(both, classes=classes, required="all")
        assert set(matched.classes) == {composed, "bed"}
        assert (matched.names[0][composed], matched.names[1][decomposed]) == (composed, composed)
    matched = match_classes(
        {"a": (decomposed,), "b": ("chair",)}, classes=["chair"], mapping={"chair": [composed]}
    )
    assert matched.names == ({decomposed: "chair"}, {"chair": "chair"})
