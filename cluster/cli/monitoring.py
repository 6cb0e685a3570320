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
    data_source: Annotated[
        str | None,
        typer.Option(
            help="Name of the Prometheus data source in Grafana. Default: Grafana's default one.",
            metavar="NAME",
        ),
    ] = None,
    job: Annotated[
        str | None,
        typer.Option(
            help="Name of a scrape job of Prometheus: only its series count. Default: all jobs.",
            metavar="NAME",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write run.json and sweep.json for Grafana, alerts.yaml for Prometheus.

    They are copies of the files in k8s/monitoring. Import the dashboards in Grafana, or write them
    into a folder that it provisions. Name alerts.yaml under rule_files in prometheus.yml. Other
    files of the folder stay as they are.
    """
    from cluster.monitoring import write_files

    with only_json(as_json) as emit:
        files = write_files(out.absolute(), data_source=data_source, job=job)
        emit({"files": [str(file) for file in files]})
    if not as_json:
        for file in files:
            say(f"wrote {shown(file)}")
        say("next: import the dashboards in Grafana, load alerts.yaml by Prometheus' rule_files")
