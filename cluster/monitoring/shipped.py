"""The dashboards and alerting rules that img2shape ships, as the files of ``k8s/monitoring``.

People import and edit these files, so they are the original. This module reads them, fills in a
data source and a scrape job, and copies them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from trainer.config import ConfigError
from trainer.runs import write_text

# A checkout and an installed wheel both have the folder k8s beside the folder cluster.
FOLDER = Path(__file__).resolve().parents[2] / "k8s" / "monitoring"
DASHBOARDS = {"run": "img2shape-runs.json", "sweep": "img2shape-sweeps.json"}
ALERTS = "alerts.yaml"

_PROMQL_KEYS = ("expr", "query", "definition")  # of a dashboard's panels, marks and variables
# A selector of our metrics in PromQL: NAME, NAME{...} or {__name__=~"NAME|NAME"...}. The last kind
# is matched as a whole, so that the names in its string are not taken for selectors.
_SELECTOR = re.compile(
    r'\{(?P<several>__name__=~"[^}]*)|\b(?P<name>img2shape_\w+)(?P<brace>\s*\{)?',
)


def dashboards(
    *, data_source: str | None = None, job: str | None = None
) -> dict[str, dict[str, Any]]:
    """Every dashboard in Grafana's JSON model, by its name: ``run`` and ``sweep``.

    Args:
        data_source: name of the Prometheus data source that the dashboards choose at first. None
            leaves the choice to Grafana.
        job: scrape job that every query is restricted to. None restricts no query.
    """
    found = {}
    for name, file in DASHBOARDS.items():
        board = json.loads((FOLDER / file).read_text(encoding="utf-8"))
        if data_source is not None:
            _choose(board, data_source)
        found[name] = board if job is None else _queries_of(board, job)
    return found


def rule_groups() -> list[dict[str, Any]]:
    """The ``groups`` of ``alerts.yaml``, as a PrometheusRule's ``spec`` has them too."""
    return yaml.safe_load(_alerts())["groups"]


def write_files(
    folder: Path, *, data_source: str | None = None, job: str | None = None
) -> list[Path]:
    """Write ``run.json``, ``sweep.json`` and ``alerts.yaml``; other files of the folder stay.

    Args:
        data_source, job: as for :func:`dashboards`. The alerts are restricted to the job too.

    Raises:
        ConfigError: ``data_source`` or ``job`` is not a name.
        OSError: the folder cannot be made or written to.
    """
    _require_name("--data-source", data_source, example="Prometheus")
    _require_name("--job", job, example="img2shape")
    boards = dashboards(data_source=data_source, job=job)
    texts = {f"{name}.json": dashboard_text(board) for name, board in boards.items()}
    texts[ALERTS] = _alerts() if job is None else with_job(_alerts(), job)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def dashboard_text(dashboard: dict[str, Any]) -> str:
    """A dashboard's file: sorted keys, so that two versions of it differ only where they differ."""
    return json.dumps(dashboard, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def with_job(text: str, job: str) -> str:
    """Restrict every selector of an img2shape metric in PromQL to one scrape job.

    >>> with_job('max(img2shape_loss{run="a"}) > img2shape_step', "trainings")
    'max(img2shape_loss{job="trainings", run="a"}) > img2shape_step{job="trainings"}'
    """
    matcher = f"job={json.dumps(job, ensure_ascii=False)}"

    def restricted(found: re.Match[str]) -> str:
        if found["several"]:
            return f"{{{matcher}, {found['several']}"
        if found["brace"]:
            return f"{found['name']}{{{matcher}, "
        return f"{found['name']}{{{matcher}}}"

    return _SELECTOR.sub(restricted, text)


def _alerts() -> str:
    return (FOLDER / ALERTS).read_text(encoding="utf-8")


def _choose(board: dict[str, Any], data_source: str) -> None:
    """Make ``data_source`` the current value of the dashboard's data source variable."""
    for variable in board["templating"]["list"]:
        if variable["type"] == "datasource":
            variable["current"] = {"selected": True, "text": data_source, "value": data_source}


def _queries_of(value: Any, job: str) -> Any:
    """A part of a dashboard with all its queries restricted to ``job``."""
    if isinstance(value, list):
        return [_queries_of(item, job) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: with_job(item, job)
        if key in _PROMQL_KEYS and isinstance(item, str)
        else _queries_of(item, job)
        for key, item in value.items()
    }


def _require_name(option: str, value: str | None, *, example: str) -> None:
    if value is not None and not (value.strip() and value.isprintable()):
        raise ConfigError(
            f"{option} {value!r}: not a name; give one such as {example}, or leave {option} out"
        )
