"""Running cells as trials of Ray Tune: placement, retries, early stopping, rounds of a search.

A trial trains in its own process (no workers) or starts a group of Ray Train workers. The process
of a trial that has ended runs the next trial, so that small cells do not pay a start-up each. The
ledger and the run folders record what is done; Tune's own record of the experiment is deleted.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from cluster.errors import USER_ERRORS
from cluster.sweeps.cells import Cell
from cluster.sweeps.description import EarlyStopping
from cluster.sweeps.live import Progress
from cluster.sweeps.proposals import lower_is_better
from cluster.sweeps.trial import Store, failed_row, run_cell, stopped_row
from cluster.terminal import sigterm_interrupts
from cluster.training import nodes, ray_session
from trainer.config import ConfigError

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger and the run folders are the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is Ctrl-C; what was done is kept anyway
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every report carries a score
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "10",  # that a stopped trial has to leave its process free
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they mean to the user
    "RAY_AIR_NEW_OUTPUT": "0",
}
# Larger than any number of steps: Tune would stop a cell at its last step, before it is scored.
MOST_STEPS = 10**9
Row = dict[str, Any]


@dataclass(frozen=True)
class Running:
    """How cells are run: first what the command says, then what the sweep says.

    Attributes:
        workers: Ray Train workers of each cell; 0 trains in the trial's process.
        at_once: most cells at a time; None: as many as the cluster has room for.
        retry: ``failed`` or ``none``; see :func:`cluster.sweeps.plan.plan_cells`.
        code: ``same`` or ``any``; see there.
        sweep: name of the sweep.
        retries: times that a cell whose process failed is tried again.
        stopping: early stopping; None lets all cells train to the end.
        compares: the score that early stopping compares.
        reports: write a report of each cell.
    """

    store: Store
    workers: int = 0
    at_once: int | None = None
    retry: str = "none"
    code: str = "same"
    sweep: str = ""
    retries: int = 1
    stopping: EarlyStopping | None = None
    compares: str | None = None
    reports: bool = False


def run_cells(
    cells: Sequence[Cell] | Callable[[], Sequence[Cell]],
    over: Callable[[Cell, Row], None],
    running: Running,
    *,
    progress: Progress,
) -> None:
    """Run cells until there are none left.

    Args:
        cells: all of them, or a function that gives the next round of them (no cell ends the
            rounds); it is called when all cells of the round before have ended.
        over: called with each cell that has ended and its row.

    Raises:
        ConfigError: the cluster cannot hold a single cell.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the next call continues.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray import tune

    space = None
    if not callable(cells):
        space = {"cell": tune.grid_search([cell.to_text() for cell in cells])}
    with (
        ray_session(),
        sigterm_interrupts(),
        tempfile.TemporaryDirectory(
            prefix="img2shape-tune-", ignore_cleanup_errors=True
        ) as scratch,
    ):
        share = _share(running)
        trainable = tune.with_parameters(
            _trial,
            running=replace(running, store=Store(running.store.path.absolute())),
            share=share,
            working_folder=str(Path.cwd()),
        )
        tune.Tuner(
            tune.with_resources(trainable, share.resources),
            param_space=space,
            tune_config=tune.TuneConfig(
                max_concurrent_trials=share.at_once,
                scheduler=_scheduler(running),
                search_alg=_searcher(cells) if callable(cells) else None,
                num_samples=-1 if callable(cells) else 1,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=f"{running.sweep}-{time.time_ns()}",
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=running.retries),
                callbacks=[_told(running, progress, over)],
                verbose=0,
            ),
        ).fit()


def most_at_once(running: Running) -> int:
    """How many cells run at once on the cluster of this session."""
    return _share(running).at_once


@dataclass(frozen=True)
class _Share:
    """What one cell's process gets, and how many there are at once."""

    cpus: float
    gpus: float
    at_once: int

    @property
    def resources(self) -> dict[str, float]:
        """What a trial's process reserves. A process that only waits for its workers takes none of
        their CPUs, but Tune requires a reservation."""
        if not self.cpus:
            return {"memory": 2.0**20}
        return {"CPU": self.cpus, "GPU": self.gpus}


