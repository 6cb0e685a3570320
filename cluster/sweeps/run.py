"""Running a sweep: from its cells to the rows of the ledger and the page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.sinks import open_sinks
from cluster.sweeps.cells import Cell
from cluster.sweeps.description import Sweep
from cluster.sweeps.engine import Row, Running, most_at_once, run_cells
from cluster.sweeps.exported import exported
from cluster.sweeps.grid import Skipped, sweep_cells
from cluster.sweeps.live import Progress, shown_progress
from cluster.sweeps.plan import Planned, plan_cells
from cluster.sweeps.proposals import Proposals
from cluster.sweeps.trial import failed_row
from cluster.terminal import say, task
from cluster.training import ray_session
from evalsuite.pages import TransferMatrix, write_sweep_page
from evalsuite.tables import ResultTable
from trainer.runs import naming

MOST_REASONS = 20  # lines about single cells; further ones are counted


@dataclass
class Outcome:
    """The result of a sweep: a row for each cell, in the order of the cells.

    Attributes:
        skipped: points that cannot be trained.
        ran: how many cells were not in the ledger.
        why: by the key of each cell, why it was run or not.
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


def run_sweep(sweep: Sweep, running: Running) -> Outcome:
    """Train what is missing of ``sweep``; returns all of its rows.

    What the sweep says is filled into ``running``.

    Raises:
        ConfigError, DataError: a mistake in the file, found before anything is trained.
        KeyboardInterrupt: Ctrl-C; the next call continues.
    """
    open_sinks(sweep.sinks, running.store.path)  # an unknown one is refused before any cell
    running = replace(
        running,
        sweep=sweep.name,
        retries=sweep.retries,
        stopping=sweep.early_stopping,
        compares=sweep.compares if sweep.early_stopping else None,
        reports=sweep.reports,
    )
    if sweep.search.kind == "optuna":
        return _run_search(sweep, running)
    cells, skipped = sweep_cells(sweep)
    return run_planned(cells, skipped, running)


def run_planned(cells: Sequence[Cell], skipped: Sequence[Skipped], running: Running) -> Outcome:
    """Train those of ``cells`` that have no row, first the ones that others start from."""
    begun_seconds = time.monotonic()
    planned = _planned(cells, running)
    _say_plan(running.sweep, planned, skipped)
    rows = {p.cell.key: dict(p.row) for p in planned if p.row is not None}
    missing = [p.cell for p in planned if p.row is None]

    def over(cell: Cell, row: Row) -> None:
        rows[cell.key] = row

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
                if able := _startable(wave, rows, running, progress):
                    run_cells(able, over, running, progress=progress)
    return Outcome(
        name=running.sweep,
        store=running.store.path,
        rows=[_placed(rows[cell.key], cell, running.sweep) for cell in cells],
        skipped=list(skipped),
        ran=len(missing),
        seconds=time.monotonic() - begun_seconds,
        why={p.cell.key: p.why for p in planned},
    )


def _planned(cells: Sequence[Cell], running: Running) -> list[Planned]:
    """``cells`` compared with the ledger."""
    return plan_cells(
        cells,
        running.store,
        sweep=running.sweep,
        retry=running.retry,
        stops_early=running.stopping is not None,
        code=running.code,
    )


def _placed(row: Mapping[str, Any], cell: Cell, sweep: str) -> Row:
    """The row with this sweep's labels; it may have been made for another sweep."""
    return {**row, "cell": cell.labels, "sweep": sweep}


def _waves(missing: Sequence[Cell]) -> list[list[Cell]]:
    """The cells in waves: a cell comes in a later wave than the missing cell it starts from."""
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
    running: Running,
    progress: Progress,
) -> list[Cell]:
    """The cells whose predecessor, if any, is finished; the others get a row that says so."""
    able = []
    for cell in cells:
        before = rows.get(cell.after or "", {"status": "finished"})
        if before["status"] == "finished":
            able.append(cell)
            continue
        error = f"the run it starts from is not finished ({before['status']})"
        rows[cell.key] = failed_row(cell, running.store, sweep=running.sweep, error=error)
        progress.over(cell, rows[cell.key])
    return able


def _run_search(sweep: Sweep, running: Running) -> Outcome:
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
                    planned = _planned(proposed, running)
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

            run_cells(next_round, over, running, progress=progress)
    return Outcome(
        name=sweep.name,
        store=running.store.path,
        rows=[_placed(row, proposals.cells[key], sweep.name) for key, row in rows.items()],
        skipped=proposals.skipped,
        ran=len(ran),
        seconds=time.monotonic() - begun_seconds,
        why=why,
    )


def write_page(
    outcome: Outcome,
    *,
    matrices: Sequence[TransferMatrix] = (),
    tables: Sequence[ResultTable] = (),
) -> Path:
    """Write ``<store>/<name>/report.html`` and return it."""
    page = outcome.store / outcome.name / "report.html"
    skipped = [{"cell": lost.labels, "reason": lost.reason} for lost in outcome.skipped]
    with naming(page), task(f"writing {page}"):
        page.parent.mkdir(parents=True, exist_ok=True)
        return write_sweep_page(
            outcome.rows,
            page,
            title=f"Sweep {outcome.name}",
            planned={"skipped": skipped, "counts": {"run now": outcome.ran}},
            matrices=matrices,
            links_from=outcome.store,
            tables=tables,
        )


def _say_plan(name: str, planned: Sequence[Planned], skipped: Sequence[Skipped]) -> None:
    """Print how many cells there are, and why some are run again or cannot be run."""
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
