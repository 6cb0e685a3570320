"""What a sweep costs beside its trainings.

    python benchmarks/sweep.py [--cells 12] [--steps 200] [--at-once 2] [--out FOLDER]

The same small cells (DANN with the tiny network on the built-in benchmark, one seed each) are
trained and scored three times with nothing kept from before:

- sweep: `img2shape sweep` on Ray Tune, from the start of the command to its page;
- pool: the same functions in a pool of as many processes, which a careful user would write;
- commands: `img2shape train` and `img2shape eval`, one after the other for each cell, as many
  cells at a time: every cell pays the start of two processes.

Printed are seconds, and each one's ratio to the trials' own time: the sum over cells of what
training and scoring took inside their process, as the sweep's ledger has it, divided by how many
ran at once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import yaml

from cluster.data_jobs import make_benchmark
from cluster.evaluation.jobs import evaluate_run
from cluster.training import train_run
from trainer.config import load_config

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "procedural" / "dann.yaml"
COMMAND = (sys.executable, "-m", "cluster")


def keys(data: Path, steps: int, seed: int) -> dict[str, object]:
    """What is set in each cell, the same for all three."""
    return {
        "data.root": str(data),
        "data.num_classes": None,
        "training.steps": steps,
        "training.precision": "float32",
        "training.threads": 1,
        "training.seed": seed,
    }


def overrides(data: Path, steps: int, seed: int) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in keys(data, steps, seed).items()]


def by_sweep(seeds: Sequence[int], options: argparse.Namespace, out: Path) -> list[dict]:
    """Rows of a sweep over the seeds."""
    out.mkdir(parents=True)
    file = out / "cells.yaml"
    common = keys(options.data, options.steps, 0)
    del common["training.seed"]
    tree = {
        "config": str(CONFIG),
        "set": common,
        "axes": {"training.seed": list(seeds)},
        "oracle": False,  # nothing but what the others do too
        "reports": False,
    }
    file.write_text(yaml.safe_dump(tree))
    at_once = ("--max-concurrent", str(options.at_once))
    command = [*COMMAND, "sweep", str(file), "--store", str(out / "store"), "--json", *at_once]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)["rows"]


def one_in_pool(task: tuple[Path, int, int, Path]) -> None:
    data, steps, seed, out = task
    train_run(load_config(CONFIG, overrides(data, steps, seed)), out, workers=0)
    evaluate_run(out, shards=1)


def by_pool(seeds: Sequence[int], options: argparse.Namespace, out: Path) -> None:
    """The cells in a pool of spawned processes."""
    tasks = [(options.data, options.steps, seed, out / str(seed)) for seed in seeds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.at_once, mp_context=context) as pool:
        list(pool.map(one_in_pool, tasks))


def by_commands(seeds: Sequence[int], options: argparse.Namespace, out: Path) -> None:
    """Two commands for each cell."""

    def cell(seed: int) -> None:
        run = str(out / str(seed))
        train = ["train", str(CONFIG), *overrides(options.data, options.steps, seed), "--out", run]
        for words in (train, ["eval", run]):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.run([*COMMAND, *words], check=True, **quiet)  # pyright: ignore[reportArgumentType, reportCallIssue]

    with ThreadPoolExecutor(options.at_once) as pool:
        list(pool.map(cell, seeds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cells", type=int, default=12)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--data", type=Path, default=Path("data/procedural-small"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-sweep"))
    options = parser.parse_args()
    make_benchmark(options.data, size="small", seed=0)
    shutil.rmtree(options.out, ignore_errors=True)
    seeds = range(options.cells)
    seconds: dict[str, float] = {}
    begun = time.perf_counter()
    rows = by_sweep(seeds, options, options.out / "sweep")
    seconds["sweep"] = time.perf_counter() - begun
    for name, run in (("pool", by_pool), ("commands", by_commands)):
        begun = time.perf_counter()
        run(seeds, options, options.out / name)
        seconds[name] = time.perf_counter() - begun
    own = sum(row["seconds"]["total"] for row in rows) / options.at_once
    print(f"{len(rows)} cells of {options.steps} steps, {options.at_once} at a time")
    print(f"| | seconds | to the trials' own time ({own:.1f} s) |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.1f} | {value / own:.2f} |")


if __name__ == "__main__":
    main()
