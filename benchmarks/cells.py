"""Cells of a benchmark of methods: trained in processes, kept in run folders, shown in tables."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.evaluation.jobs import evaluate_run
from cluster.training.train_command import train_run
from evalsuite.scoring import HEADLINES
from evalsuite.statistics import SeedDifference, seed_difference
from trainer.config import load_config
from trainer.shipped import find_config

Rows = dict[str, list[dict[str, float]]]  # label -> one row of numbers per seed
Spread = Callable[[Sequence[float]], float]


@dataclass(frozen=True)
class Cell:
    """One training: a label in the tables, a configuration, what is changed in it, a seed."""

    label: str
    config: str  # name of a shipped run description, such as procedural/astn
    overrides: tuple[str, ...]
    seed: int


def run_cell(cell: Cell, out: Path, level: str = "class") -> dict[str, float]:
    """Headline metrics of one cell and its seconds, trained now or read from its run folder.

    Level "instance" adds what the ranks of the exact shapes give (`docs/reference/metrics.md`).
    """
    start = time.perf_counter()
    overrides = [
        "training.precision=float32",
        "training.threads=1",
        "training.log_every=50",
        f"training.seed={cell.seed}",
        *cell.overrides,
    ]
    config = load_config(find_config(cell.config), overrides)
    run = out / f"{cell.label}-{config.identity}"
    kept = run / f"numbers-{level}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    train_run(config, run, workers=0)
    result = evaluate_run(run, shards=1, level=level)
    numbers = {name: result[name] for name in HEADLINES} | instance_numbers(result)
    numbers["seconds"] = time.perf_counter() - start
    kept.write_text(json.dumps(numbers))
    return numbers


def instance_numbers(result: dict) -> dict[str, float]:
    """The plain numbers of the instance level, if it was asked for."""
    found = result.get("instance") or {}
    return {name: found[name] for name in ("R@1", "R@5", "R@10", "median_rank") if name in found}


def run_all(cells: Sequence[Cell], *, out: Path, jobs: int, level: str = "class") -> Rows:
    """Results of all cells by label, in the order of the seeds; `jobs` processes."""
    # Before torch is loaded in them: idle threads of several processes would wait in loops.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found: dict[Cell, dict[str, float]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = {pool.submit(partial(run_cell, level=level), c, out): c for c in cells}
        for done in as_completed(waiting):
            cell = waiting[done]
            found[cell] = done.result()
            print(f"{cell.label} seed {cell.seed}: FT {found[cell]['FT']:.3f}", flush=True)
    rows: Rows = {}
    for cell in cells:
        rows.setdefault(cell.label, []).append(found[cell])
    return rows


def markdown(rows: Rows, labels: Sequence[str], metrics: Sequence[str], spread: Spread) -> str:
    """A table: mean ± spread over seeds, three decimals (one for ranks and seconds)."""
    lines = [f"| method | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|"]
    for label in labels:
        shown = []
        for name in metrics:
            values = [c[name] for c in rows[label]]
            places = 1 if name in ("median_rank", "seconds") else 3
            around = "" if len(values) == 1 else f" ± {spread(values):.{places}f}"
            shown.append(f"{statistics.mean(values):.{places}f}{around}")
        lines.append(f"| {label} | {' | '.join(shown)} |")
    return "\n".join(lines)


def mean(rows: Rows, label: str, name: str = "FT") -> float:
    """Mean of a metric over the seeds."""
    return statistics.mean(c[name] for c in rows[label])


def difference(rows: Rows, label: str, other: str, name: str = "FT") -> SeedDifference:
    """Difference of two labels over the seeds, which are pairs."""
    return seed_difference([c[name] for c in rows[label]], [c[name] for c in rows[other]])
