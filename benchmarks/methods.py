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
import statistics
from collections.abc import Sequence
from pathlib import Path

from ablations import ABLATIONS, FROZEN, FROZEN_TRUNK, PHOTOS, SETTINGS
from cells import Cell, Rows, Spread, markdown, mean, run_all

from cluster.data_jobs import make_benchmark
from evalsuite.scoring import HEADLINES
from evalsuite.statistics import seed_half_width

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
    splits = ["data.queries.split=val", "data.gallery.split=val"] if options.validation else []
    cells = [
        Cell(label, f"procedural/{config}", (*overrides, *splits), seed)
        for seed in range(options.seeds)
        for label, (config, overrides) in (frozen() if options.frozen else known()).items()
        if not options.only or {label, config} & {*options.only}
    ]
    rows = run_all(cells, out=options.out, jobs=options.jobs)
    shown = text(rows, options.metrics, seed_half_width if options.frozen else statistics.stdev)
    seconds = sum(row.get("seconds", 0.0) for part in rows.values() for row in part)
    shown += f"\n\n{len(cells)} cells, {seconds / 60:.0f} minutes of one process in all."
    print(shown)
    if options.markdown:
        intro = FROZEN_INTRO if options.frozen else INTRO
        options.markdown.write_text(f"{intro}{shown}\n")


if __name__ == "__main__":
    main()
