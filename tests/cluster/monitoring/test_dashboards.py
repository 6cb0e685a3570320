"""Dashboards: valid for Grafana, complete, and about metrics that exist."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.monitoring.alerts import ALERTS
from cluster.monitoring.dashboard_json import BOARDS, dashboard_text, dashboards
from cluster.monitoring.exported_metrics import METRICS, RUN_STATES, SWEEP_STATES, metric
from cluster.monitoring.reference import renewed
from tests.cluster.promql import named
from tests.command import ROOT, call

# Ids of Grafana's units, of those it knows (its package `@grafana/data`, value formats).
UNITS = {"none", "short", "s", "bytes", "Bps", "percentunit"}
KINDS = {"timeseries", "stat", "heatmap", "state-timeline", "bargauge"}
# Labels that Prometheus gives (on Kubernetes its PodMonitor too), and a histogram's own.
GIVEN = {"namespace", "job", "instance", "le"}
EXPRESSIONS = [
    *((f"{b.name}: {p.title}", e) for b in BOARDS for p in b.panels() for _, e in p.expressions),
    *((f"{b.name}: {a.name}", a.expression) for b in BOARDS for a in b.annotations),
    *((a.name, a.expression) for a in ALERTS),
]


@pytest.fixture(params=[board.name for board in BOARDS])
def dashboard(request) -> Any:
    return dashboards()[request.param]


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def cells(panel: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """The places of Grafana's grid that a panel covers."""
    at = panel["gridPos"]
    yield from itertools.product(
        range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
    )


def test_ids_are_unique_and_no_panel_covers_another(dashboard):
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    covered = [cell for panel in dashboard["panels"] for cell in cells(panel)]
    assert len(covered) == len(set(covered))
    assert {x for x, _ in covered} == set(range(24))


def test_rows_and_titles(dashboard):
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(titles) == len(set(titles))
    if dashboard["uid"] == "img2shape-run":
        assert [p["title"] for p in dashboard["panels"] if p["type"] == "row"] == [
            "Progress and loss",
            "Adaptation health",
            "Throughput and time budget",
            "Reliability",
        ]


def test_every_panel_has_what_grafana_needs(dashboard):
    for panel in panels(dashboard):
        title = panel["title"]
        assert panel["type"] in KINDS, title
        assert panel["description"], title
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
        assert panel["targets"], title
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters)), title
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"], title
            assert target["instant"] != target["range"], title


def test_units_are_grafanas():
    assert {p.unit for b in BOARDS for p in b.panels()} <= UNITS


def test_variables_and_annotations(dashboard):
    source, owner = dashboard["templating"]["list"]
    assert (source["name"], source["type"]) == ("datasource", "datasource")
    assert owner["multi"] is owner["includeAll"] is True
    assert re.fullmatch(r"label_values\((\w+), (\w+)\)", owner["query"]["query"])
    for annotation in dashboard["annotations"]["list"][1:]:
        assert annotation["target"]["expr"] == annotation["expr"]
        assert "changes(" in annotation["expr"]
    assert dashboard["schemaVersion"] >= 39
    assert "id" not in dashboard  # Grafana's own; an import makes one


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_panels_follow_the_chosen_runs(board):
    chosen = f'{board.variable}=~"${board.variable}"'
    for panel in board.panels():
        for _, expression in panel.expressions:
            selectors = len(named(expression).selected)
            assert expression.count(chosen) == selectors, (panel.title, expression)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_legends_name_labels_that_are_left(board):
    for panel in board.panels():
        for legend, expression in panel.expressions:
            wanted = set(re.findall(r"{{(\w+)}}", legend))
            assert wanted <= named(expression).grouped, (panel.title, legend)


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_names_and_labels_are_the_catalogues(where, expression):
    found = named(expression)
    assert found.selected
    known: set[str] = set(GIVEN)
    for name, chosen in found.selected:
        entry = metric(name)  # KeyError: no such metric
        known |= set(entry.label_names)
        assert {label for label, _ in chosen} <= set(entry.label_names), name
        states = {"run": RUN_STATES, "sweep": SWEEP_STATES}[entry.of]
        for label, value in chosen:
            if label == "state":
                assert set(value.split("|")) <= set(states), expression
    assert found.grouped <= known


def test_every_metric_is_shown():
    shown = {
        name
        for board in BOARDS
        for panel in board.panels()
        for _, expression in panel.expressions
        for name in named(expression).metrics
    }
    assert shown == {entry.name for entry in METRICS}


def test_the_command_writes_the_same_bytes_each_time(tmp_path, capfd):
    told = call(capfd, "dashboards", "--out", tmp_path / "a", "--json").json
    assert told == {"files": [str(tmp_path / "a" / name) for name in FILES]}
    assert call(capfd, "dashboards", "--out", tmp_path / "b").code == 0
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for name, board in dashboards().items():
        text = (tmp_path / "a" / f"{name}.json").read_text()
        assert text == dashboard_text(board)
        assert json.loads(text) == board


FILES = ("run.json", "sweep.json", "alerts.yaml")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    complaint = call(capfd, "dashboards", "--out", tmp_path / "file" / "d").complaint
    assert str(tmp_path / "file") in complaint


def test_the_page_has_every_metric_panel_and_alert_as_the_code_has_them():
    page = (ROOT / "docs/monitoring.md").read_text()
    assert renewed(page) == page, "python -m cluster.monitoring.reference docs/monitoring.md"


def test_a_page_without_a_place_is_refused():
    with pytest.raises(ValueError, match="metrics"):
        renewed("# Monitoring\n")
