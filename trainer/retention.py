"""Which checkpoints stay: the newest ones and, by their scores, the best ones.

Only the small ``checkpoint.json`` of each checkpoint is read. The scores come from validation
(:mod:`trainer.validation`), which reads labels of the data that are evaluated: what is chosen by
them was chosen by an oracle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalsuite.options import LOWER_IS_BETTER
from trainer.checkpoint_facts import UnusableError, read_facts
from trainer.config import RunConfig

__all__ = ["Retention", "Scored", "best_first", "conditions"]


@dataclass(frozen=True)
class Scored:
    """A checkpoint with a score: ``value`` of ``metric`` on ``split``."""

    path: Path
    step: int
    metric: str
    value: float
    split: str

    @property
    def value_shown(self) -> str:
        """``mAP 0.613 on val at step 400``."""
        return f"{self.metric} {self.value:.3f} on {self.split} at step {self.step}"

    @property
    def selection(self) -> str:
        """How results of this checkpoint say that it was chosen."""
        return f"oracle ({self.metric} on {self.split})"


@dataclass(frozen=True)
class Retention:
    """Keep the ``last`` newest checkpoints (at least 1) and the ``best`` ones by ``metric``."""

    last: int
    best: int = 0
    metric: str = "mAP"

    @classmethod
    def of(cls, config: RunConfig) -> Retention:
        """What a run wants kept."""
        training = config.training
        return cls(training.keep_last, training.keep_best, config.validation.metric)

    def expendable(self, checkpoints: Sequence[Path]) -> list[Path]:
        """Those of ``checkpoints``, newest first, that may be removed; never the newest one."""
        older = checkpoints[max(1, self.last) :]
        if not older:
            return []
        best = {c.path for c in best_first(checkpoints, self.metric)[: self.best]}
        return [path for path in older if path not in best]


def best_first(checkpoints: Iterable[Path], metric: str | None = None) -> list[Scored]:
    """The checkpoints that have a score, best first, the newer first where scores are equal.

    Scores under other conditions than the newest one's are left out, damaged checkpoints too.

    Args:
        metric: None takes the one that the newest scored checkpoint's run compares.
    """
    found = [(path, facts) for path in checkpoints if (facts := _scored_facts(path))]
    if not found:
        return []
    newest = max((facts for _, facts in found), key=lambda facts: facts["step"])
    configured = newest.get("config", {}).get("validation", {})
    name, split = metric or configured.get("metric", "mAP"), configured.get("split", "val")
    sign = -1.0 if name in LOWER_IS_BETTER else 1.0
    scored = [
        Scored(path, facts["step"], name, value, split)
        for path, facts in found
        if conditions(facts) == conditions(newest)
        and math.isfinite(value := _number(facts["scores"].get(name)))
    ]
    return sorted(scored, key=lambda c: (sign * c.value, c.step), reverse=True)


def conditions(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the scores of a checkpoint with these facts depend on, besides its weights."""
    config = facts.get("config", {})
    return {
        "split": config.get("validation", {}).get("split"),
        "data": [config.get("data", {}).get(side) for side in ("queries", "gallery")],
        "evaluation": {k: v for k, v in config.get("evaluation", {}).items() if k != "batch"},
    }


def _scored_facts(checkpoint: Path) -> dict[str, Any] | None:
    try:
        facts = read_facts(checkpoint)
    except UnusableError:
        return None
    return facts if isinstance(facts.get("scores"), dict) else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
