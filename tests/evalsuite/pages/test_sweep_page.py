"""A sweep's page: complete, self-contained, safe with hostile words, usable at any size."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path
from typing import Any

import pytest

from evalsuite.pages.sweep_page import write_sweep_page
from evalsuite.pages.sweep_plots import TransferMatrix
from evalsuite.pages.sweep_rows import axis_words, best_first, cell_words, main_metric, seed_table
from evalsuite.tables.result_table import Column, Entry, build_table
from tests.evalsuite.fake_rows import grid, ledger_row, unfinished_row
from tests.evalsuite.pages.test_report import Page

SECTIONS = ["summary", "cells", "transfer", "settings", "curves", "failed", "stopped", "skipped"]
EVIL = '</td><script>alert(1)</script><img src=x onerror="alert(2)">'
MATRIX = TransferMatrix(
    "astn",
    ("photos", "shapes"),
    ("photos", "shapes"),
    {("photos", "shapes"): 0.5123, ("shapes", "photos"): 0.25},
    reasons={("photos", "photos"): "a domain is no target of itself"},
)
SKIPPED = [
    {"cell": {"method": "siamese", "transfer": name}, "reason": "siamese has no classifier"}
    for name in ("a -> b", "b -> a")
]


def written(folder: Path, rows: list[dict[str, Any]], **more: Any) -> Page:
    settings = {"title": "A sweep", "planned": {}, "links_from": folder, **more}
    return Page(write_sweep_page(rows, folder / "some" / "report.html", **settings))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    cell = {"method": "dann", "transfer": "a -> b", "training.seed": 0}
    fast, slow = {"optimizer.learning_rate": 10.0}, {"optimizer.learning_rate": 1.0}
    return [
        *grid(),
        unfinished_row(cell | fast, "failed", "the loss is not finite at step 12"),
        unfinished_row(cell | slow, "stopped", "stopped early at step 200 (im 0.2)"),
    ]


@pytest.fixture(scope="module")
def page(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / rows[0]["run"]).mkdir(parents=True)
    (folder / rows[0]["run"] / "report.html").write_text("")
    planned = {"counts": {"planned": 28}, "skipped": SKIPPED}
    return written(folder, rows, planned=planned, matrices=[MATRIX])


def section(page: Page, name: str) -> str:
    return page.source.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def sections(page: Page) -> list[str]:
    """Names of the sections; the contents list the same ones."""
    found = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    contents = page.source.partition("<nav")[2].partition("</nav>")[0]
    assert re.findall('href="#([a-z]+)"', contents) == found
    return found


def words(source: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split())


def table_rows(page: Page) -> list[list[str]]:
    """The words of every cell of the table of finished cells; end tags of td are left out."""
    body = section(page, "cells").partition("<tbody>")[2].partition("</tbody>")[0]
    split = [re.split(r"<t[dh][^>]*>", row)[1:] for row in body.split("<tr>")[1:]]
    return [[words(cell) for cell in row] for row in split]


def test_page_needs_nothing_from_outside_and_has_its_sections(page: Page) -> None:
    assert not re.search(r"https?://|@import|//cdn", page.source)
    assert sections(page) == SECTIONS
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = {value[1:] for value in page.values("href") if value.startswith("#")}
    assert set(SECTIONS) <= targets <= set(ids)
    assert all("#" in target for target in re.findall(r"url\(([^)]*)\)", page.source))


def test_both_modes_paper_and_known_colours(page: Page) -> None:
    for rule in ("prefers-color-scheme: dark", "@media print", "tabular-nums"):
        assert rule in page.source
    used = set(re.findall(r"var\(--((?:run|class)-\d+)\)", page.source))
    assert used <= set(re.findall(r"--((?:run|class)-\d+):", page.source))
    assert "#0200" not in page.source
    assert all(a["aria-label"] for tag, a in page.tags if tag == "svg" and "role" in a)


def test_counts_by_state(page: Page) -> None:
    found = re.findall(r"<li><b>(\d+)</b> ([a-z ]+)</li>", page.source)
    states = ["28 planned", "24 finished", "1 stopped", "1 failed", "2 skipped"]
    assert [" ".join(pair) for pair in found] == states


def test_the_table_holds_every_finished_cell_best_first(
    page: Page, rows: list[dict[str, Any]]
) -> None:
    head = section(page, "cells").partition("<thead>")[2].partition("</thead>")[0]
    names = [words(name) for name in re.split(r"<th [^>]*>", head)[1:]]
    assert names[:5] == ["method", "transfer", "learning_rate", "seed", "NN"]
    finished = [row for row in rows if row["status"] == "finished"]
    expected = sorted((row["metrics"]["mAP"] for row in finished), reverse=True)
    table = table_rows(page)
    column = names.index("mAP")
    assert [row[column] for row in table] == [f"{value:.3f}" for value in expected]
    assert {len(row) for row in table} == {len(names)}
    first = max(finished, key=lambda row: row["metrics"]["mAP"])
    assert table[0][:2] == ["astn", first["cell"]["transfer"]]
    assert table[0][names.index("mAP †")] == f"{first['oracle']['metrics']['mAP']:.3f}"
    assert "im on target_shapes/train, step 400" in table[0]
    assert table[0][names.index("images/s")] == "512.3"
    assert table[0][names.index("CPU h")] == "0.035"
    low, high = first["intervals"]["FT"]
    assert f"[{low:.3f}, {high:.3f}]" in section(page, "cells")


def test_only_runs_with_a_report_are_linked(page: Page, rows: list[dict[str, Any]]) -> None:
    links = [value for value in page.values("href") if not value.startswith("#")]
    assert links == [f"../{rows[0]['run']}/report.html"]


def test_a_run_elsewhere_and_with_odd_signs_is_linked(tmp_path: Path) -> None:
    run = tmp_path / "other store" / "cells" / "a#1?"
    run.mkdir(parents=True)
    (run / "report.html").write_text("")
    row = ledger_row({"method": "astn"}, run=str(run))
    page = written(tmp_path / "store", [row])
    links = [value for value in page.values("href") if not value.startswith("#")]
    assert links == ["../../other%20store/cells/a%231%3F/report.html"]


def test_failed_stopped_and_skipped_have_their_reasons(page: Page) -> None:
    assert "the loss is not finite at step 12" in section(page, "failed")
    assert "stopped early at step 200" in section(page, "stopped")
    skipped = words(section(page, "skipped"))
    assert "siamese has no classifier (2)" in skipped
    assert "siamese · b -> a" in skipped


def test_matrix_holds_values_and_missing_cells(page: Page) -> None:
    found = section(page, "transfer")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", found)
    assert "0.512" in texts
    assert "0.250" in texts
    assert texts.count("–") == 2
    assert "a domain is no target of itself" in found


def test_an_oracle_is_marked_and_is_not_the_best(tmp_path: Path) -> None:
    told = {"selected": {"selection": "oracle (mAP on val)", "step": 3}, "selection": "oracle"}
    rows = [
        ledger_row({"method": "astn"}, level=0.9, **told),
        ledger_row({"method": "dann"}, level=0.3),
    ]
    page = written(tmp_path, rows)
    table = table_rows(page)
    assert table[0][0] == "astn"
    assert all(cell.endswith("†") for cell in table[0][1:10])
    assert not any("†" in cell for cell in table[1])
    best = words(page.source.partition("<dt>Best mAP")[2].partition("</div>")[0])
    assert "dann · one seed" in best


@pytest.mark.parametrize("methods", [("source-only", "dann"), (None,)])
def test_the_headline_is_the_best_mean_over_seeds(methods: Any, tmp_path: Path) -> None:
    values = {("source-only", 0): 0.5, ("source-only", 1): 0.6, ("dann", 0): 0.7, ("dann", 1): 0.3}
    rows = [
        ledger_row(
            ({"method": name} if name else {}) | {"training.seed": seed},
            metrics={"mAP": values[name or "dann", seed]},
            method=name or "dann",
        )
        for name in methods
        for seed in (0, 1)
    ]
    page = written(tmp_path, rows)
    best = words(page.source.partition("<dt>Best mAP")[2].partition("</div>")[0])
    # The t quantile of two values is 12.706: for 0.5 and 0.6 times 0.0707 / sqrt 2.
    both = "dann" in methods
    expected = "0.550 ± 0.635 source-only" if both else "0.500 ± 2.541 dann"
    assert best == f"{expected} · mean over 2 seeds with its 95 % interval"


def test_hostile_words_stay_text(tmp_path: Path) -> None:
    cell = {"method": EVIL, EVIL: EVIL, "x.rate": 0.1}
    rows = [
        ledger_row(cell, curve=[{"step": 1, "mAP": 0.5}], selection=EVIL, selected=None),
        ledger_row(cell | {"x.rate": 0.2}),
        unfinished_row(cell, "failed", EVIL),
        unfinished_row(cell, "stopped", EVIL),
    ]
    matrix = TransferMatrix(EVIL, (EVIL,), (EVIL,), {}, metric="mAP", reasons={(EVIL, EVIL): EVIL})
    page = written(
        tmp_path,
        rows,
        title=EVIL,
        planned={"skipped": [{"cell": {"a": EVIL}, "reason": EVIL}], "counts": {EVIL: 1}},
        matrices=[matrix],
    )
    assert page.count("script") == 1
    assert page.count("img") == 0
    assert "onerror" not in {key for _, attrs in page.tags for key in attrs}


def test_no_row_and_one_row(tmp_path: Path) -> None:
    empty = written(tmp_path, [])
    assert "No cell is finished." in empty.source
    assert sections(empty) == ["cells"]
    one = written(tmp_path, [ledger_row({"method": "astn"})])
    assert len(table_rows(one)) == 1
    assert sections(one) == ["cells", "curves"]
    assert 'aria-label="mAP of astn over the training steps"' in section(one, "curves")


def test_only_failures(tmp_path: Path) -> None:
    page = written(tmp_path, [unfinished_row({"method": "astn"}, "failed", "x" * 5000)])
    assert "No cell is finished." in page.source
    assert sections(page) == ["cells", "failed"]
    assert "x" * 600 + "…" in section(page, "failed")
    assert "x" * 601 not in page.source


def test_numbers_that_are_none_or_not_finite(tmp_path: Path) -> None:
    none = dict.fromkeys(("NN", "FT", "mAP"))
    row = ledger_row({"method": "astn"}, metrics=none, oracle=None, images_per_second=math.nan)
    curve = [{"step": 1, "mAP": None, "loss": math.nan}, {"step": 2, "mAP": 0.4, "loss": 1.0}]
    other = ledger_row({"method": "dann"}, curve=curve, intervals={"FT": [None, 1.0]})
    page = written(tmp_path, [row, other])
    assert [found[0] for found in table_rows(page)] == ["dann", "astn"]
    assert "nan" not in words(section(page, "cells"))


def test_same_rows_give_the_same_bytes(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    pages = [written(tmp_path / name, rows, matrices=[MATRIX]).source for name in ("a", "b")]
    assert pages[0] == pages[1]


@pytest.mark.slow
def test_five_thousand_cells(tmp_path: Path) -> None:
    rates = [10 ** (-index / 20) for index in range(40)]
    rows = grid(rates=rates, seeds=21)[:5000]
    page = written(tmp_path, rows)
    assert len(page.source.encode()) < 10_000_000
    assert len(table_rows(page)) == 5000
    assert "5 000 cells" in page.source
    assert "Drawn are 400 of 5 000 cells" in page.source
    assert "8 of 1 680 runs" in page.source
    assert 'class="scroll tall"' in page.source


def test_given_tables_take_the_place_of_the_one_over_seeds(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert "Means over seeds" in written(tmp_path, rows).source
    columns = [Column("mi3dor", ("NN",))]
    table = build_table("ASTN 3", columns, [Entry("AFE only", published={"mi3dor": {"NN": 0.6}})])
    page = written(tmp_path, rows, tables=[table])
    assert "Means over seeds" not in page.source
    assert "AFE only" in section(page, "summary")


def test_seeds_are_put_together_by_setting() -> None:
    rows = grid()
    table = seed_table(rows)
    assert table is not None
    assert [column.name for column in table.columns] == ["a -> b", "b -> a"]
    assert [row.label for row in table.rows][:2] == [
        "source-only · learning_rate 0.1",
        "source-only · learning_rate 0.001",
    ]
    own = [r for r in rows if r["cell"]["transfer"] == "a -> b" and r["method"] == "astn"]
    own = [r["metrics"]["FT"] for r in own if r["cell"]["optimizer.learning_rate"] == 0.001]
    place = [(p.column, p.metric) for p in table.places].index(("a -> b", "FT"))
    value = table.rows[-1].lines[0].values[place]
    assert value.mean == pytest.approx(sum(own) / 2)
    assert value.seeds == 2
    assert value.interval is None  # that of one run is not that of their mean
    assert table.selections == ("im",)


def test_rows_are_ordered_by_a_metric_of_either_direction() -> None:
    rows = [
        ledger_row({"method": name}, metrics={"ANMRR": value})
        for name, value in (("a", 0.5), ("b", None), ("c", 0.2))
    ]
    assert main_metric(rows) == "ANMRR"
    assert [cell_words(row, ["method"]) for row in best_first(rows, "ANMRR")] == ["c", "a", "b"]


def test_short_axis_names_stay_apart() -> None:
    assert axis_words(["method.rate", "optimizer.rate", "training.seed"]) == [
        "method.rate",
        "optimizer.rate",
        "seed",
    ]


def test_words_at_parallel_axes_are_whole_and_inside(tmp_path: Path) -> None:
    """The place, anchor and size of each text, against the edges of the drawing."""
    long = "pre-trained on the other, fine-tuned"
    rows = [
        ledger_row({"row": row, "a name that is rather long": name, "training.seed": seed})
        for seed, (row, name) in enumerate([(long, "a"), ("short", "b" * 30), (long, "b" * 30)])
    ]
    drawn = section(written(tmp_path, rows), "settings")
    viewbox = re.search(r'viewBox="0 0 ([0-9.]+) ', drawn)
    assert viewbox
    width = float(viewbox[1])
    texts = re.findall(r"<text ([^>]*)>([^<]*)</text>", drawn)
    assert {long, "b" * 30, "a name that is rather long"} <= {text for _, text in texts}
    for attributes, text in texts:
        x = re.search(r"translate\(([0-9.-]+) ", attributes) or re.search(
            r'x="([0-9.-]+)"', attributes
        )
        assert x
        size = 5.0 * len(text)  # 0.52 of the smaller size, the mean sign of common faces
        start = {"end": size, "middle": size / 2}.get(
            (re.search(r"text-anchor: (\w+)", attributes) or ["", "start"])[1], 0.0
        )
        assert float(x[1]) - start >= 0, text
        assert float(x[1]) - start + size <= width, text


def test_wide_tables_say_that_they_scroll(page: Page) -> None:
    """A shade that stays at the edge, and paper over it that moves with the table's end."""
    rule = page.source.partition(".scroll {")[2].partition("}")[0]
    assert "overflow-x: auto" in rule
    assert rule.count("var(--shade)") == rule.count("no-repeat scroll") == 2
    assert rule.count("var(--paper)") == rule.count("no-repeat local") == 2
    assert page.source.count("--shade:") == 2  # light and dark


def test_columns_of_a_result_table_stand_below_each_other(tmp_path: Path) -> None:
    columns = [Column("first data", ("NN", "FT")), Column("second data", ("NN",))]
    ours = {"first data": [{"NN": 0.5, "FT": 0.25}], "second data": [{"NN": 0.75}]}
    figures = {"first data": {"NN": 0.125}}
    table = build_table("t", columns, [Entry("row a", published=figures, ours=ours)])
    shown = section(written(tmp_path, [], tables=[table]), "summary")
    first, second = shown.split("second data")
    assert words(second) == "NN row a ours 0.750"
    assert words(first).endswith(
        "first data NN FT rank row a ours 0.500 0.250 – published 0.125 – – difference +0.375 –"
    )
