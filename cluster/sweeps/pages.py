"""The page of a sweep: its rows as one HTML file in the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.sweeps.run import Outcome
from cluster.terminal import task
from evalsuite.pages import TransferMatrix, write_sweep_page
from evalsuite.tables import ResultTable
from trainer.runs import naming


def write_page(
    outcome: Outcome,
    *,
    title: str | None = None,
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
            title=title or f"Sweep {outcome.name}",
            planned={"skipped": skipped, "counts": {"run now": outcome.ran}},
            matrices=matrices,
            links_from=outcome.store,
            tables=tables,
        )
