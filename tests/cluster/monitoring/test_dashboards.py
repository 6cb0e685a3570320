"""Dashboards: valid for Grafana, complete, and about metrics that exist."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.monitoring.exported_metrics import METRICS, RUN_STATES, SWEEP_STATES, metric
from tests.cluster.promql import named
from tests.cluster.shipped_monitoring import ALERTS, BOARDS, expressions, marks, panels

# Ids of Grafana's units, of those it knows (its package `@grafana/data`, value formats).
UNITS = {"none", "short", "s", "bytes", "Bps", "percentunit"}
KINDS = {"timeseries", "stat", "heatmap", "state-timeline", "bargauge"}
# Labels that Prometheus gives (on Kubernetes its PodMonitor too), and a histogram's own.
GIVEN = {"namespace", "job", "instance", "le"}
EXPRESSIONS = [
    *(
        (f"{name}: {panel['title']}", expression)
        for name, board in BOARDS.items()
        for panel in panels(board)
        for _, expression in expressions(panel)
    ),
    *((f"{name}: {m['name']}", m["expr"]) for name, b in BOARDS.items() for m in marks(b)),
    *((name, rule["expr"]) for name, rule in ALERTS.items()),
]


@pytest.fixture(params=list(BOARDS))
def dashboard(request) -> Any:
    return BOARDS[request.param]


def unit(panel: dict[str, Any]) -> str:
    """Grafana's name of the unit that a panel shows."""
    if panel["type"] == "heatmap":
        return panel["options"]["yAxis"]["unit"]
    return panel["fieldConfig"]["defaults"]["unit"]


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
    assert {unit(panel) for board in BOARDS.values() for panel in panels(board)} <= UNITS


def test_variables_and_annotations(dashboard):
    source, owner = dashboard["templating"]["list"]
    assert (source["name"], source["type"]) == ("datasource", "datasource")
    assert owner["multi"] is owner["includeAll"] is True
    assert re.fullmatch(r"label_values\((\w+), (\w+)\)", owner["query"]["query"])
    for annotation in marks(dashboard):
        assert annotation["target"]["expr"] == annotation["expr"]
        assert "changes(" in annotation["expr"]
    assert dashboard["schemaVersion"] >= 39
    assert "id" not in dashboard  # Grafana's own; an import makes one


@pytest.mark.parametrize("name", BOARDS)
def test_panels_follow_the_chosen_runs(name):
    chosen = f'{name}=~"${name}"'
    for panel in panels(BOARDS[name]):
        for _, expression in expressions(panel):
            selectors = len(named(expression).selected)
            assert expression.count(chosen) == selectors, (panel["title"], expression)


@pytest.mark.parametrize("name", BOARDS)
def test_legends_name_labels_that_are_left(name):
    for panel in panels(BOARDS[name]):
        for legend, expression in expressions(panel):
            wanted = set(re.findall(r"{{(\w+)}}", legend))
            assert wanted <= named(expression).grouped, (panel["title"], legend)


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_names_and_labels_are_exported(where, expression):
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
        for board in BOARDS.values()
        for panel in panels(board)
        for _, expression in expressions(panel)
        for name in named(expression).metrics
    }
    assert shown == {entry.name for entry in METRICS}
