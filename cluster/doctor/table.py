"""Findings on a terminal as a table, elsewhere as plain lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.tables import standard_output

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


def print_findings(result: Mapping[str, Any]) -> None:
    """Of :func:`cluster.doctor.findings.summary`."""
    console = standard_output()
    if console.is_terminal:
        table = Table("", "check", "finding", box=box.SIMPLE_HEAD)
        for found in result["findings"]:
            text = Text(found["message"])
            if found["remedy"]:
                text.append(f"\n{found['remedy']}", style="dim")
            level = Text(found["level"], style=_STYLES[found["level"]])
            table.add_row(level, Text(found["check"]), text)
        console.print(table)
    else:
        for found in result["findings"]:
            console.print(_line(found), markup=False, highlight=False, soft_wrap=True)
    counts = result["counts"]
    console.print(
        f"{counts['error']} errors, {counts['warning']} warnings, {counts['note']} notes",
        highlight=False,
    )


def _line(found: Mapping[str, str]) -> str:
    remedy = f"; {found['remedy']}" if found["remedy"] else ""
    return f"{found['level']}: {found['check']}: {found['message']}{remedy}"
