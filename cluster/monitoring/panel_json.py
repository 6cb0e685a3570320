"""One panel as Grafana's JSON model has it: queries, field configuration, options by type."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

from cluster.monitoring.panels import Panel

STATE_COLORS = ("blue", "purple", "green", "dark-green", "orange", "red")
LAST_VALUE = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def panel_json(
    panel: Panel, *, number: int, place: dict[str, int], source: dict[str, str]
) -> dict[str, Any]:
    """The panel with its id, grid position and data source."""
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": _field_defaults(panel), "overrides": []},
        "options": _options(panel),
        "targets": [
            _target(panel, letter, legend, expression, source)
            for letter, (legend, expression) in zip(
                ascii_uppercase, panel.expressions, strict=False
            )
        ],
    }


def _target(
    panel: Panel, letter: str, legend: str, expression: str, source: dict[str, str]
) -> dict[str, Any]:
    now_only = panel.kind in ("stat", "bargauge")
    return {
        "refId": letter,
        "datasource": source,
        "editorMode": "code",
        "expr": expression,
        "legendFormat": legend,
        "format": "heatmap" if panel.kind == "heatmap" else "time_series",
        "instant": now_only,
        "range": not now_only,
    }


def _field_defaults(panel: Panel) -> dict[str, Any]:
    """Unit, bounds and what a type draws its fields with."""
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "palette-classic"},
        "mappings": _mappings(panel.states),
        "thresholds": {"mode": "absolute", "steps": [{"color": "green", "value": None}]},
    }
    if panel.kind == "bargauge":
        defaults |= {"min": 0, "max": 1, "color": {"mode": "thresholds"}}
    if panel.kind == "timeseries":
        defaults["custom"] = _lines(panel)
    if panel.kind == "heatmap":
        defaults = {"custom": {"hideFrom": {"legend": False, "tooltip": False, "viz": False}}}
    if panel.kind == "state-timeline":
        defaults["custom"] = {"fillOpacity": 70, "lineWidth": 0, "spanNulls": False}
    return defaults


def _lines(panel: Panel) -> dict[str, Any]:
    scale = {"type": "log", "log": 10} if panel.logarithmic else {"type": "linear"}
    return {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 30 if panel.stacked else 0,
        "gradientMode": "none",
        "showPoints": "auto",
        "pointSize": 5,
        "spanNulls": False,  # a gap is a run that was not there
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "scaleDistribution": scale,
        "axisPlacement": "auto",
        "axisLabel": "",
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
    }


def _mappings(states: tuple[str, ...]) -> list[dict[str, Any]]:
    """Names and colours of the values 1, 2, .."""
    if not states:
        return []
    options = {
        str(value): {"text": state, "color": color, "index": value - 1}
        for value, (state, color) in enumerate(zip(states, STATE_COLORS, strict=True), 1)
    }
    return [{"type": "value", "options": options}]


def _options(panel: Panel) -> dict[str, Any]:
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    tooltip = {"mode": "multi", "sort": "desc"}
    if panel.kind == "timeseries":
        return {"legend": {**legend, "calcs": ["lastNotNull"]}, "tooltip": tooltip}
    if panel.kind == "state-timeline":
        return {
            "legend": legend,
            "tooltip": tooltip,
            "mergeValues": True,
            "showValue": "auto",
            "alignValue": "left",
            "rowHeight": 0.9,
        }
    if panel.kind == "heatmap":
        return _heatmap_options(panel.unit)
    if panel.kind == "bargauge":
        return {
            "reduceOptions": LAST_VALUE,
            "orientation": "horizontal",
            "displayMode": "basic",
            "showUnfilled": True,
            "valueMode": "color",
        }
    return {
        "reduceOptions": LAST_VALUE,
        "orientation": "auto",
        "textMode": "name" if panel.name_only else "value_and_name",
        "colorMode": "none",
        "graphMode": "none",
        "justifyMode": "auto",
        "wideLayout": True,
    }


def _heatmap_options(unit: str) -> dict[str, Any]:
    return {
        "calculate": False,  # the buckets are Prometheus' own
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
