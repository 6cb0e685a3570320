"""The dashboards and alerts of k8s/monitoring, taken apart as the tests ask for them."""

from __future__ import annotations

import re
from typing import Any

from cluster.monitoring.shipped import FOLDER, dashboards, rule_groups

__all__ = ["ALERTS", "BOARDS", "RULES_TEXT", "condition", "expressions", "marks", "panels"]

BOARDS = dashboards()  # JSON by name: run, sweep
ALERTS = {rule["alert"]: rule for group in rule_groups() for rule in group["rules"]}
RULES_TEXT = (FOLDER / "alerts.yaml").read_text()

_CONDITION = re.compile(r"\((.*?)\n?\) ((?:==|>=|>|<) [\d.]+)$", re.S | re.M)


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels without the headings of rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions(panel: dict[str, Any]) -> list[tuple[str, str]]:
    """Legend and PromQL of each query."""
    return [(target["legendFormat"], target["expr"]) for target in panel["targets"]]


def marks(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations without Grafana's own, which is the first."""
    return board["annotations"]["list"][1:]


def condition(rule: dict[str, Any]) -> tuple[str, str]:
    """PromQL of the number that an alert judges and shows, and its comparison, such as `> 0.3`."""
    found = _CONDITION.match(rule["expr"])
    assert found, f"{rule['alert']}: expr does not begin with (VALUE) > THRESHOLD"
    return found[1], found[2]
