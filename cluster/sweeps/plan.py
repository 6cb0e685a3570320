"""Which cells of a sweep the ledger has, which have to be run, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.sweeps.cells import Cell, cell_key
from cluster.sweeps.trial import Store
from trainer.runs import UnusableError, differences, read_facts


@dataclass(frozen=True)
class Planned:
    """A cell, its row (None: it has to be run), and why it is run or not."""

    cell: Cell
    row: Mapping[str, Any] | None
    why: str


def plan_cells(
    cells: Sequence[Cell],
    store: Store,
    *,
    sweep: str,
    retry: str,
    stops_early: bool,
    code: str,
) -> list[Planned]:
    """Compare ``cells`` with the ledger.

    Args:
        retry: ``failed`` runs cells again that have failed; ``none`` leaves them.
        stops_early: whether a cell that was stopped early counts as done.
        code: ``same`` accepts results of this version of the code only, ``any`` of all versions.
    """
    rows = store.ledger.current()
    codes = {row["code"] for row in rows.values()} if code == "any" else set()
    before = {_place(row["sweep"], row["cell"]): row for row in rows.values()}
    return [
        _planned(
            cell,
            _found(cell, rows, codes),
            before.get(_place(sweep, cell.labels)),
            store,
            retry=retry,
            stops_early=stops_early,
        )
        for cell in cells
    ]


def _place(sweep: str, labels: Mapping[str, Any]) -> tuple[str, str]:
    return sweep, repr(sorted((name, repr(value)) for name, value in labels.items()))


def _found(
    cell: Cell, rows: Mapping[str, dict[str, Any]], codes: set[str]
) -> Mapping[str, Any] | None:
    """The row of ``cell``, or a finished row of the same cell by another version of the code."""
    row = rows.get(cell.key)
    if row is not None and row["status"] == "finished":
        return row
    for code in sorted(codes):
        key = cell_key(
            cell.config,
            cell.choosing,
            fingerprint=cell.fingerprint,
            code=code,
            after=cell.after,
        )
        if key in rows and rows[key]["status"] == "finished":
            return rows[key]
    return row


def _planned(
    cell: Cell,
    row: Mapping[str, Any] | None,
    before: Mapping[str, Any] | None,
    store: Store,
    *,
    retry: str,
    stops_early: bool,
) -> Planned:
    status = row["status"] if row else None
    if row and status == "finished":
        other = "" if row["code"] == cell.code else f" by code {row['code']}"
        return Planned(cell, row, f"finished {row['written']}{other}")
    if row and status == "stopped" and stops_early:
        return Planned(cell, row, str(row["error"]))
    if row and status == "failed" and retry == "none":
        return Planned(cell, row, f"failed before ({row['error']}); --resume tries it again")
    words = {"stopped": "was stopped early", "failed": "failed before"}.get(str(status))
    step = _reached(cell, store)
    if step is not None:
        half = f"continues at step {step}"
        return Planned(cell, None, f"{words}, {half}" if words else half)
    return Planned(cell, None, words or _changed(cell, before))


def _changed(cell: Cell, before: Mapping[str, Any] | None) -> str:
    """Why the result ``before`` with the same labels is not this cell's."""
    if before is None or before["key"] == cell.key:
        return "new"
    keys = differences(before["config"], cell.config.to_dict())
    named = [key for key in keys if not key.endswith("init_from")]
    if named:
        return f"changed: {', '.join(named[:5])}{', ...' if len(named) > 5 else ''}"
    if before["fingerprint"] != cell.fingerprint:
        return "the data changed"
    if before["code"] != cell.code:
        return f"the code changed (from {before['code']} to {cell.code})"
    if before["selection"] != cell.choosing.selection:
        return f"changed: selection (from {before['selection']})"
    return "changed: how checkpoints are chosen, or the run it starts from"


def _reached(cell: Cell, store: Store) -> int | None:
    """The step of the newest checkpoint of a run that has begun."""
    found = sorted(store.folder(cell).checkpoints.glob("step-*"))
    for path in reversed(found):
        try:
            return int(read_facts(path)["step"])
        except UnusableError:
            continue
    return None
