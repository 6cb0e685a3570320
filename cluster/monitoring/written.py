"""Dashboards and alerting rules as files."""

from __future__ import annotations

from pathlib import Path

from cluster.monitoring.alerts import alert_rules
from cluster.monitoring.dashboard_json import dashboard_text, dashboards
from trainer.runs import write_text


def write_files(folder: Path) -> list[Path]:
    """Write every dashboard and ``alerts.yaml``; what is in the folder beside them stays.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    texts = {f"{name}.json": dashboard_text(board) for name, board in dashboards().items()}
    texts["alerts.yaml"] = alert_rules()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
