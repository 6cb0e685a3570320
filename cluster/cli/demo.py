"""The main job end to end on the built-in benchmark."""

from __future__ import annotations

from pathlib import Path

from cluster.data_jobs import make_benchmark
from cluster.evaluation import evaluate_run, write_report
from cluster.tables import print_metrics
from cluster.terminal import say
from cluster.training import GroupSize, ray_session, train_run
from evalsuite.scoring import HEADLINES
from trainer.config import RunConfig, load_config
from trainer.runs import write_json
from trainer.shipped import CONFIGS

METHODS = ("source-only", "dann", "astn")
QUICK = ("training.steps=120", "training.checkpoint_every=60")
GALLERY_SHARDS = 2


def demo_config(method: str, data: Path, *, quick: bool) -> RunConfig:
    """The ready configuration of one method on the benchmark in folder ``data``."""
    overrides = [f"data.root={data}", *(QUICK if quick else ())]
    return load_config(CONFIGS / "procedural" / f"{method}.yaml", overrides)


def run_demo(out: Path, *, workers: int | GroupSize, quick: bool) -> Path:
    """Benchmark, three trainings, three evaluations, one table, one report in ``out``.

    Everything that is already there is kept: a second call trains nothing.
    """
    size = "smoke" if quick else "small"
    data = Path("data") / f"procedural-{size}"
    make_benchmark(data, size=size, seed=0)
    with ray_session():
        runs, results = [], []
        for method in METHODS:
            run = out / (f"{method}-quick" if quick else method)
            train_run(demo_config(method, data, quick=quick), run, workers=workers)
            results.append(evaluate_run(run, shards=GALLERY_SHARDS, actors=True))
            runs.append(run)
    print_metrics(list(zip(METHODS, results, strict=True)))
    rows = [
        {"method": method, "metrics": {name: result[name] for name in HEADLINES}}
        for method, result in zip(METHODS, results, strict=True)
    ]
    write_json(out / "results.json", {"rows": rows})
    page = write_report(runs, out / "report.html", title="img2shape demo")
    say(f"report: {page}")
    return page
