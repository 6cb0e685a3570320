"""The command ``img2shape doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.configurations import DataFolder, read_run
from cluster.terminal import Json, Overrides, only_json


def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(help="Run description, a file or a shipped name; without it, the machine."),
    ] = None,
    overrides: Overrides = None,
    data: DataFolder = None,
    workers: Annotated[str, typer.Option(metavar="N|MIN-MAX", help="As for train.")] = "0",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder that train would write the run into.", show_default="runs"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look for what would stop or slow a run: versions, GPUs, memory, disk, data, ports, clocks.

    Every finding comes with its remedy. Exit code 1 means that there is an error. The command
    writes a probe file beside the run folder and removes it; it changes nothing else.
    """
    with only_json(as_json) as emit:
        run = read_run(config, overrides, data) if config else None
        from cluster.doctor import examine, summary
        from cluster.training import parse_workers

        size = parse_workers(workers)
        result = summary(examine(run, workers=size.most, out=out or Path("runs")))
        emit(result)
    if not as_json:
        from cluster.doctor import print_findings

        print_findings(result)
    if not result["ok"]:
        raise typer.Exit(1)
