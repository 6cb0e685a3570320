"""Rows of a ledger as terminal tables, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.ledger import Cleaned, Ledger, Merged, Row, flat
from cluster.tables import standard_output
from cluster.terminal import shown

KEY_DIGITS = 8
STYLES = {"finished": "green", "stopped": "yellow", "failed": "bold red"}


def print_ls(ledger: Ledger, rows: Sequence[Row]) -> None:
    """Print a line for each row, then the number of rows of each status."""
    counts = {s: sum(row["status"] == s for row in rows) for s in STYLES}
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"{shown(ledger.path)} · "
        + " · ".join(f"{n} {status}" for status, n in counts.items())
        + " · oracle: checkpoint chosen with the target's labels",
    )
    for name in ("key", "status", "cell", "selection"):
        table.add_column(name, overflow="fold", min_width=8 if name == "key" else None)
    for name in ("FT", "mAP", "oracle mAP", "images/s"):
        table.add_column(name, justify="right")
    table.add_column("written (UTC)", overflow="fold")
    for row in rows:
        table.add_row(*_cells(row))
    standard_output().print(table)


def _cells(row: Row) -> list[Text]:
    scores, oracle = row.get("metrics") or {}, (row.get("oracle") or {}).get("metrics") or {}
    labels = ", ".join(f"{_short(k)} {v}" for k, v in row.get("cell", {}).items())
    if row.get("error"):
        labels += f": {row['error']}"
    return [
        Text(row["key"][:KEY_DIGITS]),
        Text(row["status"], STYLES[row["status"]]),
        Text(labels),
        Text(str(row.get("selection") or "–")),
        _number(scores.get("FT")),
        _number(scores.get("mAP")),
        _number(oracle.get("mAP")),
        _number(row.get("images_per_second"), "{:.0f}"),
        Text(str(row.get("written", "–")).replace("T", " ").rstrip("Z")[:16]),
    ]


def _short(axis: str) -> str:
    return axis.rsplit(".", 1)[-1]


def _number(value: Any, form: str = "{:.3f}") -> Text:
    return Text(form.format(value) if isinstance(value, int | float) else "–")


def print_row(row: Row) -> None:
    """Print a row as columns and values, without its configuration and learning curve."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("column")
    table.add_column("value", overflow="fold")
    for name, value in flat(row).items():
        if value is not None:
            table.add_row(Text(name), Text(str(value)))
    standard_output().print(table)


def differing(first: Row, second: Row) -> dict[str, tuple[Any, Any]]:
    """How two cells differ: both values by dotted name.

    Compared are the configuration, the code, the data, the selection and the metrics; a value that
    one cell lacks is None.
    """
    parts = ("config", "code", "fingerprint", "selection", "metrics")
    pair = [
        _dotted({p: row[p] for p in parts if row.get(p) is not None}) for row in (first, second)
    ]
    names = list(dict.fromkeys([*pair[0], *pair[1]]))
    values = {name: (pair[0].get(name), pair[1].get(name)) for name in names}
    return {name: (a, b) for name, (a, b) in values.items() if a != b}


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            leaves |= _dotted(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def print_differing(first: Row, second: Row, found: Mapping[str, tuple[Any, Any]]) -> None:
    """Print the differences of two rows side by side."""
    out = standard_output()
    if not found:
        out.print("no difference in configuration, code, data, selection and metrics")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("", first["key"][:KEY_DIGITS], second["key"][:KEY_DIGITS]):
        table.add_column(name, overflow="fold")
    for name, values in found.items():
        table.add_row(Text(name), *(Text(str(v)) for v in values))
    out.print(table)


def print_merged(result: Merged) -> None:
    """Print the counts of a merge, then each conflict with both values."""
    out = standard_output()
    out.print(
        f"{result.added} rows added, {result.known} were known or superseded", highlight=False
    )
    for conflict in result.conflicts:
        values = ", ".join(
            f"{name} {a} here, {b} there" for name, (a, b) in conflict.metrics.items()
        )
        out.print(
            f"conflict: {conflict.key} of {shown(conflict.source)}: {values}; the row here stands",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def print_cleaned(result: Cleaned, *, done: bool) -> None:
    """Print what was removed, or would be."""
    out = standard_output()
    lines = [f"row {d.key[:KEY_DIGITS]} ({d.status}): {d.reason}" for d in result.dropped]
    lines += [f"folder {shown(folder)}: no row refers to it" for folder in result.folders]
    lines += [f"stays: {shown(folder)}, a process works in it" for folder in result.busy]
    verb = "removed" if done else "would be removed (--yes does it)"
    torn = f", {result.torn} unfinished lines" if result.torn else ""
    lines.append(
        f"{verb}: {len(result.dropped)} rows{torn}, {len(result.folders)} folders "
        f"({result.folder_bytes / 2**20:.1f} MiB); {result.kept} rows stay"
    )
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
