"""How commands take a run description: a file or a shipped name, with overrides and ``--data``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.terminal import Json, only_json, say, shown

if TYPE_CHECKING:
    from trainer.config import RunConfig

Config = Annotated[
    Path,
    typer.Argument(
        help="Run description: a YAML file, or the name of a shipped one such as astn or own/astn; "
        "`img2shape configs` lists them."
    ),
]
DataFolder = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Your packed data set, in place of the description's: sets data.root, and takes name "
        "and classes from the data.",
    ),
]
RunData = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Where the run's data set lies now.",
        show_default="where it was trained",
    ),
]


def find_file(given: Path) -> Path:
    """The file that ``given`` names; where it is a shipped one, a line on stderr says which.

    Raises:
        ConfigError: there is no such file; the message names the nearest.
    """
    from trainer.shipped import configs_named, find_config

    file = find_config(given)
    if file != given:
        others = configs_named(str(given))[1:]
        also = f" (others of this name: {', '.join(others)})" if others else ""
        say(f"configuration: {shown(file)}{also}")
    return file


def read_run(config: Path, overrides: Sequence[str] | None, data: str | None = None) -> RunConfig:
    """The run that a command is asked for; an override comes before ``--data``.

    Raises:
        ConfigError: as :func:`trainer.config.load_config`.
    """
    file = find_file(config)  # a mistyped name is refused before torch is loaded
    from trainer.config import load_config

    own = []
    if data is not None:  # name and class count of the file are those of the file's own data
        own = [f"data.root={json.dumps(data)}", "data.dataset=null", "data.num_classes=null"]
    return load_config(shown(file), [*own, *(overrides or ())])


def configs(
    name: Annotated[
        str | None, typer.Argument(help="Print this one, for a copy of your own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the run descriptions that come with img2shape, or print one.

    `img2shape train NAME` takes each of them, in any working directory.
    """
    from trainer.shipped import find_config, shipped_configs

    if name is not None and not as_json:
        typer.echo(find_config(name).read_text(), nl=False)
        return
    with only_json(as_json) as emit:
        chosen = shipped_configs() if name is None else {name: find_config(name)}
        listed = [_facts(known, file) for known, file in chosen.items()]
        emit({"configs": listed})
    if not as_json:
        width = max(len(one["name"]) for one in listed)
        for one in listed:
            typer.echo(f"{one['name']:{width}}  {one['about']}")


def _facts(name: str, file: Path) -> dict[str, Any]:
    """Name, file and the first line of its head comment."""
    head = file.read_text().splitlines()[0]
    return {"name": name, "file": str(file), "about": head.removeprefix("#").strip()}
