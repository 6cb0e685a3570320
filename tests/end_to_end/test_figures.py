"""A figure of the papers, from the command to its files."""

from __future__ import annotations

import csv
import io

import pytest
from PIL import Image

from tests.command import call

FEW_STEPS = ("training.steps=2", "training.checkpoint_every=2")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_figure_is_trained_drawn_and_drawn_again(benchmark, tmp_path, monkeypatch, capfd):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "procedural-smoke").symlink_to(benchmark)
    monkeypatch.chdir(tmp_path)
    options = ("--quick", "--json", "--out", "made", *FEW_STEPS)
    strips = call(capfd, "figure", "astn-6", *options).json
    assert strips["ran"] == 1
    files = strips["figures"]["astn-6"]
    assert files == {e: f"made/astn-6-quick.{e}" for e in ("svg", "png", "csv")}
    with Image.open(files["png"]) as picture:
        assert picture.width > 600
    rows = list(csv.DictReader(io.StringIO((tmp_path / files["csv"]).read_text())))
    assert len(rows) == 6 * 8
    assert "image/png" in (tmp_path / files["svg"]).read_text()  # the pictures of the data
    # The cell is in the ledger that tables and figures share.
    again = call(capfd, "figure", "astn-6", *options).json
    assert again["ran"] == 0
    assert again["figures"] == strips["figures"]
    table = call(capfd, "table", "astn-3", "--quick", "--json", *FEW_STEPS).json
    assert table["ran"] == len(table["rows"]) - 1
    modules = call(capfd, "figure", "hifa-3", *options).json
    assert modules["ran"] == 3  # AlexNet is the table's
    assert {row["status"] for row in modules["rows"]} == {"finished"}
