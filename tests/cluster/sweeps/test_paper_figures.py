"""The papers' figures: files that load, cells that parse, each kind drawn from a made-up ledger."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.sweeps import Store
from cluster.sweeps.figures.figure_description import PaperFigure, value_label
from cluster.sweeps.figures.figure_results import draw
from cluster.sweeps.figures.paper_figures import figure_names, load_figure, load_figures
from cluster.sweeps.tables.part_runs import Filling
from cluster.sweeps.tables.table_description import DATA_CHOICES
from cluster.sweeps.tables.table_points import place_of, table_points, table_skips
from evalsuite.figures import save_drawing
from evalsuite.vectors import EvaluationError
from tests.cluster.sweeps.test_paper_tables import RETRIEVAL, config_of, described, points
from tests.command import ROOT, call
from tests.evalsuite.fake_runs import write_run
from trainer.config import ConfigError

FIGURES = ROOT / "configs" / "figures"
NAMES = figure_names()
EXPECTED = {
    **{"astn-3": "lines", "astn-4": "bars", "astn-5": "t-sne", "astn-6": "strips"},
    **{"hifa-3": "t-sne"},
    **{"ftspl-2": "strips", "ftspl-3": "strips", "ftspl-4": "precision-recall"},
    **{"ftspl-5": "precision-recall", "ftspl-6": "t-sne", "ftspl-7": "t-sne"},
    **{"dca-4": "precision-recall", "dca-5": "precision-recall"},
    **{"daisnet-3": "strips", "daisnet-4": "t-sne"},
}


def test_all_figures_with_numbers_are_there():
    assert {name: load_figure(name).kind for name in NAMES} == EXPECTED
    assert [figure.name for figure in load_figures("DAIS-NET")] == ["daisnet-3", "daisnet-4"]
    assert [figure.name for figure in load_figures("all")] == list(NAMES)
    curves = {name: load_figure(name).curve for name in ("dca-4", "dca-5", "ftspl-4", "ftspl-5")}
    assert list(curves.values()) == ["shrec", "shrec", "pooled", "pooled"]
    shown = {name: load_figure(name).shown for name in ("astn-6", "ftspl-2", "daisnet-3")}
    assert list(shown.values()) == [8, 10, 4]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", DATA_CHOICES)
def test_every_override_is_a_valid_description(name, data):
    figure = load_figure(name)
    found = table_points(figure, data)
    skips = table_skips(figure, data)
    columns = figure.columns_on(data)
    places = {(row.label, column) for row in figure.trained_rows for column in columns}
    assert {place_of(point.labels) for point in found} == places - set(skips)
    assert len(found) == figure.seeds * len(places)
    for point in found:
        config_of(point)


@pytest.mark.parametrize("name", NAMES)
def test_quick_cells_are_small_and_headers_say_the_command(name):
    figure = load_figure(name)
    for point in table_points(figure, quick=True):
        assert config_of(point).training.steps <= 20
    text = (FIGURES / f"{name}.yaml").read_text()
    assert f"# Command:    img2shape figure {name} [--data procedural|catalogue|real]" in text
    assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.parametrize("data", DATA_CHOICES)
def test_rows_of_figures_are_cells_of_the_tables(data):
    """What a table has trained is drawn without training; only parameters and modules that no
    table has are cells of figures alone."""
    of_tables = {described(config_of(p)) for own in points(data).values() for p in own}
    alone = set()
    for name in NAMES:
        for point in table_points(load_figure(name), data, seeds=[0]):
            if described(config_of(point)) not in of_tables:
                alone.add((name, *place_of(point.labels)))
    assert len(RETRIEVAL) > 10
    others = {one for one in alone if one[0] != "astn-3"}
    pairs = ("shrec14->pix3d", "pix3d->shrec14")
    wanted = {("astn-5", "DSA, instances", "mi3dor")}
    wanted |= {("daisnet-4", "without DA", column) for column in pairs}
    if data != "catalogue":  # table 3 is about MI3DOR alone; the catalogue stands in for both
        wanted |= {("astn-4", row, "mi3dor-2") for row in ("Only AFE", "Only DSA")}
    assert others == wanted


def test_lines_are_over_the_values_of_the_parameters():
    figure = load_figure("astn-3")
    keys = {parameter.key: parameter.values for parameter in figure.parameters}
    assert keys.keys() == {"method.theta", "method.alpha"}
    for row, [theta, alpha] in ((row, figure.parameters) for row in figure.rows):
        for point in table_points(figure, "real", seeds=[0]):
            label = point.labels["row"]
            config: Any = config_of(point).method
            named = [value_label(row, theta, v) == label for v in theta.values]
            value = config.theta if any(named) else config.alpha
            assert label == value_label(row, theta if any(named) else alpha, value)


def write(folder: Path, **changes: Any) -> Path:
    tree: dict[str, Any] = {
        "title": "Mine",
        "source": "astn",
        "figure": 9,
        "kind": "bars",
        "setting": "photos",
        "columns": ["mi3dor"],
        "rows": [{"label": "ASTN", "method": "astn"}],
        **changes,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}))
    return path


THETA = {"name": "θ", "key": "method.theta", "values": [0.1, 0.5]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "lines"}, "parameters: kind lines needs some"),
        ({"parameters": [THETA]}, "parameters: kind lines needs some, the other kinds have none"),
        ({"kind": "lines", "parameters": [THETA]}, "metrics: kind lines needs some"),
        ({"parameters": [{**THETA, "values": [0.5, 0.1]}]}, "do not ascend"),
        ({"parameters": [{**THETA, "published_at": 0.3}]}, "published_at: 0.3 is none of the"),
        ({"kind": "pie"}, "kind"),
        ({"source": None}, "source: name the paper"),
        ({"curve": "round"}, "curve"),
        ({"columns": ["mi3dor2"]}, "columns: no column 'mi3dor2'; did you mean 'mi3dor-2'"),
        (
            {"rows": [{"label": "a", "method": "astn", "quoted": [3], "published": "none"}]},
            "row 'a': no such figures in table 3 of astn",
        ),
        ({"rows": [{"label": "a", "method": "astn", "quoted": [9]}]}, "no retrieval table '9'"),
    ],
)
def test_a_bad_figure_says_what_is_wrong(tmp_path, changes, message):
    path = write(tmp_path, **changes)
    with pytest.raises(ConfigError) as error:
        load_figure(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("astn-33", "no figure 'astn-33'; did you mean 'astn-3'"),
        ("fspl-4", "no figure 'fspl-4'; did you mean 'ftspl-4'"),
        ("none.yaml", "none.yaml: no such file; configs/figures/ holds ready ones"),
    ],
)
def test_an_unknown_figure_is_refused(name, words, capfd):
    assert words in call(capfd, "figure", name).complaint


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--data", "reel"], "--data reel: one of procedural, catalogue, real"),
        (["--data", "real", "--quick"], "leave --quick out"),
        (["--data", "catalogue"], "img2shape data pack sh3f --root FOLDER --out data/catalogue"),
        (["training.stepz=4"], "unknown key 'training.stepz'"),
    ],
)
def test_a_mistake_is_refused(args, words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert words in call(capfd, "figure", "astn-5", *args).complaint


def test_the_list_has_every_figure(capfd):
    found = call(capfd, "figure", "--json").json["figures"]
    assert tuple(found) == NAMES
    assert found["astn-3"] == "Metrics over θ and α"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """A store whose cells are made-up runs of every strength."""
    folder = tmp_path_factory.mktemp("store")
    for seed, method in enumerate(("source-only", "dann", "astn")):
        write_run(folder / "cells" / str(seed), method, queries=4, shapes=5, steps=3)
    return Store(folder)


def filled(figure: PaperFigure, *, seeds: int = 2) -> Filling:
    """Runs in all places but the last row's, which failed."""
    runs: dict[tuple[str, str], list[Any]] = {}
    rows = figure.trained_rows
    for place, row in enumerate(rows):
        for column in figure.columns_on("procedural"):
            runs[row.label, column] = [
                {
                    "key": f"{place:016x}",
                    "metrics": dict.fromkeys(("mAP", *figure.metrics), place / 20 + seed / 10),
                    "run": f"cells/{(place + seed) % 3}",
                    "error": None,
                    "config": {},
                }
                for seed in range(seeds)
            ]
    if len(rows) > 1:
        last = rows[-1].label
        for column in figure.columns_on("procedural"):
            runs[last, column] = [{"key": "f", "metrics": None, "error": "out of memory"}]
    return Filling(runs)


