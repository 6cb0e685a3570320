"""Rows of a sweep's ledger with made-up but plausible numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from evalsuite.scoring.options import HEADLINES, LOWER_IS_BETTER

METHODS = ("source-only", "dann", "astn")


def ledger_row(cell: dict[str, Any], *, level: float = 0.6, **changed: Any) -> dict[str, Any]:
    """A finished cell whose measures are near ``level``; ``changed`` replaces whole fields."""
    words = repr(sorted(cell.items(), key=str))
    random = np.random.default_rng(list(words.encode()))
    metrics = {m: round(float(level + random.normal() * 0.03), 4) for m in HEADLINES}
    metrics |= {m: 1 - metrics[m] for m in LOWER_IS_BETTER}
    best = {m: v + (-0.02 if m in LOWER_IS_BETTER else 0.02) for m, v in metrics.items()}
    curve = [
        {"step": 100 * i, "mAP": metrics["mAP"] * (1 - 0.5**i), "im": 0.3 * i, "loss": 2.0 / i}
        for i in range(1, 6)
    ]
    key = random.bytes(8).hex()
    return {
        "format": 1,
        "key": key,
        "status": "finished",
        "sweep": "some",
        "cell": cell,
        "method": cell.get("method", "astn"),
        "dataset": "procedural",
        "seed": cell.get("training.seed", 0),
        "selection": "im",
        "metrics": metrics,
        "selected": {"selection": "im on target_shapes/train", "step": 400, "score": 0.9},
        "oracle": {"selection": "oracle (mAP on val)", "step": 300, "metrics": best},
        "intervals": {"FT": [metrics["FT"] - 0.02, metrics["FT"] + 0.02]},
        "curve": curve,
        "steps": 500,
        "seconds": {"train": 60.0, "evaluate": 2.0, "total": 63.0},
        "images_per_second": 512.3,
        "cpu_seconds": 126.0,
        "gpu_seconds": 0.0,
        "run": f"cells/{cell.get('method', 'astn')}-{key}",
        "error": None,
        "attempts": 1,
        **changed,
    }


def unfinished_row(cell: dict[str, Any], status: str, error: str) -> dict[str, Any]:
    """A failed or stopped cell as the ledger has it."""
    none = {"metrics": None, "selected": None, "oracle": None, "intervals": {}}
    seconds = {"train": 12.0}
    row = ledger_row(cell, status=status, error=error, seconds=seconds, **none)
    for name in ("images_per_second", "cpu_seconds", "gpu_seconds"):
        del row[name]
    return row


def grid(
    *,
    methods: Sequence[str] = METHODS,
    transfers: Sequence[str] = ("a -> b", "b -> a"),
    rates: Sequence[float] = (0.1, 0.001),
    seeds: int = 2,
) -> list[dict[str, Any]]:
    """Finished rows of every combination, methods of growing strength."""
    return [
        ledger_row(
            {
                "method": method,
                "transfer": transfer,
                "optimizer.learning_rate": rate,
                "training.seed": seed,
            },
            level=0.4 + 0.1 * place,
        )
        for (place, method), transfer, rate, seed in itertools.product(
            enumerate(methods), transfers, rates, range(seeds)
        )
    ]
