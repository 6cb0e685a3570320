"""Results as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["HEADLINE", "print_layers", "print_metrics"]

HEADLINE = ("NN", "FT", "ST", "F", "E", "DCG", "ANMRR", "AUC", "mAP")


def print_metrics(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """One line per run, the best value of each metric in bold; ANMRR is better when lower."""
    first = rows[0][1]
    left_out = f" · {first['n_missing']} left out, no shape of their class"
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"{first['protocol']} protocol · {first['n_evaluated']} queries · "
        f"{first['n_gallery']} shapes · ANMRR: lower is better"
        + (left_out if first["n_missing"] else ""),
    )
    table.add_column("run", overflow="fold")  # in a narrow window the name gives way
    for name in HEADLINE:
        table.add_column(name, justify="right", min_width=5)
    best = {m: _best(m, [r[m] for _, r in rows if r[m] is not None]) for m in HEADLINE}
    for run, result in rows:
        cells = [_cell(result[m], bold=len(rows) > 1 and result[m] == best[m]) for m in HEADLINE]
        table.add_row(Text(run), *cells)  # a name may hold brackets, rich's markup
    _console().print(table)


def _console() -> Console:
    """Standard output; wide where it is a file or a pipe, which no window limits."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _best(metric: str, values: Sequence[float]) -> float | None:
    return (min if metric == "ANMRR" else max)(values, default=None)


def _cell(value: float | None, *, bold: bool) -> str:
    if value is None:  # not defined for these queries
        return "–"
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
    _console().print(table)
