"""The command that writes what Grafana and Prometheus need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.terminal import Json, only_json, say, shown

monitoring_app = typer.Typer(add_completion=False)


@monitoring_app.command(epilog="Example: img2shape dashboards --out /etc/grafana/img2shape")
def dashboards(
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("dashboards"),
    as_json: Json = False,
) -> None:
    """Write run.json and sweep.json for Grafana, alerts.yaml for Prometheus.

    Import the dashboards in Grafana or put them where it provisions from; name alerts.yaml under
    rule_files of Prometheus. Other files of the folder stay as they are.
    """
    from cluster.monitoring import write_files

    with only_json(as_json) as emit:
        files = write_files(out.absolute())
        emit({"files": [str(file) for file in files]})
    if not as_json:
        for file in files:
            say(f"wrote {shown(file)}")
        say("next: import the dashboards in Grafana, load alerts.yaml by Prometheus' rule_files")