def drawn(name: str, store: Store, folder: Path, monkeypatch) -> tuple[str, list[dict[str, str]]]:
    """The words of the SVG and the rows of the CSV."""
    monkeypatch.setattr("cluster.sweeps.figures.figure_results._pictures", lambda _rows: None)
    figure = load_figure(name)
    files = save_drawing(draw(figure, filled(figure), store), folder / name)
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert files["png"].stat().st_size > 5000
    return files["svg"].read_text(), rows


def test_lines_from_a_ledger_have_the_papers_values_beside(store, tmp_path, monkeypatch):
    svg, rows = drawn("astn-3", store, tmp_path, monkeypatch)
    assert "ASTN, figure 3: Metrics over θ and α" in svg
    assert "rings: tables 1 and 2 of the paper" in svg
    assert len(rows) == 2 * 2 * 5 * 7
    published = {(r["panel"], r["x"], r["metric"]): r["published"] for r in rows if r["published"]}
    assert {x for _, x, _ in published} == {"0.3"}
    assert published["ASTN · style a", "0.3", "FT"] == "0.647"
    assert published["ASTN · style b", "0.3", "FT"] == "0.597"
    first = next(r for r in rows if r["x"] == "0.3" and r["metric"] == "NN")
    assert (float(first["value"]), first["seeds"]) == (pytest.approx(0.1), "2")
    assert rows[-1]["seeds"] == "0"  # the last value's runs failed


