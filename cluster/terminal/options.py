"""Options of several commands, JSON as the only output, and paths as users read them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="e.g. training.steps=50")
]


def shown(path: Path) -> Path:
    """The path relative to the working directory, if it is inside it."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path


@contextmanager
def only_json(enabled: bool) -> Iterator[Any]:
    """With ``enabled``, stdout gets the emitted object alone, as JSON.

    What libraries and child processes write to stdout in the block goes to stderr.
    """
    if not enabled:
        yield lambda result: None
        return
    results: list[Any] = []
    sys.stdout.flush()
    keep = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield results.append
    finally:
        os.dup2(keep, 1)
        os.close(keep)
    print(json.dumps(results[0], allow_nan=False))
