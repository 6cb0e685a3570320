"""Which checkpoints stay: the newest ones and, by their scores, the best ones.

Only the small ``checkpoint.json`` of each checkpoint is read. The scores come from validation
(:mod:`trainer.validation.validation`). A metric uses labels of the data that are evaluated, so a
choice by it is an oracle's. A criterion uses no such labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalsuite.scoring import LOWER_IS_BETTER
from trainer.choosing import CRITERIA, criteria, criterion_place, criterion_selections
from trainer.config import RunConfig
from trainer.runs.checkpoint_facts import UnusableError, read_facts


@dataclass(frozen=True)
class Scored:
    """A checkpoint with a score: ``value`` of ``name``, a metric or a criterion, on ``where``."""

    path: Path
    step: int
    name: str
    value: float
    where: str

    @property
    def by_oracle(self) -> bool:
        """Whether the score used labels of what is evaluated."""
        return self.name not in CRITERIA

    @property
    def value_shown(self) -> str:
        """``mAP 0.613 on val at step 400``."""
        return f"{self.name} {self.value:.3f} on {self.where} at step {self.step}"

    @property
    def selection(self) -> str:
        """How results of this checkpoint say that it was chosen: ``oracle (mAP on val)``,
        ``im on target_shapes/train``."""
        chosen = f"{self.name} on {self.where}"
        return f"oracle ({chosen})" if self.by_oracle else chosen


@dataclass(frozen=True)
class Retention:
    """Keep the ``last`` newest checkpoints (at least 1) and the ``best`` ones by each of ``names``,
    metrics or criteria."""

    last: int
    best: int = 0
    names: tuple[str, ...] = ("mAP",)

    @classmethod
    def of(cls, config: RunConfig) -> Retention:
        """What a run wants kept."""
        training, validation = config.training, config.validation
        names = (name for name in (validation.metric, validation.criterion) if name is not None)
        return cls(training.keep_last, training.keep_best, tuple(names))

    def expendable(self, checkpoints: Sequence[Path]) -> list[Path]:
        """Those of ``checkpoints``, newest first, that may be removed; never the newest one."""
        older = checkpoints[max(1, self.last) :]
        if not older:
            return []
        best = {c.path for name in self.names for c in best_first(checkpoints, name)[: self.best]}
        return [path for path in older if path not in best]


def best_first(checkpoints: Iterable[Path], name: str | None = None) -> list[Scored]:
    """The checkpoints that have a score, best first, the newer first where scores are equal.

    Damaged checkpoints are left out, and scores under other conditions than the newest one's.

    Args:
        name: a metric or a criterion; None takes the metric that the run of the newest checkpoint
            with a metric's scores compares.
    """
    found = [(path, facts) for path in checkpoints if (facts := _scored_facts(path))]
    found.sort(key=lambda one: one[1]["step"], reverse=True)
    configured = (m for _, facts in found if (m := _metric(facts)) and m in facts["scores"])
    name = name or next(configured, None)
    scored = [(path, facts) for path, facts in found if name in facts["scores"]]
    if name is None or not scored:
        return []
    newest = scored[0][1]
    sign = -1.0 if name in LOWER_IS_BETTER | criteria.LOWER_IS_BETTER else 1.0
    compared = [
        Scored(path, facts["step"], name, value, _where(facts, name))
        for path, facts in scored
        if conditions(facts, name) == conditions(newest, name)
        and math.isfinite(value := _number(facts["scores"].get(name)))
    ]
    return sorted(compared, key=lambda c: (sign * c.value, c.step), reverse=True)


def comparable_scores(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, Any]:
    """The scores in the facts ``theirs`` that a run with the facts ``mine`` would compute alike for
    the same weights."""
    return {
        name: value
        for name, value in (theirs.get("scores") or {}).items()
        if conditions(theirs, name) == conditions(mine, name)
    }


def conditions(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings, besides the weights, that the score ``name`` depends on."""
    config = facts.get("config", {})
    if name in CRITERIA:
        return criterion_selections(config, name)
    return {
        "split": config.get("validation", {}).get("split"),
        "data": [config.get("data", {}).get(side) for side in ("queries", "gallery")],
        "evaluation": {k: v for k, v in config.get("evaluation", {}).items() if k != "batch"},
    }


def _metric(facts: Mapping[str, Any]) -> str | None:
    return facts.get("config", {}).get("validation", {}).get("metric", "mAP")


def _where(facts: Mapping[str, Any], name: str) -> str:
    config = facts.get("config", {})
    if name in CRITERIA:
        return criterion_place(config, name)
    return config.get("validation", {}).get("split", "val")


def _scored_facts(checkpoint: Path) -> dict[str, Any] | None:
    try:
        facts = read_facts(checkpoint)
    except UnusableError:
        return None
    return facts if isinstance(facts.get("scores"), dict) else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
