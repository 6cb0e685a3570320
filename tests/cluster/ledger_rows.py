"""Rows of a ledger for tests, and processes that write them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cluster.ledger.store import Ledger


def key(number: int) -> str:
    return f"{number:016x}"


def row(number: int, status: str = "finished", **more: Any) -> dict[str, Any]:
    """A row of cell ``number``, as a sweep writes it."""
    scores = {"FT": 0.25 + number / 1000, "mAP": 0.5, "NN": None}
    return {
        "key": key(number),
        "status": status,
        "written": f"2026-01-31T12:00:{number % 60:02d}Z",
        "sweep": "first",
        "cell": {"method": "astn", "network.backbone": "tiny", "training.seed": number},
        "method": "astn",
        "dataset": "procedural",
        "seed": number,
        "config": {"method": {"name": "astn", "alpha": 1.0}, "training": {"seed": number}},
        "code": "0123456789ab",
        "selection": "last",
        "metrics": scores if status == "finished" else None,
        "selected": {"selection": "last", "step": 400, "score": None},
        "oracle": {"selection": "oracle (mAP on val)", "step": 300, "metrics": {"mAP": 0.625}}
        if status == "finished"
        else None,
        "intervals": {"FT": [0.1, 0.4]},
        "seconds": {"train": 3.5, "total": 4},
        "images_per_second": 81.5,
        "run": f"cells/astn-{key(number)}",
        "error": None if status != "failed" else "lost | <b>",
        "host": "here",
        **more,
    }


def write_old(ledger: Ledger, *rows: dict[str, Any]) -> None:
    """Write a ledger as earlier versions did: the rows of all cells in one file."""
    ledger.store.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"format": 1, **one}) for one in rows]
    ledger.old_file.write_text("".join(f"{line}\n" for line in lines))


def start_writer(path: Path, told: Path, *, first: int, count: int) -> BaseProcess:
    """A process of :func:`append_many`, forked by one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    writer = context.Process(target=append_many, args=(path, told, first, count))
    writer.start()
    return writer


def append_many(path: Path, told: Path, first: int, count: int) -> None:
    """Append ``count`` cells from ``first`` on; tell each one's key once it is on disk.

    Some rows are of many pages, so that a kill may come between two of them.
    """
    ledger, sizes = Ledger(path), random.Random(first)
    file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(first, first + count):
        filler = "x" * sizes.choice((10, 5_000, 100_000))
        ledger.append(row(number, note=filler))
        os.write(file, f"{key(number)}\n".encode())
