"""Does adaptation help on the built-in benchmark? Every method over several seeds, one table.

    python benchmarks/adaptation.py [--seeds 3] [--methods source-only dann astn]
                                    [--data data/procedural-small] [--out runs/adaptation]

Trains in this process with the ready configurations and scores the full test gallery. Finished
cells are kept, so an interrupted call continues. Prints a Markdown table (mean ± standard
deviation over seeds) and the verdict: ASTN above source-only by at least 0.05 in FT, and in NN.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from cluster.jobs import evaluate_run, make_benchmark, train_run
from cluster.tables import HEADLINE
from trainer.config import load_config

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "procedural"


def cell(method: str, seed: int, data: Path, out: Path) -> dict[str, float]:
    """Headline metrics of one method and seed, trained now or read from its run folder."""
    overrides = [f"data.root={data}", f"training.seed={seed}"]
    config = load_config(CONFIGS / f"{method}.yaml", overrides)
    run = out / f"{method}-{seed}"
    train_run(config, run, workers=0)
    result = evaluate_run(run, shards=2)
    return {name: result[name] for name in HEADLINE}


def markdown(rows: dict[str, list[dict[str, float]]]) -> str:
    """The table: mean ± standard deviation over seeds, three decimals."""
    lines = [f"| method | {' | '.join(HEADLINE)} |", "|---" * (len(HEADLINE) + 1) + "|"]
    for method, cells in rows.items():
        shown = []
        for name in HEADLINE:
            values = [c[name] for c in cells]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            shown.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
        lines.append(f"| {method} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["source-only", "dann", "astn"])
    parser.add_argument("--data", type=Path, default=Path("data/procedural-small"))
    parser.add_argument("--out", type=Path, default=Path("runs/adaptation"))
    options = parser.parse_args()
    make_benchmark(options.data, size="small", seed=0)
    rows = {
        method: [cell(method, seed, options.data, options.out) for seed in range(options.seeds)]
        for method in options.methods
    }
    print(markdown(rows))
    if {"source-only", "astn"} <= rows.keys():
        for name, margin in (("FT", 0.05), ("NN", 0.0)):
            gain = statistics.mean(c[name] for c in rows["astn"]) - statistics.mean(
                c[name] for c in rows["source-only"]
            )
            verdict = "holds" if gain > margin else "FAILS"
            print(f"\nASTN over source-only in {name}: {gain:+.3f} (wanted > {margin}): {verdict}")


if __name__ == "__main__":
    main()
