"""A sweep from its file to its rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.sinks import open_sinks
from cluster.sweeps.cells import Cell
from cluster.sweeps.description import Sweep
from cluster.sweeps.engine import Row, Running, most_at_once, run_cells, run_rounds
from cluster.sweeps.exported import exported
from cluster.sweeps.grid import Skipped, sweep_cells
from cluster.sweeps.live import Progress, shown_progress
from cluster.sweeps.plan import Planned, plan_cells
from cluster.sweeps.proposals import Proposals
from cluster.sweeps.trial import Store, failed_row
from cluster.terminal import say
from cluster.training import ray_session

MOST_REASONS = 20  # cells that are named with the reason; more are counted


@dataclass(frozen=True)
class Asked:
    """What the command line says about how a sweep is run.

    ``retry``: ``failed`` or ``none``; ``code``: ``same`` or ``any``; see
    :func:`cluster.sweeps.plan.plan_cells`.
    """

    store: Path
    workers: int = 0
    at_once: int | None = None
    retry: str = "none"
    code: str = "same"

    def plan(self, cells: Sequence[Cell], running: Running) -> list[Planned]:
        """``cells`` held against the ledger."""
        return plan_cells(
            cells,
            Store(self.store),
            sweep=running.sweep,
            retry=self.retry,
            stops_early=running.stopping is not None,
            code=self.code,
        )


@dataclass
class Outcome:
    """What a sweep came to: a row for each cell in their order, and what was left out.

    ``ran`` counts the cells that were not in the ledger; ``why`` says of each key why it was run or
    not.
    """

    name: str
    store: Path
    rows: list[Row]
    skipped: list[Skipped]
    ran: int
    seconds: float
    why: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row["status"] == "failed"]

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "name": self.name,
            "store": str(self.store),
            "ran": self.ran,
            "seconds": self.seconds,
            "rows": self.rows,
            "skipped": [{"cell": s.labels, "reason": s.reason} for s in self.skipped],
            "why": self.why,
        }


def run_sweep(sweep: Sweep, asked: Asked) -> Outcome:
    """Train what is missing of ``sweep``; returns all of its rows.

    Raises:
        ConfigError, DataError: a mistake in the file, found before anything is trained.
        KeyboardInterrupt: Ctrl-C; the next call continues.
    """
    open_sinks(sweep.sinks, asked.store)  # one that is not there is refused before any cell
    running = Running(
        sweep=sweep.name,
        workers=asked.workers,
        at_once=asked.at_once,
        retries=sweep.retries,
        stopping=sweep.early_stopping,
        compares=sweep.compares if sweep.early_stopping else None,
        reports=sweep.reports,
    )
    if sweep.search.kind == "optuna":
        return _run_search(sweep, running, asked)
    cells, skipped = sweep_cells(sweep)
    return run_planned(cells, skipped, running, asked)


def run_planned(
    cells: Sequence[Cell], skipped: Sequence[Skipped], running: Running, asked: Asked
) -> Outcome:
    """Train those of ``cells`` that have no row; first the ones that others start from."""
    begun_seconds = time.monotonic()
    store, planned = Store(asked.store), asked.plan(cells, running)
    _say_plan(running.sweep, planned, skipped)
    rows = {p.cell.key: dict(p.row) for p in planned if p.row is not None}
    missing = [p.cell for p in planned if p.row is None]
    if missing:
        title = f"sweep {running.sweep}: {len(missing)} of {len(cells)} cells"
        with (
            ray_session(),
            shown_progress(title, len(missing)) as progress,
            exported(running.sweep, progress) as export,
        ):
            progress.found, progress.skipped = list(rows.values()), len(skipped)
            export.begin(missing[0].config.monitoring)
            for wave in _waves(missing):
                able = _startable(wave, rows, store, running, progress)
                for row in run_cells(able, store, running, progress=progress):
                    rows[row["key"]] = row
    return Outcome(
        name=running.sweep,
        store=asked.store,
        rows=[_placed(rows[cell.key], cell, running.sweep) for cell in cells],
        skipped=list(skipped),
        ran=len(missing),
        seconds=time.monotonic() - begun_seconds,
        why={p.cell.key: p.why for p in planned},
    )


def _placed(row: Mapping[str, Any], cell: Cell, sweep: str) -> Row:
    """A row may have been made for another sweep: here it stands at this one's place."""
    return {**row, "cell": cell.labels, "sweep": sweep}


