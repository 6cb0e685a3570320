"""What a check found, and the report of all findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.tables import standard_output

Level = Literal["ok", "note", "warning", "error"]
GIB = 1 << 30
_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True)
class Finding:
    """An ``error`` stops a run or spoils it, a ``warning`` slows or endangers it, a ``note`` is
    worth knowing. Warnings and errors have a remedy."""

    level: Level
    check: str
    message: str
    remedy: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding("ok", check, message)


def note(check: str, message: str, remedy: str = "") -> Finding:
    return Finding("note", check, message, remedy)


def warning(check: str, message: str, remedy: str) -> Finding:
    return Finding("warning", check, message, remedy)


def error(check: str, message: str, remedy: str) -> Finding:
    return Finding("error", check, message, remedy)


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """Plain JSON values: whether there is no error, counts by level, every finding."""
    levels = [finding.level for finding in findings]
    counts = {level: levels.count(level) for level in ("error", "warning", "note", "ok")}
    return {
        "ok": not counts["error"],
        "counts": counts,
        "findings": [asdict(finding) for finding in findings],
    }


def print_findings(result: Mapping[str, Any]) -> None:
    """Print a :func:`summary`: a table on a terminal, plain lines elsewhere."""
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
            remedy = f"; {found['remedy']}" if found["remedy"] else ""
            line = f"{found['level']}: {found['check']}: {found['message']}{remedy}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    counts = result["counts"]
    console.print(
        f"{counts['error']} errors, {counts['warning']} warnings, {counts['note']} notes",
        highlight=False,
    )


def size(count_bytes: float) -> str:
    """``3.4 GiB``, below that ``120 MiB``."""
    if count_bytes >= GIB:
        return f"{count_bytes / GIB:.1f} GiB"
    return f"{count_bytes / (1 << 20):.0f} MiB"
