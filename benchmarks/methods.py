"""Every method and every ablation on the built-in benchmark: mean ± spread over seeds.

    python benchmarks/methods.py [--seeds 3] [--only astn hifa ...] [--jobs 2] [--out runs/methods]
                                 [--validation] [--metrics NN FT mAP] [--markdown FILE] [--frozen]

Trains each cell with its ready configuration (configs/procedural) in a process of its own with one
thread, in float32, and scores the full test gallery. Finished cells are kept, so an interrupted
call continues. Prints one table of all methods on photos, one of the sketch methods, one of the
two-domain setting, and the ablations of each paper; then whether adaptation beats source-only in
FT and each full method its own ablations. ``--validation`` scores the validation split, on which
the configurations were tuned. ``--frozen`` puts every method on the kept features of a frozen
EfficientNet-Lite0 with ImageNet weights in place of a trunk that starts from scratch, without the
ablations and with zero-shot as the line to beat; its spread is the 95 % t interval of the mean.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import scipy.stats
from ablations import ABLATIONS, FROZEN, FROZEN_TRUNK, PHOTOS, SETTINGS

from cluster.data_jobs import make_benchmark
from cluster.evaluation.jobs import evaluate_run
from cluster.training.train_command import train_run
from evalsuite.scoring import HEADLINES
from trainer.config import load_config

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "procedural"
INTRO = """# Results on the built-in benchmark

`python benchmarks/methods.py --markdown docs/evidence/results.md` trains every cell again: the
ready configurations in `configs/procedural`, in float32, one thread and one process for each run,
on the `small` set. Mean ± standard deviation over the seeds, `mi3dor` protocol, last checkpoint.
The configurations were tuned on the validation split; these are test queries against the test
gallery. ANMRR is better when lower.

"""
FROZEN_INTRO = """# Results on a frozen pre-trained trunk

`python benchmarks/methods.py --frozen --seeds 5 --markdown docs/evidence/frozen.md` trains every
cell again: the built-in benchmark as in [Results](results.md), but every method stands on the
features of EfficientNet-Lite0 with ImageNet weights, which is not trained (`network.train=head`):
96 pixels, all twelve views, 200 steps. The weights of each method's terms are those of the paper or
those that were tuned for training from scratch, whichever did better on the validation split; these
are test queries against the test gallery. Nothing else was tuned; siamese and mstn, which end below
their results from scratch, would need it. Mean ± half of the 95 % t interval over five seeds,
`mi3dor` protocol, last checkpoint, float32. ANMRR is better when lower.