def _share(running: Running) -> _Share:
    """One CPU for a cell without a GPU: the results do not depend on how many run at once. A cell
    with a GPU gets its part of the CPUs."""
    held = nodes()
    cpus = sum(node.cpus for node in held)
    gpus = sum(node.gpus for node in held)
    if running.workers:
        most = int((gpus if gpus >= running.workers else cpus) // running.workers)
        if most < 1:
            raise ConfigError(
                f"--workers-per-trial {running.workers}: the cluster has {cpus:g} CPUs and "
                f"{gpus:g} GPUs; take fewer workers"
            )
        return _Share(0.0, 0.0, min(most, running.at_once or most))
    if gpus >= 1:
        at_once = min(int(gpus), running.at_once or int(gpus))
        return _Share(max(1.0, cpus // gpus), 1.0, at_once)
    most = max(1, int(cpus))
    return _Share(1.0, 0.0, min(most, running.at_once or most))


def _trial(
    config: dict[str, Any], *, running: Running, share: _Share, working_folder: str
) -> dict[str, Any]:
    """Body of one trial; runs in a thread of Tune's process for it."""
    from ray import tune

    if Path(working_folder).is_dir():
        os.chdir(working_folder)
    cell = _cell_of(config)
    try:
        row = run_cell(
            cell,
            running.store,
            sweep=running.sweep,
            workers=running.workers,
            cpus=share.cpus or 1.0,
            gpus=share.gpus,
            report=tune.report,
            with_report=running.reports,
        )
    except USER_ERRORS as err:  # would happen again
        error = f"{type(err).__name__}: {err}"
        row = failed_row(cell, running.store, sweep=running.sweep, error=error)
    return {"row": row}


def _trial_name(trial: Any) -> str:
    return f"{_cell_of(trial.config).name}-{trial.trial_id}"


def _cell_of(config: dict[str, Any]) -> Cell:
    return _cell_from(config["cell"])


@cache
def _cell_from(text: str) -> Cell:
    return Cell.from_text(text)


def _scheduler(running: Running) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if running.stopping is None:
        return FIFOScheduler()
    assert running.compares is not None
    return ASHAScheduler(
        time_attr="step",
        metric=running.compares,
        mode="min" if lower_is_better(running.compares) else "max",
        grace_period=running.stopping.grace_steps,
        reduction_factor=running.stopping.reduction,
        max_t=MOST_STEPS,
    )


def _searcher(next_round: Callable[[], Sequence[Cell]]) -> Any:
    """A Tune searcher that starts a round when all trials of the round before have ended."""
    from ray.tune.search import Searcher

    class _Rounds(Searcher):
        def __init__(self) -> None:
            super().__init__()
            self._waiting: list[Cell] = []
            self._living: set[str] = set()

        def suggest(self, trial_id: str) -> Any:
            if not self._waiting:
                if self._living:
                    return None
                self._waiting = list(next_round())
            if not self._waiting:
                return Searcher.FINISHED
            self._living.add(trial_id)
            return {"cell": self._waiting.pop(0).to_text()}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            self._living.discard(trial_id)

        def save(self, checkpoint_path: str) -> None:
            """Saves nothing: the same search proposes the same points again."""

        def restore(self, checkpoint_path: str) -> None:
            """Restores nothing."""

    return _Rounds()


def _told(running: Running, progress: Progress, over: Callable[[Cell, Row], None]) -> Any:
    """Tune's callback that tells ``progress`` and writes the rows that a trial cannot write."""
    from ray.tune import Callback

    class _Told(Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            progress.started(_cell_of(trial.config))

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
        ) -> None:
            if "row" not in result:
                progress.reported(_cell_of(trial.config), result)

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            progress.again(_cell_of(trial.config), _error(trial))

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            cell, last = _cell_of(trial.config), trial.last_result or {}
            row = last.get("row")
            if row is None:  # early stopping ended the trial
                row = stopped_row(cell, running.store, sweep=running.sweep, at=last)
            self._over(cell, row)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            cell, error = _cell_of(trial.config), _error(trial)
            self._over(cell, failed_row(cell, running.store, sweep=running.sweep, error=error))

        def _over(self, cell: Cell, row: Row) -> None:
            over(cell, row)
            progress.over(cell, row)

    return _Told()


def _error(trial: Any) -> str:
    """The last line of what a trial's process died of."""
    error = trial.get_error() if callable(getattr(trial, "get_error", None)) else None
    lines = [line.strip() for line in str(error or "its process died").splitlines()]
    return next((line for line in reversed(lines) if line), "its process died")
