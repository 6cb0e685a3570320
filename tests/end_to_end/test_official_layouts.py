"""The papers' tables on their own data sets: small trees in the official layouts are packed, then
trained on and printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import call
from tests.end_to_end.official_trees import TREES

# What a processor trains in a moment, in place of the papers' trunks and lengths.
SMALL = (
    *("network.backbone=tiny", "network.weights=none", "network.tiny_width=8"),
    *("network.image_size=32", "data.train_views=1"),
    *("training.steps=2", "training.checkpoint_every=2", "training.loader_workers=0"),
)
BALANCED = ("method.classes_per_batch=2", "method.samples_per_class=2", "data.num_classes=null")
TABLES = {
    "ftspl-4": (("mi3dor", "mi3dor-2"), ("training.batch=4", "data.num_classes=null")),
    "dca-1": (("shrec13",), BALANCED),
    "dca-2": (("shrec14",), BALANCED),
    "daisnet-1": (("shrec14", "pix3d"), ("training.batch=4", "network.preprocessing=null")),
    "daisnet-2": (
        ("shrec14", "imagenet", "shapenet-v2"),
        ("training.batch=4", "network.preprocessing=null"),
    ),
}

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working directory with the official trees under raw/."""
    folder = tmp_path_factory.mktemp("official")
    for name, make in TREES.items():
        make(folder / "raw" / name)
    return folder


@pytest.mark.parametrize("table", TABLES)
def test_a_papers_table_from_packing_to_print(table, place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    names, overrides = TABLES[table]
    for name in names:
        if not Path("data", name).exists():
            # ImageNet's tree holds one synset of a class; the mapping names several.
            more = ["--lenient"] if name == "imagenet" else []
            pack = ["--root", f"raw/{name}", "--out", f"data/{name}", "--size", "64"]
            assert call(capfd, "data", "pack", name, *pack, *more).code == 0
    result = call(
        capfd, "table", table, "--data", "real", "--seeds", "1", "--json", *SMALL, *overrides
    ).json
    assert {row["status"] for row in result["rows"]} == {"finished"}
    sides = [line["side"] for row in result["tables"][0]["rows"] for line in row["lines"]]
    assert "ours" in sides
    assert "published" in sides
