"""Scoring a gallery: ours against the bare matrix product and against full rankings.

    python benchmarks/evaluate.py [--sizes mi3dor large] [--repeats 3] [--only NAME ...]
                                  [--json FILE] [--quick]

Every contender gets the same float32 embeddings (256 components, clustered classes) and runs in a
process of its own, which loads them, warms up on a corner of the problem, and then reports the best
time of its repeats and the memory it needed beyond the embeddings. Those that rank agree on mean
average precision, or the run stops.

  product              Q x G inner products in float32, block by block, kept nowhere: the floor
  ours float32         evaluate(arithmetic="float32"): every metric, every tie rule, both curves
  ours exact           evaluate(arithmetic="exact"): the same, the same bits on every machine
  numpy argsort        full ranking of every query, block by block; NN, FT, AP from it
  torch cdist + sort   the same with torch
  faiss full list      IndexFlatL2.search with k = G; NN, FT, AP from the list
  torchmetrics         RetrievalMAP on the flattened matrix; mi3dor size only, AP only
  metric-learning      pytorch-metric-learning's AccuracyCalculator with k = G; mi3dor size only

Sizes: mi3dor 10,500 x 3,848, 21 classes; large 2,000 x 200,000, 20 classes; million 1,000 x
1,000,000, 100 classes (only on demand: full rankings take minutes). Needs the extra
``bench`` for the last two; without it they are left out, and said to be.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {
    "quick": (300, 2_000, 10),
    "mi3dor": (10_500, 3_848, 21),
    "large": (2_000, 200_000, 20),
    "million": (1_000, 1_000_000, 100),
}
WIDTH = 256
BLOCK = 200
GOALS = {
    "large": "goals: ours at most 2x the product, 4x faster than the faiss list, at most 1 GB",
    "mi3dor": "goal: ours under 1.5 s",
}

Problem = dict[str, np.ndarray]
Result = dict[str, float]


def problem(queries: int, items: int, classes: int, *, seed: int = 0) -> Problem:
    """Embeddings around class centres, as overlapping as those of a middling network."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((classes, WIDTH), dtype=np.float32)
    found: Problem = {}
    for name, count in (("q", queries), ("g", items)):
        labels = np.sort(random.integers(0, classes, count))
        vectors = 3.0 * random.standard_normal((count, WIDTH), dtype=np.float32)
        found[name], found[f"{name}_labels"] = vectors + centres[labels], labels
    return found


def from_lists(relevant: np.ndarray) -> np.ndarray:
    """NN, FT and AP float64 [q, 3] of relevance lists bool [q, G]."""
    rows = []
    for row in relevant:
        ranks = np.flatnonzero(row) + 1
        n = len(ranks)
        precision = np.arange(1, n + 1) / ranks
        rows.append((ranks[0] == 1, np.count_nonzero(ranks <= n) / n, precision.mean()))
    return np.array(rows, dtype=np.float64)


def averaged(parts: list[np.ndarray]) -> Result:
    nn, ft, ap = np.concatenate(parts).mean(axis=0)
    return {"NN": float(nn), "FT": float(ft), "mAP": float(ap)}


def product(p: Problem) -> Result:
    for first in range(0, len(p["q"]), 1024):
        for at in range(0, len(p["g"]), 4096):
            np.matmul(p["q"][first : first + 1024], p["g"][at : at + 4096].T)
    return {}


def ours(p: Problem, arithmetic: str) -> Result:
    from evalsuite import Embeddings, evaluate

    queries, gallery = (
        Embeddings(
            [f"{name}{row}" for row in range(len(p[name]))],
            [f"class-{label}" for label in p[f"{name}_labels"]],
            p[name],
        )
        for name in ("q", "g")
    )
    return evaluate(queries, gallery, arithmetic=arithmetic).headline


def numpy_argsort(p: Problem) -> Result:
    squared = np.einsum("gd,gd->g", p["g"], p["g"])
    parts = []
    for first in range(0, len(p["q"]), BLOCK):
        block = slice(first, first + BLOCK)
        order = np.argsort(squared - 2.0 * (p["q"][block] @ p["g"].T), axis=1, kind="stable")
        parts.append(from_lists(p["g_labels"][order] == p["q_labels"][block, None]))
    return averaged(parts)


def torch_sort(p: Problem) -> Result:
    import torch

    q, g = torch.from_numpy(p["q"]), torch.from_numpy(p["g"])
    q_labels, g_labels = torch.from_numpy(p["q_labels"]), torch.from_numpy(p["g_labels"])
    parts = []
    for first in range(0, len(q), BLOCK):
        block = slice(first, first + BLOCK)
        order = torch.sort(torch.cdist(q[block], g), dim=1, stable=True).indices
        parts.append(from_lists((g_labels[order] == q_labels[block, None]).numpy()))
    return averaged(parts)


def faiss_list(p: Problem) -> Result:
    import faiss

    index = faiss.IndexFlatL2(WIDTH)
    index.add(p["g"])  # pyright: ignore[reportCallIssue]
    parts = []
    for first in range(0, len(p["q"]), BLOCK):
        block = slice(first, first + BLOCK)
        _, order = index.search(p["q"][block], len(p["g"]))  # pyright: ignore[reportCallIssue]
        parts.append(from_lists(p["g_labels"][order] == p["q_labels"][block, None]))
    return averaged(parts)