def _waves(missing: Sequence[Cell]) -> list[list[Cell]]:
    """Cells whose predecessors are all there, then those that start from the first ones, ..."""
    waves: list[list[Cell]] = []
    left = list(missing)
    while left:
        keys = {cell.key for cell in left}
        ready = [cell for cell in left if cell.after not in keys]
        assert ready, "no cell starts from itself"
        waves.append(ready)
        left = [cell for cell in left if cell.after in keys]
    return waves


def _startable(
    cells: Sequence[Cell],
    rows: dict[str, Row],
    store: Store,
    running: Running,
    progress: Progress,
) -> list[Cell]:
    """Those whose predecessor, if any, is finished; the others get a row that says so."""
    able = []
    for cell in cells:
        before = rows.get(cell.after or "", {"status": "finished"})
        if before["status"] == "finished":
            able.append(cell)
            continue
        error = f"the run it starts from is not finished ({before['status']})"
        rows[cell.key] = failed_row(cell, store, sweep=running.sweep, error=error)
        progress.over(cell, rows[cell.key])
    return able


def _run_search(sweep: Sweep, running: Running, asked: Asked) -> Outcome:
    """Train the points of a search that are not in the ledger."""
    begun_seconds = time.monotonic()
    with ray_session():
        proposals = Proposals(sweep, most_at_once(running))
        rows: dict[str, Row] = {}
        why: dict[str, str] = {}
        ran: list[Cell] = []
        total = sweep.search.trials or 0
        with (
            shown_progress(f"sweep {sweep.name}: {total} points", total) as progress,
            exported(sweep.name, progress) as export,
        ):

            def over(cell: Cell, row: Row) -> None:
                rows[cell.key] = row
                proposals.tell(cell.key, row)

            def next_round() -> list[Cell]:
                while proposed := proposals.next_round():
                    progress.skipped = len(proposals.skipped)
                    export.begin(proposed[0].config.monitoring)
                    planned = asked.plan(proposed, running)
                    why.update({p.cell.key: p.why for p in planned})
                    for p in planned:
                        if p.row is not None:
                            over(p.cell, dict(p.row))
                            progress.over(p.cell, p.row, found=True)
                    missing = [p.cell for p in planned if p.row is None]
                    ran.extend(missing)
                    if missing:
                        return missing
                return []

            run_rounds(next_round, over, Store(asked.store), running, progress=progress)
    return Outcome(
        name=sweep.name,
        store=asked.store,
        rows=[_placed(row, proposals.cells[key], sweep.name) for key, row in rows.items()],
        skipped=proposals.skipped,
        ran=len(ran),
        seconds=time.monotonic() - begun_seconds,
        why=why,
    )


def _say_plan(name: str, planned: Sequence[Planned], skipped: Sequence[Skipped]) -> None:
    """What is run again, and what cannot be, with the reason; the others by number."""
    kept = [p for p in planned if p.row is not None]
    say(
        f"sweep {name}: {len(planned)} cells, {len(kept)} there already, "
        f"{len(planned) - len(kept)} to run, {len(skipped)} skipped"
    )
    told = [f"{p.cell.shown}: {p.why}" for p in planned if p.row is None and p.why != "new"]
    told += [f"{p.cell.shown}: {p.why}" for p in kept if p.row and p.row["status"] != "finished"]
    told += [f"skipped: {' · '.join(map(str, s.labels.values()))}: {s.reason}" for s in skipped]
    for line in told[:MOST_REASONS]:
        say(f"  {line}")
    if len(told) > MOST_REASONS:
        say(f"  and {len(told) - MOST_REASONS} more; --json has all")
