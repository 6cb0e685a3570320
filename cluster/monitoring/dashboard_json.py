"""Dashboards as Grafana imports and provisions them: the classic JSON model.

The model is that of Grafana's documentation ("Dashboard JSON model", schema version 39, Grafana 10
to 13); options are those of each panel type of these versions. The same code gives the same bytes.
"""

from __future__ import annotations

import json
from typing import Any

from cluster.monitoring.panel_json import panel_json
from cluster.monitoring.panels import GRID_WIDTH, Annotation, Board
from cluster.monitoring.run_board import RUN_BOARD
from cluster.monitoring.sweep_board import SWEEP_BOARD

BOARDS = (RUN_BOARD, SWEEP_BOARD)
SCHEMA_VERSION = 39
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
PANEL_HEIGHT = 8


def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard by the name of its file, without ``.json``."""
    return {board.name: _dashboard(board) for board in BOARDS}


def dashboard_text(dashboard: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def _dashboard(board: Board) -> dict[str, Any]:
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["img2shape"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,  # one cross-hair in all panels
        "timezone": "browser",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "refresh": "30s",
        "weekStart": "",
        "links": [_links()],
        "templating": {"list": [_source_variable(), _owner_variable(board)]},
        "annotations": {"list": [_built_in(), *(_annotation(a) for a in board.annotations)]},
        "panels": _panels(board),
    }


def _panels(board: Board) -> list[dict[str, Any]]:
    """Rows and panels from left to right and from top to bottom; ids count from 1."""
    placed: list[dict[str, Any]] = []
    top = 0
    for row in board.rows:
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": GRID_WIDTH, "x": 0, "y": top},
                "panels": [],
            }
        )
        top, left = top + 1, 0
        for panel in row.panels:
            if left + panel.width > GRID_WIDTH:
                top, left = top + PANEL_HEIGHT, 0
            place = {"h": PANEL_HEIGHT, "w": panel.width, "x": left, "y": top}
            placed.append(panel_json(panel, number=len(placed) + 1, place=place, source=SOURCE))
            left += panel.width
        top += PANEL_HEIGHT
    return placed


def _source_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "regex": "",
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "current": {},
        "refresh": 1,
        "skipUrlSync": False,
    }


def _owner_variable(board: Board) -> dict[str, Any]:
    query = f"label_values({board.of_metric}, {board.variable})"
    return {
        "name": board.variable,
        "label": board.variable.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor"},
        "regex": "",
        "hide": 0,
        "includeAll": True,
        "multi": True,
        "options": [],
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "refresh": 2,  # with every change of the time range: runs come and go
        "skipUrlSync": False,
        "sort": 1,
    }


def _links() -> dict[str, Any]:
    return {
        "type": "dashboards",
        "title": "img2shape",
        "tags": ["img2shape"],
        "asDropdown": False,
        "icon": "external link",
        "includeVars": False,
        "keepTime": True,
        "targetBlank": False,
        "tooltip": "",
        "url": "",
    }


def _built_in() -> dict[str, Any]:
    """Grafana's own entry, which it adds where it is missing."""
    return {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }


def _annotation(annotation: Annotation) -> dict[str, Any]:
    """Grafana 11 and later read ``target``, earlier ones ``expr``."""
    return {
        "name": annotation.name,
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": annotation.color,
        "expr": annotation.expression,
        "target": {"expr": annotation.expression, "refId": "Anno"},
        "titleFormat": annotation.name,
        "textFormat": annotation.text,
    }
