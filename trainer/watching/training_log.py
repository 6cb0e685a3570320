"""``log.jsonl``: what is recorded of a logged step, and the observer that writes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.methods import Losses, Now
from trainer.runs import StepLog
from trainer.synchronised import collectives
from trainer.watching.observer import Observer, ReadCounts

OnRecord = Callable[[dict[str, Any]], None]


class TrainingLog(Observer):
    """Rank 0 writes a line for each logged step and passes the record on.

    Args:
        path: of the file; lines of steps that are trained again are removed from it.
        on_record: called on rank 0 with every record.
    """

    def __init__(self, path: Path, *, on_record: OnRecord | None = None) -> None:
        self._path, self._on_record = path, on_record
        self._log: StepLog | None = None

    def started(self, step: int, loader: ReadCounts) -> None:
        if collectives.rank() == 0:
            self._log = StepLog(self._path, from_step=step)

    def recorded(self, record: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.write(record)
        if self._on_record is not None:
            self._on_record(record)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()


def step_record(
    now: Now,
    done: Mapping[str, tuple[Losses, Tensor | None]],
    *,
    learning_rate: float,
    round_health: dict[str, float],
    seconds: float,
) -> dict[str, Any]:
    """A step as plain numbers. Reading them from a GPU makes the host wait for it.

    Args:
        done: by the name of each update its losses and its gradient norm, which is None where the
            optimiser has not stepped yet (``optimizer.accumulate``).
        round_health: health signals of the round that the step belongs to.
        seconds: since the run was started.
    """
    terms: dict[str, float] = {}
    health: dict[str, float] = {}
    for name, (losses, norm) in done.items():
        terms |= {k: v.item() for k, v in losses.terms.items()}
        health |= {k: float(v) for k, v in losses.health.items()}
        if len(done) > 1 and norm is not None:
            health[f"gradient_norm_{name}"] = norm.item()
    norms = [norm.item() for _, norm in done.values() if norm is not None]
    if norms:
        health["gradient_norm"] = math.hypot(*norms)
    return {
        "step": now.step,
        "progress": now.p,
        "learning_rate": learning_rate,
        "loss": sum(losses.total.item() for losses, _ in done.values()),
        "terms": terms,
        "health": health | round_health,
        "seconds": seconds,
    }