def torchmetrics_map(p: Problem) -> Result:
    import torch

    from trainer.networks.torchvision_shim import import_torchvision

    import_torchvision()  # which torchmetrics loads, and which needs some care
    from torchmetrics.retrieval import RetrievalMAP  # pyright: ignore[reportMissingImports]

    q, g = torch.from_numpy(p["q"]), torch.from_numpy(p["g"])
    metric = RetrievalMAP()
    for first in range(0, len(q), BLOCK):
        near = 1.0 / (1.0 + torch.cdist(q[first : first + BLOCK], g))
        hits = torch.from_numpy(p["q_labels"][first : first + BLOCK, None] == p["g_labels"])
        rows = torch.arange(first, first + len(near))[:, None].expand_as(near)
        metric.update(near.flatten(), hits.flatten(), indexes=rows.flatten())
    return {"mAP": float(metric.compute())}


def metric_learning(p: Problem) -> Result:
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import (  # pyright: ignore[reportMissingImports]
        AccuracyCalculator,
    )

    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision"),
        k=len(p["g"]),
        device=torch.device("cpu"),
    )
    found = calculator.get_accuracy(
        torch.from_numpy(p["q"]),
        torch.from_numpy(p["q_labels"]),
        torch.from_numpy(p["g"]),
        torch.from_numpy(p["g_labels"]),
    )
    return {"mAP": float(found["mean_average_precision"]), "NN": float(found["precision_at_1"])}


CONTENDERS: dict[str, Callable[[Problem], Result]] = {
    "product": product,
    "ours float32": lambda p: ours(p, "float32"),
    "ours exact": lambda p: ours(p, "exact"),
    "numpy argsort": numpy_argsort,
    "torch cdist + sort": torch_sort,
    "faiss full list": faiss_list,
    "torchmetrics": torchmetrics_map,
    "metric-learning": metric_learning,
}
OPTIONAL = {"torchmetrics": "torchmetrics", "metric-learning": "pytorch_metric_learning"}
ONE_REPEAT = {*OPTIONAL, "faiss full list", "numpy argsort", "torch cdist + sort"}


def measure(name: str, folder: str, repeats: int, answers: Any) -> None:
    """In a process of its own: best seconds, memory beyond the embeddings, the result."""
    data = {path.stem: np.load(path) for path in Path(folder).glob("*.npy")}
    run = CONTENDERS[name]
    corner = {key: value[:: math.ceil(len(value) / 300)].copy() for key, value in data.items()}
    run(corner)
    before = peak_bytes()
    seconds, result = math.inf, {}
    for _ in range(1 if name in ONE_REPEAT else repeats):
        start = time.perf_counter()
        result = run(data)
        seconds = min(seconds, time.perf_counter() - start)
    answers.put({"seconds": seconds, "bytes": peak_bytes() - before, "result": result})


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def contended(size: str, options: argparse.Namespace) -> dict[str, Any]:
    """Every contender that takes part at this size."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, values in problem(*SIZES[size]).items():
            np.save(Path(folder) / f"{name}.npy", values)
        for name in options.only or CONTENDERS:
            if name in OPTIONAL and (
                size in ("large", "million") or importlib.util.find_spec(OPTIONAL[name]) is None
            ):
                why = "does not fit" if size != "mi3dor" else "not installed (extra bench)"
                print(f"{size}: {name}: left out, {why}", flush=True)
                continue
            answers = context.Queue()
            process = context.Process(target=measure, args=(name, folder, options.repeats, answers))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"evaluate: {name} failed at size {size}, see above")
            found[name] = answers.get()
            show(size, name, found)
    require_agreement(found)
    return found


def show(size: str, name: str, found: dict[str, Any]) -> None:
    entry = found[name]
    floor = found.get("product", entry)["seconds"]
    values = " ".join(
        f"{key} {entry['result'][key]:.6f}" for key in ("NN", "FT", "mAP") if key in entry["result"]
    )
    print(
        f"{size}: {name:20} {entry['seconds']:8.2f} s {entry['seconds'] / floor:7.2f}x product "
        f"{entry['bytes'] / 2**20:7.0f} MiB  {values}",
        flush=True,
    )


def require_agreement(found: dict[str, Any]) -> None:
    """Float32 rounding moves near-ties; more than that is an error of somebody."""
    known = {name: entry["result"]["mAP"] for name, entry in found.items() if entry["result"]}
    if known and max(known.values()) - min(known.values()) > 1e-4:
        raise SystemExit(f"evaluate: mean average precision differs: {known}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["mi3dor", "large"])
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    options = parser.parse_args()
    sizes = ["quick"] if options.quick else options.sizes
    results = {}
    for size in sizes:
        queries, items, classes = SIZES[size]
        print(f"{size}: {queries} x {items} x {WIDTH}, {classes} classes; {GOALS.get(size, '')}")
        results[size] = contended(size, options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
