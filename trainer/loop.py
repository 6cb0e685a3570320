"""The training loop: the file to read first.

Each step reads this rank's slice of the global batch, asks the method for its global losses, and
lets the strategy step. The loop knows no method by name, no Ray and no terminal. It runs in one
process, under ``torchrun`` and in Ray workers; a process group, if any, exists before it starts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.building import DTYPES, build_method
from trainer.config import RunConfig
from trainer.engines import (
    Strategy,
    fair_threads,
    open_strategy,
    own_device,
    require_supported,
    set_layout,
    set_passes,
)
from trainer.inputs import OpenData, on_device, to_domains, training_loader, walk_stream
from trainer.methods import Domain, Losses, Now
from trainer.runs import (
    Retention,
    RunFolder,
    StepLog,
    comparable_scores,
    drop_records,
    load_checkpoint,
    newest_checkpoint,
    require_same_run,
    start_from,
    take_over,
)
from trainer.schedules import rate_factor
from trainer.synchronised import collectives
from trainer.validation import Validation
from trainer.watching import FiniteCheck, Live, Origin, PhaseClock, watching

log = logging.getLogger(__name__)


class Trainer:
    """One rank's view of one run."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        *,
        device: torch.device,
        strategy: Strategy | None = None,
        clock: PhaseClock | None = None,
        data: OpenData | None = None,
    ) -> None:
        require_supported(config)
        self.config, self.folder, self.device = config, folder, device
        self.clock = clock or PhaseClock()
        self.data = data or OpenData(config)
        self.classes, self.sources = self.data.classes, self.data.sources
        # Training draws nothing from the process's generator, whose first state is a random one.
        torch.manual_seed(config.training.seed)
        self.method = build_method(config, num_classes=len(self.classes)).to(device)
        engine = config.strategy
        set_layout(
            self.method,
            channels_last=engine.channels_last,
            device=device,
            weights=engine.name == "ddp",
        )
        set_passes(self.method, config, device=device)
        self.parameters = sum(p.numel() for p in self.method.parameters())
        self.strategy = strategy or open_strategy(config.strategy)
        self.finite = FiniteCheck(
            self.method,
            learning=self.strategy.only,
            sharded=engine.name == "deepspeed" and engine.zero_stage == 3,
            whole_weights=self.strategy.whole_weights,
            delayed=device.type == "cuda",
        )
        self.step = 0
        self.round_health: dict[str, float] = {}
        self.validation = Validation(
            self.data,
            folder.validation,
            device=device,
            dtype=DTYPES[config.training.precision],
            beat=self.clock.beat,
        )
        self.writer = take_over(
            folder,
            description=describe(self.data),
            keep=Retention.of(config),
            background=config.training.async_checkpoints,
        )
        self._resume()

    def run(
        self,
        *,
        on_record: Callable[[dict[str, Any]], None] | None = None,
        stop: Callable[[], bool] | None = None,
        reason: str | None = None,
    ) -> int:
        """Train to the configured number of steps; returns the step reached.

        Args:
            on_record: called on rank 0 with every record of ``log.jsonl``.
            stop: asked before each batch that no step is half done at; when any rank answers yes,
                all ranks save a checkpoint and leave.
            reason: why a launcher starts the run again, for ``attempts.jsonl``.
        """
        training, leader = self.config.training, collectives.rank() == 0
        step_log = StepLog(self.folder.log, from_step=self.step) if leader else None
        if self.writer:
            self.writer.attempt.begin(
                step=self.step, world_size=collectives.world_size(), reason=reason
            )
        if leader and self.folder.validation.exists():
            drop_records(self.folder.validation, from_step=self.step + 1)
        loader = training_loader(
            self.data,
            start_step=self.step,
            rank=collectives.rank(),
            world_size=collectives.world_size(),
            device=self.device,
            on_part=self.clock.beat,
        )
        live = Live(
            self.folder.telemetry,
            clock=self.clock,
            loader=loader,
            writer=self.writer,
            device=self.device,
            bad_samples=self.data.bad_samples() if leader else None,
        )
        asked_to_stop = collectives.AnyRank(self.device)
        try:
            batches = on_device(iter(loader), self.device, phase=self.clock.phase)
            self.model.train()
            while self.step < training.steps:
                between = self.step % self.config.optimizer.accumulate == 0
                if stop is not None and between and asked_to_stop(stop()):
                    break
                step, batch = next(batches)
                self.clock.end_start()
                assert step == self.step
                self._start_round()
                record = self._train_step(batch)
                self.step += 1
                if step_log and record is not None:
                    step_log.write(record)
                    if on_record is not None:
                        on_record(record)
                if self.step % training.checkpoint_every == 0 and self.step < training.steps:
                    self.save()
                seconds, logged = self.clock.end_step(), self._logged(step)
                live.stepped(self.step, batch, seconds=seconds, logged=logged, record=record)
            self.clock.end_start()  # where there was no step
            self.finite.flush()
            if self.step == training.steps:
                with self.clock.phase("finish"), self._evaluating():
                    self.method.finish(self._walk)
            self.save(last=True)
            live.end(self.step)
        finally:
            if self.writer:
                self.writer.close()
            loader.close()
            if step_log:
                step_log.close()
        return self.step

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Statistics of the whole training set are taken in evaluation mode, without gradient."""
        self.method.eval()
        with torch.no_grad(), self.strategy.whole_weights():
            yield

    def _walk(self, stream: str) -> Iterator[Domain]:
        """This rank's part of a training stream, for methods that look at all of it."""
        parts = walk_stream(
            self.sources[stream],
            batch=self.config.evaluation.batch,
            rank=collectives.rank(),
            world_size=collectives.world_size(),
            device=self.device,
            dtype=DTYPES[self.config.training.precision],
        )
        for part in parts:
            self.clock.beat()
            yield part

    def _start_round(self) -> None:
        """Let a method with rounds renew its state where a round starts."""
        steps = self.config.training.steps
        total = self.method.rounds(steps)
        number = {r * steps // total: r for r in range(total)}.get(self.step) if total else None
        if number is not None:
            with self.clock.phase("round"), self._evaluating():
                health = self.method.start_round(number, total, self._walk)
            self.round_health = {k: float(v) for k, v in health.items()}

    def _train_step(self, batch: Mapping[str, Any]) -> dict[str, Any] | None:
        config, training = self.config, self.config.training
        logged = self._logged(self.step)
        now = Now(self.step, self.step / training.steps, logged)
        factor = rate_factor(config.optimizer.schedule, now.p, warmup=config.optimizer.warmup)
        augmented = partial(
            to_domains, batch, self.sources, device=self.device, dtype=DTYPES[training.precision]
        )
        with self.clock.phase("augment"):
            domains = augmented()
        if not self.method.training:  # walking all modules at every step takes its time
            self.model.train()
        done: dict[str, tuple[Losses, torch.Tensor | None]] = {}
        for update in self.method.updates(self.step):
            origin = Origin(now, update, augmented)
            with self.strategy.only(update):
                with self.clock.phase("forward"):
                    losses: Losses = self.model(domains, now, update.name)
                self.finite.terms(losses.terms, origin)
                with self.clock.phase("backward"):
                    self.strategy.backward(losses.total)
            self.finite.flush()  # of the update before, while a GPU works on this one
            with self.clock.phase("optimizer"):
                norm = self.strategy.step(factor=factor)
            if norm is not None:
                self.finite.norm(norm)
            done[update.name] = losses, norm
        if logged:
            self.finite.flush()
        if not logged or collectives.rank() != 0:  # reading values back makes a GPU wait
            return None
        summary = _summary(done)
        summary["health"] |= self.round_health
        return {
            "step": self.step,
            "progress": now.p,
            "learning_rate": config.optimizer.learning_rate * factor,
            **summary,
            "seconds": self.clock.total,
        }

    def _logged(self, step: int) -> bool:
        training = self.config.training
        return step % training.log_every == 0 or step + 1 == training.steps

    def save(self, *, last: bool = False) -> None:
        """Rank 0 copies the state, equal on all ranks, and writes it while training goes on.

        All ranks raise together what went wrong in the write before; the ``last`` one is waited
        for, so that it is on disk when any rank returns. Where validation is due, it comes first.
        """
        self.finite.flush()
        if self.validation.due(self.step):  # leaves no trace in training
            with self.clock.phase("validation"), self._evaluating():
                self.validation.score(self.method, step=self.step)
        with self.clock.phase("checkpoint"):
            state = {  # on every rank: an engine that shards its state gathers it here
                "method": self.strategy.weights(),
                **self.strategy.state_dict(),
                "generator": torch.get_rng_state(),
                "round_health": self.round_health,
            }
            failure: Exception | None = None
            if self.writer:
                try:
                    scores = self.validation.known(self.step)
                    self.writer.write(state, step=self.step, scores=scores)
                    if last:
                        self.writer.wait()
                except Exception as err:  # any: the other ranks wait for word of it
                    failure = err
            collectives.raise_together(failure)

    def _resume(self) -> None:
        """Continue from the newest whole checkpoint that rank 0 sees, if there is one.

        An engine takes over the weights that it finds, so they are loaded before it is prepared.
        """
        found = newest_checkpoint(self.folder.checkpoints) if collectives.rank() == 0 else None
        path = collectives.broadcast_object(None if found is None else str(found.path))
        if path is None:
            if self.config.training.init_from is not None:
                start_from(self.method, Path(self.config.training.init_from), classes=self.classes)
            self.model = self.strategy.prepare(self.method, self.config.optimizer)
            return
        found = found or load_checkpoint(Path(path))
        mine = describe(self.data)
        require_same_run(self.folder.path, found.description, mine)
        self.method.load_state_dict(found.state["method"])
        self.model = self.strategy.prepare(self.method, self.config.optimizer)
        self.strategy.load_state_dict(found.state)
        torch.set_rng_state(found.state["generator"])
        self.round_health = found.state.get("round_health", {})
        self.step = found.step
        if self.writer:
            self.writer.resumed(found.path, step=found.step)
        self.validation.remember(found.step, comparable_scores(found.description, mine))
        log.info("continuing at step %d from %s", found.step, path)


def _summary(done: Mapping[str, tuple[Losses, torch.Tensor | None]]) -> dict[str, Any]:
    """Loss, terms and health of a step's updates as plain numbers."""
    terms: dict[str, float] = {}
    health: dict[str, float] = {}
    for name, (losses, norm) in done.items():
        terms |= {k: v.item() for k, v in losses.terms.items()}
        health |= {k: float(v) for k, v in losses.health.items()}
        if len(done) > 1 and norm is not None:
            health[f"gradient_norm_{name}"] = norm.item()
    norms = [norm.item() for _, norm in done.values() if norm is not None]
    if norms:  # none between two steps
        health["gradient_norm"] = math.hypot(*norms)
    loss = sum(losses.total.item() for losses, _ in done.values())
    return {"loss": loss, "terms": terms, "health": health}


def describe(data: OpenData) -> dict[str, Any]:
    """What identifies a checkpoint's run."""
    return {
        "identity": data.config.identity,
        "fingerprint": data.fingerprint,
        "classes": list(data.classes),
        "config": data.config.to_dict(),
    }


def train(
    config: RunConfig,
    folder: RunFolder,
    *,
    on_record: Callable[[dict[str, Any]], None] | None = None,
    stop: Callable[[], bool] | None = None,
    reason: str | None = None,
    data: OpenData | None = None,
) -> int:
    """Train one run on this rank; continues ``folder`` when it holds this run.

    Args:
        data: the run's data where they are open already; None opens them.

    Returns the step reached, smaller than the configured one only after ``stop``.

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
        trainer = Trainer(config, folder, device=device, clock=clock, data=data)
        reached = trainer.run(on_record=on_record, stop=stop, reason=reason)
        if collectives.rank() == 0:
            folder.update(
                status="finished" if reached == config.training.steps else "interrupted",
                world_size=collectives.world_size(),
                parameters=trainer.parameters,
                timings=trainer.clock.summary(),
                step_timings=trainer.clock.steps(),
            )
    return reached
