"""The training loop: the file to read first.

Each step reads this rank's slice of the global batch, asks the method for its global losses, and
lets the strategy step. All that goes on around the steps is in observers, which are told of each
event (:class:`trainer.watching.observer.Observer`): the clock, the check for NaN, validation,
checkpoints, the log and the telemetry. The loop knows no method by name, no Ray and no terminal.
It runs in one process, under ``torchrun`` and in Ray workers. A process group, if there is one,
exists before the loop starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from trainer.building import DTYPES
from trainer.config import RunConfig
from trainer.engines import Strategy, fair_threads, open_strategy, own_device, require_supported
from trainer.inputs import OpenData, on_device, to_domains, training_loader
from trainer.methods import Losses, Now
from trainer.rounds import Rounds
from trainer.runs import RunFolder
from trainer.schedules import rate_factor
from trainer.setting_up import (
    RunObservers,
    describe,
    fresh_method,
    read_frozen_stages,
    start_or_continue,
)
from trainer.synchronised import collectives
from trainer.watching import Observer, OnRecord, Origin, PhaseClock, step_record, watching


class Trainer:
    """One rank's view of one run.

    Args:
        data: the run's data where they are open already; None opens them.
        on_record: called on rank 0 with every record of ``log.jsonl``.
        reason: why a launcher starts the run again, for ``attempts.jsonl``.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        *,
        device: torch.device,
        strategy: Strategy | None = None,
        clock: PhaseClock | None = None,
        data: OpenData | None = None,
        on_record: OnRecord | None = None,
        reason: str | None = None,
    ) -> None:
        require_supported(config)
        self.config, self.folder, self.device = config, folder, device
        self.clock = clock or PhaseClock()
        self.data = data or OpenData(config)
        self.method = fresh_method(config, classes=self.data.classes, device=device)
        self.parameters = sum(p.numel() for p in self.method.parameters())
        self.strategy = strategy or open_strategy(config.strategy)
        description = describe(self.data)
        self.observers = RunObservers(
            self.data,
            folder,
            method=self.method,
            strategy=self.strategy,
            state=self._state,
            description=description,
            device=device,
            clock=self.clock,
            on_record=on_record,
            reason=reason,
        )
        self.model, found = start_or_continue(
            self.method, self.strategy, config=config, folder=folder, description=description
        )
        read_frozen_stages(self.data, self.method, self.strategy, beat=self.clock.beat)
        self.sources = self.data.sources
        self.rounds = Rounds(
            self.method,
            self.strategy,
            config=config,
            sources=self.sources,
            device=device,
            clock=self.clock,
        )
        self.step = 0
        if found is not None:
            self.step = found.step
            self.rounds.health = found.state.get("round_health", {})
            self.observers.tell(Observer.resumed, found)

    def run(self, *, stop: Callable[[], bool] | None = None) -> int:
        """Train to the configured number of steps; returns the step reached.

        Args:
            stop: asked before a batch is read, except between the batches that one optimiser step
                accumulates. When any rank answers yes, all ranks save a checkpoint and leave.
        """
        training, tell = self.config.training, self.observers.tell
        any_rank_says = collectives.AnyRank(self.device)
        with training_loader(
            self.data,
            start_step=self.step,
            rank=collectives.rank(),
            world_size=collectives.world_size(),
            device=self.device,
            on_part=self.clock.beat,
        ) as loader:
            try:
                tell(Observer.started, self.step, loader)
                batches = on_device(iter(loader), self.device, phase=self.clock.phase)
                self.model.train()
                while self.step < training.steps:
                    between_updates = self.step % self.config.optimizer.accumulate == 0
                    if stop is not None and between_updates and any_rank_says(stop()):
                        break
                    number, batch = next(batches)
                    assert number == self.step
                    tell(Observer.step_begins)
                    self.rounds.start(self.step)
                    logged = self._logged(self.step)
                    record = self._train_step(batch, logged=logged)
                    self.step += 1
                    if record is not None:
                        tell(Observer.recorded, record)
                    if self.step % training.checkpoint_every == 0 and self.step < training.steps:
                        self.save()
                    tell(Observer.stepped, self.step, batch, logged=logged)
                tell(Observer.steps_ended)
                if self.step == training.steps:
                    self.rounds.finish()
                self.save(last=True)
                tell(Observer.ended, self.step)
            finally:
                self.observers.close()
        return self.step

    def _train_step(self, batch: Mapping[str, Any], *, logged: bool) -> dict[str, Any] | None:
        """Every update of the method on one batch; rank 0 gets the record if it is ``logged``."""
        config, tell, phase = self.config, self.observers.tell, self.clock.phase
        now = Now(self.step, self.step / config.training.steps, logged)
        optimizer = config.optimizer
        factor = rate_factor(
            optimizer.schedule,
            self.step,
            config.training.steps,
            warmup=optimizer.warmup,
            hold_steps=optimizer.hold_steps,
        )
        dtype = DTYPES[config.training.precision]
        augmented = partial(to_domains, batch, self.sources, device=self.device, dtype=dtype)
        with phase("augment"):
            domains = augmented()
        if not self.method.training:  # walking all modules at every step takes its time
            self.model.train()
        done: dict[str, tuple[Losses, torch.Tensor | None]] = {}
        for update in self.method.updates(self.step):
            with self.strategy.only(update):
                with phase("forward"):
                    losses: Losses = self.model(domains, now, update.name)
                tell(Observer.losses_known, losses.terms, Origin(now, update, augmented))
                with phase("backward"):
                    self.strategy.backward(losses.total)
            tell(Observer.settle)  # a GPU works on this update while the one before is checked
            with phase("optimizer"):
                norm = self.strategy.step(factor=factor)
            if norm is not None:
                tell(Observer.updated, norm)
            done[update.name] = losses, norm
        if not logged:
            return None
        tell(Observer.settle)
        if collectives.rank() != 0:
            return None
        return step_record(
            now,
            done,
            learning_rate=config.optimizer.learning_rate * factor,
            round_health=self.rounds.health,
            seconds=self.clock.total,
        )

    def _logged(self, step: int) -> bool:
        training = self.config.training
        return step % training.log_every == 0 or step + 1 == training.steps

    def save(self, *, last: bool = False) -> None:
        """Score the state if that is due, and keep it as a checkpoint; called by all ranks."""
        self.observers.tell(Observer.saving, self.step, last=last)

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds, the same for any engine and number of ranks."""
        return {
            "method": self.strategy.weights(),
            **self.strategy.state_dict(),
            "generator": torch.get_rng_state(),
            "round_health": self.rounds.health,
        }


def train(
    config: RunConfig,
    folder: RunFolder,
    *,
    on_record: OnRecord | None = None,
    stop: Callable[[], bool] | None = None,
    reason: str | None = None,
    data: OpenData | None = None,
) -> int:
    """Train one run on this rank; continues ``folder`` when it holds this run.

    Returns the step reached, smaller than the configured one only after ``stop``. For the
    arguments see :class:`Trainer` and :meth:`Trainer.run`.

    Raises:
        ConfigError, DataError: bad options or data, before or while training.
        NonFiniteError: a loss or gradient is NaN or infinite.
        OSError: a checkpoint could not be written; on every rank.
        SupersededError: the folder was taken over by a later start of this run; on every rank.
    """
    device = own_device()
    if device.type == "cpu":
        torch.set_num_threads(config.training.threads or fair_threads())
    clock = PhaseClock()
    trainer: Trainer | None = None
    with (
        collectives.measured(partial(clock.phase, "collectives")),
        watching(
            clock,
            folder.path,
            limit_seconds=config.training.watchdog_seconds,
            step=lambda: trainer and trainer.step,
        ),
    ):
        trainer = Trainer(
            config,
            folder,
            device=device,
            clock=clock,
            data=data,
            on_record=on_record,
            reason=reason,
        )
        reached = trainer.run(stop=stop)
        if collectives.rank() == 0:
            folder.update(
                status="finished" if reached == config.training.steps else "interrupted",
                world_size=collectives.world_size(),
                parameters=trainer.parameters,
                timings=clock.summary(),
                step_timings=clock.steps(),
            )
    return reached
