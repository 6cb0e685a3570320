"""The main job end to end on the built-in benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.data_jobs import make_benchmark
from cluster.evaluation import evaluate_run, write_report
from cluster.tables import print_metrics
from cluster.terminal import say
from cluster.training import GroupSize, ray_session, train_run
from evalsuite.scoring import HEADLINES
from trainer.config import RunConfig, load_config
from trainer.methods import METHODS
from trainer.runs import write_json
from trainer.shipped import CONFIGS

COMPARED = ("zero-shot", "source-only", "astn")
# A pre-trained trunk that is not trained: its outputs are computed once, for all runs.
FROZEN = (
    "network.backbone=timm/tf_efficientnet_lite0",
    "network.weights=package:efficientnet-lite0",
    "network.train=head",
    "network.image_size=96",
    "data.train_views=null",
)
# In float32, in which the trunk is three times faster, another number of workers changes the fourth
# digit of a metric.
HEAD = (
    "optimizer.learning_rate=0.01",
    "training.precision=float32",
    "training.checkpoint_every=100",
)
STEPS, QUICK_STEPS = 200, 100
QUICK_TITLE = "img2shape demo --quick: it runs, the numbers mean nothing"
GALLERY_SHARDS = 2


def demo_config(method: str, data: Path, *, quick: bool) -> RunConfig:
    """The shipped description of one method on the benchmark in ``data``, on a frozen trunk."""
    overrides = [f"data.root={data}", *FROZEN]
    if METHODS[method].trains:
        overrides += [*HEAD, f"training.steps={QUICK_STEPS if quick else STEPS}"]
    return load_config(CONFIGS / "procedural" / f"{method}.yaml", overrides)


def run_demo(out: Path, *, workers: int | GroupSize, quick: bool) -> Path:
    """Benchmark, three runs, three evaluations, one table, one report in ``out``.

    Everything that is already there is kept: a second call trains nothing.
    """
    benchmark = "smoke" if quick else "small"
    data = Path("data") / f"procedural-{benchmark}"
    make_benchmark(data, size=benchmark, seed=0)
    with ray_session():
        runs = {method: out / (f"{method}-quick" if quick else method) for method in COMPARED}
        results = {}
        for method, run in runs.items():
            # What takes no steps needs no workers, whose start is most of a short run.
            size = workers if METHODS[method].trains else 0
            train_run(demo_config(method, data, quick=quick), run, workers=size)
            results[method] = evaluate_run(run, shards=GALLERY_SHARDS, actors=True)
    page = write_results(runs, results, out, title=QUICK_TITLE if quick else "img2shape demo")
    if quick:
        say("--quick shows that everything runs; its numbers mean nothing")
    return page


def write_results(
    runs: Mapping[str, Path], results: Mapping[str, dict[str, Any]], out: Path, *, title: str
) -> Path:
    """Print the table of evaluated runs by name; write ``results.json`` and the report in ``out``.

    Returns the report.
    """
    print_metrics(list(results.items()))
    rows = [
        {"method": method, "metrics": {name: result[name] for name in HEADLINES}}
        for method, result in results.items()
    ]
    write_json(out / "results.json", {"rows": rows})
    page = write_report(list(runs.values()), out / "report.html", title=title)
    say(f"report: {page}")
    return page