def test_bars_from_a_ledger_are_distances_of_the_domains(store, tmp_path, monkeypatch):
    svg, rows = drawn("astn-4", store, tmp_path, monkeypatch)
    assert "proxy A-distance" in svg
    assert [row["row"] for row in rows[:4]] == ["MSTN", "Only AFE", "Only DSA", "DSA + AFE"]
    assert rows[3]["missing"] == "failed: out of memory"
    assert all(0 <= float(row["value"]) <= 2 for row in rows if row["value"])
    assert rows[0]["seeds"] == "2"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ftspl-4", "dca-4"])
def test_curves_from_a_ledger(name, store, tmp_path, monkeypatch):
    """The made-up runs have a pooled curve alone, as those of older versions."""
    _, rows = drawn(name, store, tmp_path, monkeypatch)
    assert {row["seeds"] for row in rows} <= {"2"}
    assert bool(rows) == (name == "ftspl-4")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["astn-5", "daisnet-4"])
def test_domains_from_a_ledger(name, store, tmp_path, monkeypatch):
    svg, rows = drawn(name, store, tmp_path, monkeypatch)
    assert "failed: out of memory" in " ".join(svg.split())
    assert {row["domain"] for row in rows} == {"image", "shape"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["astn-6", "daisnet-3"])
def test_strips_from_a_ledger(name, store, tmp_path, monkeypatch):
    figure = load_figure(name)
    svg, rows = drawn(name, store, tmp_path, monkeypatch)
    panels = len({row["panel"] for row in rows})
    assert panels == len(figure.columns)
    assert len(rows) == panels * figure.queries * figure.shown
    assert {row["right"] for row in rows} <= {"0", "1"}
    assert figure.notes[0] in svg


def test_a_run_folder_that_is_gone_is_told(store, tmp_path):
    figure = load_figure("astn-6")
    filling = filled(figure)
    for place, rows in filling.runs.items():
        filling.runs[place] = [{**rows[0], "run": "cells/gone"}]
    with pytest.raises(EvaluationError, match=r"gone: the folder of cell 0{16} is gone; bring it"):
        draw(figure, filling, store)
