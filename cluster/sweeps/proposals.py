"""A search: points that Optuna's sampler proposes after the results so far.

A round has as many points as run at once, and is proposed when all cells of the round before have
ended. Hence the same seed and results give the same points: a search that was interrupted proposes
the same points again and finds their results in the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.sweeps.cells import Cell
from cluster.sweeps.description import Sweep, distribution
from cluster.sweeps.grid import Skipped, cell_at
from dataio.records import DataError
from evalsuite.scoring import LOWER_IS_BETTER as METRICS_LOWER
from trainer.choosing import LOWER_IS_BETTER as CRITERIA_LOWER
from trainer.config import ConfigError


def lower_is_better(score: str) -> bool:
    """Whether less of a criterion or metric is better."""
    return score in METRICS_LOWER or score in CRITERIA_LOWER


def value_of(row: Mapping[str, Any], sweep: Sweep) -> float | None:
    """The value of a row that the search is told, None for a failed cell.

    It is the best score of the learning curve where checkpoints are chosen by that score, else the
    last score.
    """
    name = sweep.compares
    found = [p[name] for p in row.get("curve", ()) if isinstance(p.get(name), int | float)]
    if row["status"] == "failed" or not found:
        return None
    chosen_by_it = name == sweep.selection or sweep.selection == "oracle"
    best = min if lower_is_better(name) else max
    return float(best(found) if chosen_by_it else found[-1])


@dataclass
class Proposals:
    """The Optuna study of a sweep, and the cells that it has proposed.

    Raises:
        ConfigError: Optuna is not installed.
    """

    sweep: Sweep
    round_size: int
    cells: dict[str, Cell] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    asked: int = 0

    def __post_init__(self) -> None:
        try:
            import optuna
        except ImportError:
            raise ConfigError(
                "search.kind: optuna is not installed; pip install 'img2shape[search]', or "
                "kind: random"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        direction = "minimize" if lower_is_better(self.sweep.compares) else "maximize"
        sampler = optuna.samplers.TPESampler(seed=self.sweep.search.seed)
        self._study = optuna.create_study(sampler=sampler, direction=direction)
        self._space = {name: _space(values) for name, values in self.sweep.axes.items()}
        self._round: list[tuple[Any, str | None]] = []
        self._values: dict[str, float | None] = {}

    def next_round(self) -> list[Cell]:
        """The cells of one round of points, none when all have been proposed.

        A point that no method can do is told to the sampler as failed and listed in ``skipped``.
        Call :meth:`tell` for each cell before the next round.
        """
        self._close_round()
        left = (self.sweep.search.trials or 0) - self.asked
        proposed: dict[str, Cell] = {}
        for _ in range(min(self.round_size, left)):
            trial = self._study.ask(self._space)
            self.asked += 1
            point = {
                name: _value(trial.params[name], self.sweep.axes[name]) for name in self._space
            }
            try:
                cell = cell_at(self.sweep, point)
            except (ConfigError, DataError) as err:
                self.skipped.append(Skipped(point, str(err)))
                self._round.append((trial, None))
                continue
            self._round.append((trial, cell.key))
            proposed[cell.key] = self.cells.setdefault(cell.key, cell)
        if not proposed and self.asked < (self.sweep.search.trials or 0):
            return self.next_round()
        return list(proposed.values())

    def tell(self, key: str, row: Mapping[str, Any]) -> None:
        """The result of a proposed cell."""
        self._values[key] = value_of(row, self.sweep)

    def _close_round(self) -> None:
        """Tell the sampler the values in the order of the points, whichever ended first."""
        from optuna.trial import TrialState

        for trial, key in self._round:
            value = None if key is None else self._values.get(key)
            if value is None or not math.isfinite(value):
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, value)
        self._round = []


def _space(values: Any) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found = distribution(values)
    if found is None:
        # Optuna takes plain values only, so a choice is the index of its value.
        return CategoricalDistribution(tuple(range(len(values))))
    kind, low, high = found
    if kind == "int":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=kind == "loguniform")


def _value(proposed: Any, values: Any) -> Any:
    found = distribution(values)
    if found is None:
        return list(values)[proposed]
    return proposed if found[0] == "int" else float(f"{proposed:.4g}")
