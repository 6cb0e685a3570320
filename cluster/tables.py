"""Results as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["HEADLINE", "print_layers", "print_metrics"]

HEADLINE = ("NN", "FT", "ST", "F", "E", "DCG", "ANMRR", "AUC", "mAP")


def print_metrics(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """One line per run, the best value of each metric in bold; ANMRR is better when lower."""
    first = rows[0][1]
    table = Table(
        caption=f"{first['protocol']} protocol · {first['n_evaluated']} queries · "
        f"{first['n_gallery']} shapes · ANMRR: lower is better"
    )
    table.add_column("run")
    for name in HEADLINE:
        table.add_column(name, justify="right")
    best = {m: (min if m == "ANMRR" else max)(r[m] for _, r in rows) for m in HEADLINE}
    for run, result in rows:
        cells = [_cell(result[m], bold=len(rows) > 1 and result[m] == best[m]) for m in HEADLINE]
        table.add_row(run, *cells)
    Console().print(table)


def _cell(value: float, *, bold: bool) -> str:
    return f"[bold]{value:.3f}[/bold]" if bold else f"{value:.3f}"


def print_layers(result: Mapping[str, Any]) -> None:
    """Layers with parameters and multiply-adds of one image's forward pass."""
    table = Table(caption="multiply-adds of one image through trunk and heads")
    for name in ("layer", "kind", "output"):
        table.add_column(name)
    for name in ("parameters", "multiply-adds"):
        table.add_column(name, justify="right")
    for layer in result["layers"]:
        shape = "×".join(map(str, layer["output_shape"]))
        numbers = f"{layer['parameters']:,}", f"{layer['multiply_adds']:,}"
        table.add_row(layer["name"], layer["kind"], shape, *numbers)
    table.add_section()
    table.add_row("total", "", "", f"{result['parameters']:,}", f"{result['multiply_adds']:,}")
    Console().print(table)