"""
Rows = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Cell:
    """One training: a label in the tables, a configuration, what is changed in it, a seed."""

    label: str
    config: str
    overrides: tuple[str, ...]
    seed: int


def run_cell(cell: Cell, out: Path, validation: bool) -> dict[str, float]:
    """Headline metrics of one cell and its seconds, trained now or read from its run folder."""
    start = time.perf_counter()
    overrides = [
        "training.precision=float32",
        "training.threads=1",
        "training.log_every=50",
        f"training.seed={cell.seed}",
        *cell.overrides,
        *(["data.queries.split=val", "data.gallery.split=val"] if validation else []),
    ]
    config = load_config(CONFIGS / f"{cell.config}.yaml", overrides)
    run = out / ("validation" if validation else "test") / f"{cell.label}-{config.identity}"
    kept = run / "numbers.json"
    if kept.exists():
        return json.loads(kept.read_text())
    train_run(config, run, workers=0)
    result = evaluate_run(run, shards=1)
    numbers = {name: result[name] for name in HEADLINES}
    numbers["seconds"] = time.perf_counter() - start
    kept.write_text(json.dumps(numbers))
    return numbers


def run_all(cells: Sequence[Cell], options: argparse.Namespace) -> Rows:
    """Results of all cells by label, in the order of the seeds."""
    found: dict[Cell, dict[str, float]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        waiting = {pool.submit(run_cell, c, options.out, options.validation): c for c in cells}
        for done in as_completed(waiting):
            cell = waiting[done]
            found[cell] = done.result()
            print(f"{cell.label} seed {cell.seed}: FT {found[cell]['FT']:.3f}", flush=True)
    rows: Rows = {}
    for cell in cells:
        rows.setdefault(cell.label, []).append(found[cell])
    return rows


def half_interval(values: Sequence[float]) -> float:
    """Half of the 95 % t interval of the mean."""
    quantile = float(scipy.stats.t.ppf(0.975, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


Spread = Callable[[Sequence[float]], float]


def markdown(rows: Rows, labels: Sequence[str], metrics: Sequence[str], spread: Spread) -> str:
    """A table: mean ± spread over seeds, three decimals."""
    lines = [f"| method | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|"]
    for label in labels:
        shown = []
        for name in metrics:
            values = [c[name] for c in rows[label]]
            around = spread(values) if len(values) > 1 else 0.0
            shown.append(f"{statistics.mean(values):.3f} ± {around:.3f}")
        lines.append(f"| {label} | {' | '.join(shown)} |")
    return "\n".join(lines)


def mean(rows: Rows, label: str, name: str = "FT") -> float:
    return statistics.mean(c[name] for c in rows[label])


def verdicts(rows: Rows, groups: dict[str, list[str]]) -> list[str]:
    """Plain sentences: who beats source-only, who beats its own ablations."""
    lines = []
    compared = ["zero-shot", *PHOTOS]
    compared = [p for p in compared if p in rows and p != "source-only" and "source-only" in rows]
    for label in compared:
        gain = mean(rows, label) - mean(rows, "source-only")
        lines.append(f"{label} over source-only in FT: {gain:+.3f}{'' if gain > 0 else '  NOT'}")
    for full, labels in groups.items():
        best = max((x for x in labels if x != full), key=lambda x: mean(rows, x))
        gain = mean(rows, full) - mean(rows, best)
        lines.append(
            f"{full} against its best ablation ({best}) in FT: {gain:+.3f}"
            + ("" if gain >= 0 else "  NOT")
        )
    return lines


def known() -> dict[str, tuple[str, list[str]]]:
    """Configuration and overrides of every label."""
    cells: dict[str, tuple[str, list[str]]] = {m: (m, []) for ms in SETTINGS.values() for m in ms}
    for full, rows in ABLATIONS.items():
        cells |= {label: (full, overrides) for label, overrides in rows.items()}
    return cells


def frozen() -> dict[str, tuple[str, list[str]]]:
    """The same of every method on a frozen trunk."""
    methods = ["zero-shot", *(m for ms in SETTINGS.values() for m in ms)]
    return {m: (m, [*FROZEN_TRUNK, *FROZEN.get(m, [])]) for m in methods}


def text(rows: Rows, metrics: Sequence[str], spread: Spread) -> str:
    """All tables that the rows fill, and the verdicts."""
    groups = {
        full: [full, *labels] for full, labels in ABLATIONS.items() if {full, *labels} <= {*rows}
    }
    photos = {"photos against shapes": ["zero-shot", *PHOTOS]}
    ablations = {f"ablations of {full}": group for full, group in groups.items()}
    tables = {**SETTINGS, **photos, **ablations}
    parts = []
    for title, labels in tables.items():
        present = [label for label in labels if label in rows]
        if present:
            parts.append(f"### {title}\n\n{markdown(rows, present, metrics, spread)}\n")
    return "\n".join([*parts, *(f"- {line}" for line in verdicts(rows, groups))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="labels or configurations; default: all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--metrics", nargs="+", default=HEADLINES, choices=HEADLINES)
    parser.add_argument("--frozen", action="store_true", help="on a frozen pre-trained trunk")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    for style in ("a", "b"):
        suffix = "" if style == "a" else "-b"
        make_benchmark(Path(f"data/procedural-small{suffix}"), size="small", seed=0, style=style)
    cells = [
        Cell(label, config, tuple(overrides), seed)
        for seed in range(options.seeds)
        for label, (config, overrides) in (frozen() if options.frozen else known()).items()
        if not options.only or {label, config} & {*options.only}
    ]
    rows = run_all(cells, options)
    shown = text(rows, options.metrics, half_interval if options.frozen else statistics.stdev)
    seconds = sum(row.get("seconds", 0.0) for part in rows.values() for row in part)
    shown += f"\n\n{len(cells)} cells, {seconds / 60:.0f} minutes of one process in all."
    print(shown)
    if options.markdown:
        intro = FROZEN_INTRO if options.frozen else INTRO
        options.markdown.write_text(f"{intro}{shown}\n")


if __name__ == "__main__":
    main()
