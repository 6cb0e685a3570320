"""Every table of the papers, from the command to the figures beside the published ones."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from cluster.sweeps.tables.paper_tables import load_table, table_names
from cluster.sweeps.tables.table_description import PaperTable
from cluster.sweeps.tables.table_points import table_skips
from tests.command import call

FEW_STEPS = ("training.steps=2", "training.checkpoint_every=2")  # instead of the eight of --quick

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def place(benchmark, tmp_path_factory) -> Path:
    """A working directory with the smallest benchmark, and a store that all tables share."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "data").mkdir()
    (folder / "data" / "procedural-smoke").symlink_to(benchmark)
    return folder


def test_all_tables_are_run_and_stand_beside_the_papers(place, benchmark_b, monkeypatch, capfd):
    made = []

    def make(out, *, size, style, seed):
        made.append((out.name, size, style, seed))
        if not out.exists():
            out.symlink_to(benchmark_b)

    monkeypatch.chdir(place)
    monkeypatch.setattr("cluster.sweeps.tables.part_runs.make_benchmark", make)
    result = call(capfd, "table", "all", "--quick", "--json", "--to", "all.csv", *FEW_STEPS).json
    assert set(made) == {
        ("procedural-smoke", "smoke", "a", 0),
        ("procedural-smoke-b", "smoke", "b", 0),
    }
    assert {row["status"] for row in result["rows"]} == {"finished"}
    assert len(result["tables"]) == len(table_names()) == 21
    for name, found in zip(table_names(), result["tables"], strict=True):
        require_filled(load_table(name), found)
    lines = list(csv.DictReader(io.StringIO((place / "all.csv").read_text())))
    assert {line["table"] for line in lines} == {table["title"] for table in result["tables"]}
    assert {line["side"] for line in lines} >= {"ours", "published"}
    assert Path(result["page"]).exists()
    # Tables share their cells, and what one has is there for another.
    options = ("--quick", "--json", "--to", "one.tex", *FEW_STEPS)
    one = call(capfd, "table", "ftspl-IV", *options).json
    assert one["ran"] == 0
    assert one["tables"][0] == result["tables"][table_names().index("ftspl-4")]
    assert "toprule" in (place / "one.tex").read_text()


def require_filled(table: PaperTable, found: Any) -> None:
    """Every row that can be trained has numbers of ours, and the paper's stand beside."""
    labels = [row["label"].removesuffix(" (ours: tiny)") for row in found["rows"]]
    assert labels == [row.label for row in table.rows]
    skips = table_skips(table)
    published = 0
    for row, shown in zip(table.rows, found["rows"], strict=True):
        sides = {line["side"]: line["values"] for line in shown["lines"]}
        trained = row.method is not None and any(
            (row.label, column) not in skips for column in table.columns
        )
        assert ("ours" in sides) == trained, (table.name, row.label, shown)
        published += sum(v["mean"] is not None for v in sides.get("published", []))
        if trained and table.kind == "retrieval":
            means = [value["mean"] for value in sides["ours"] if value["mean"] is not None]
            assert means
            assert all(0 <= mean <= 1 for mean in means)
    assert published > 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["astn-33"], "no table 'astn-33'; did you mean"),
        (["astn-3", "--data", "reel"], "--data reel: one of procedural, catalogue, real"),
        (["astn-3", "--to", "t.doc"], "--to t.doc: the ending is one of .md, .tex, .csv, .html"),
        (["astn-3", "--selection", "ims"], "did you mean 'im'?"),
        (["astn-3", "--quick", "--data", "real"], "leave --quick out"),
        (["astn-3", "training.stepz=4"], "unknown key 'training.stepz'"),
        (["astn-3", "--data", "real"], "data/mi3dor"),
        (
            ["astn-3", "--data", "catalogue"],
            "img2shape data pack sh3f --root FOLDER --out data/cat",
        ),
        (["astn-3", "--data", "catalogue", "--quick"], "leave --quick out"),
    ],
)
def test_a_mistake_is_refused(args, words, place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    assert words in call(capfd, "table", *args).complaint
