"""The training loop: the file to read first.

Each step reads this rank's slice of the global batch, asks the method for its global losses, and
lets the strategy step. The loop knows no method by name, no Ray and no terminal. It runs in one
process, under ``torchrun`` and in Ray workers; a process group, if any, exists before it starts.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer import collectives
from trainer.attempt import SupersededError, take_attempt
from trainer.checkpoint import clear_leftovers, load_checkpoint, newest_checkpoint
from trainer.checkpoint_writer import CheckpointWriter
from trainer.config import RunConfig
from trainer.data_sets import data_fingerprint, label_space
from trainer.methods import METHODS, Domain, Losses, Method, Now
from trainer.phase_clock import PhaseClock
from trainer.run_folder import RunFolder, require_same_run
from trainer.schedules import rate_factor
from trainer.strategy import DataParallel, Strategy
from trainer.streams import (
    to_domains,
    training_loader,
    training_sources,
    walk_stream,
)
from trainer.telemetry import StepLog
from trainer.warm_start import start_from

__all__ = ["NonFiniteError", "Trainer", "build_method", "train"]

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}


class NonFiniteError(ValueError):
    """A loss term or the gradient is NaN or infinite; the message names it and the samples."""


def build_method(config: RunConfig, *, num_classes: int) -> Method:
    """The method with freshly seeded weights, equal on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        method = METHODS[config.method_name](
            config.method, config.network, num_classes=num_classes, seed=config.training.seed
        )
    method = method.to(DTYPES[config.training.precision])
    if config.training.precision == "bf16":
        method.autocast_dtype = torch.bfloat16
    return method


class Trainer:
    """One rank's view of one run."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        *,
        device: torch.device,
        strategy: Strategy | None = None,
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.clock = PhaseClock()
        self.classes = label_space(config)
        self.sources = training_sources(config)
        self.method = build_method(config, num_classes=len(self.classes)).to(device)
        self.strategy = strategy or DataParallel()
        self.model = self.strategy.prepare(self.method, config.optimizer)
        self.step = 0
        self.round_health: dict[str, float] = {}
        self.writer = self._take_over() if collectives.rank() == 0 else None
        self._resume()

    def run(
        self,
        *,
        on_record: Callable[[dict[str, Any]], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> int:
        """Train to the configured number of steps; returns the step reached.

        Args:
            on_record: called on rank 0 with every record of ``log.jsonl``.
            stop: asked before each step; when any rank answers yes, all ranks save a checkpoint
                and leave.
        """
        training, leader = self.config.training, collectives.rank() == 0
        step_log = StepLog(self.folder.log, from_step=self.step) if leader else None
        loader = training_loader(
            self.config,
            self.sources,
            start_step=self.step,
            rank=collectives.rank(),
            world_size=collectives.world_size(),
            device=self.device,
        )
        try:
            batches = iter(loader)
            self.model.train()
            while self.step < training.steps:
                if stop is not None and collectives.any_rank(stop(), self.device):
                    break
                with self.clock.phase("data"):
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
                self.clock.end_step()
            self.clock.end_start()  # where there was no step
            if self.step == training.steps:
                with self.clock.phase("finish"), self._evaluating():
                    self.method.finish(self._walk)
            self.save(last=True)
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
        with torch.no_grad():
            yield

    def _walk(self, stream: str) -> Iterator[Domain]:
        """This rank's part of a training stream, for methods that look at all of it."""
        return walk_stream(
            self.sources[stream],
            batch=self.config.evaluation.batch,
            rank=collectives.rank(),
            world_size=collectives.world_size(),
            device=self.device,
            dtype=DTYPES[self.config.training.precision],
        )

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
        logged = self.step % training.log_every == 0 or self.step + 1 == training.steps
        now = Now(self.step, self.step / training.steps, logged)
        factor = rate_factor(config.optimizer.schedule, now.p, warmup=config.optimizer.warmup)
        with self.clock.phase("copy"):
            batch = {name: part.to(self.device) for name, part in batch.items()}
        with self.clock.phase("augment"):
            domains = to_domains(
                batch, self.sources, device=self.device, dtype=DTYPES[training.precision]
            )
        if not self.method.training:  # walking all modules at every step takes its time
            self.model.train()
        done: dict[str, tuple[Losses, torch.Tensor]] = {}
        for update in self.method.updates(self.step):
            with self.strategy.only(update):
                with self.clock.phase("forward"):
                    losses: Losses = self.model(domains, now, update.name)
                self._require_finite(losses.terms, domains)
                with self.clock.phase("backward"):
                    self.strategy.backward(losses.total)
            with self.clock.phase("optimizer"):
                norm = self.strategy.step(factor=factor)
            self._require_finite({"gradient norm": norm}, domains)
            done[update.name] = losses, norm
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

    def _require_finite(
        self, values: Mapping[str, torch.Tensor], domains: Mapping[str, Domain]
    ) -> None:
        """Stop on every rank together: the values are global, so all ranks see the same ones."""
        finite = torch.isfinite(torch.stack([v.detach() for v in values.values()]))
        if bool(finite.all()):
            return
        name = next(n for n, ok in zip(values, finite.tolist(), strict=True) if not ok)
        keys = [k for part in collectives.gather_objects(self._suspects(domains)) for k in part]
        raise NonFiniteError(
            f"step {self.step}: {name} is {values[name].item()}; samples: {', '.join(keys[:8])}"
            + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
            + "; lower optimizer.learning_rate, set optimizer.clip_norm, or look at these samples"
        )

    @torch.no_grad()
    def _suspects(self, domains: Mapping[str, Domain]) -> list[str]:
        """Keys of samples whose pixels or embedding are not finite; all keys if there is none."""
        suspects: list[str] = []
        for domain in domains.values():
            embed = (
                self.method.embed_gallery if domain.pixels.dim() == 5 else self.method.embed_queries
            )
            finite = torch.isfinite(embed(domain.pixels)).all(1).tolist()
            suspects += [k for k, ok in zip(domain.keys, finite, strict=True) if not ok]
        return suspects or [k for domain in domains.values() for k in domain.keys]

    def save(self, *, last: bool = False) -> None:
        """Rank 0 copies the state, equal on all ranks, and writes it while training goes on.

        All ranks raise together what went wrong in the write before; the ``last`` one is waited
        for, so that it is on disk when any rank returns.
        """
        with self.clock.phase("checkpoint"):
            state = {  # on every rank: an engine that shards its state gathers it here
                "method": self.method.state_dict(),
                **self.strategy.state_dict(),
                "generator": torch.get_rng_state(),
                "round_health": self.round_health,
            }
            failure: Exception | None = None
            if self.writer:
                try:
                    self.writer.write(state, step=self.step)
                    if last:
                        self.writer.wait()
                except (OSError, SupersededError) as err:
                    failure = err
            failure = collectives.broadcast_object(failure)
            if failure is not None:
                raise failure

    def _take_over(self) -> CheckpointWriter:
        """Become the newest attempt on the run folder, the only one that may write there."""
        attempt = take_attempt(self.folder.facts)
        clear_leftovers(self.folder.checkpoints, attempt=attempt)
        return CheckpointWriter(
            self.folder.checkpoints,
            description=describe(self.config, self.classes),
            keep=self.config.training.keep_last,
            attempt=attempt,
            background=self.config.training.async_checkpoints,
        )

    def _resume(self) -> None:
        """Continue from the newest whole checkpoint that rank 0 sees, if there is one."""
        found = newest_checkpoint(self.folder.checkpoints) if collectives.rank() == 0 else None
        path = collectives.broadcast_object(None if found is None else str(found.path))
        if path is None:
            if self.config.training.init_from is not None:
                start_from(self.method, Path(self.config.training.init_from), classes=self.classes)
            return
        found = found or load_checkpoint(Path(path))
        require_same_run(self.folder.path, found.description, describe(self.config, self.classes))
        self.method.load_state_dict(found.state["method"])
        self.strategy.load_state_dict(found.state)
        torch.set_rng_state(found.state["generator"])
        self.round_health = found.state.get("round_health", {})
        self.step = found.step
        log.info("continuing at step %d from %s", found.step, path)


def _summary(done: Mapping[str, tuple[Losses, torch.Tensor]]) -> dict[str, Any]:
    """Loss, terms and health of a step's updates as plain numbers."""
    terms: dict[str, float] = {}
    health: dict[str, float] = {}
    for name, (losses, norm) in done.items():
        terms |= {k: v.item() for k, v in losses.terms.items()}
        health |= {k: float(v) for k, v in losses.health.items()}
        if len(done) > 1:
            health[f"gradient_norm_{name}"] = norm.item()
    health["gradient_norm"] = math.hypot(*(norm.item() for _, norm in done.values()))
    loss = sum(losses.total.item() for losses, _ in done.values())
    return {"loss": loss, "terms": terms, "health": health}


def describe(config: RunConfig, classes: tuple[str, ...]) -> dict[str, Any]:
    """What identifies a checkpoint's run."""
    return {
        "identity": config.identity,
        "fingerprint": data_fingerprint(config),
        "classes": list(classes),
        "config": config.to_dict(),
    }


def train(
    config: RunConfig,
    folder: RunFolder,
    *,
    on_record: Callable[[dict[str, Any]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> int:
    """Train one run on this rank; continues ``folder`` when it holds this run.

    Returns the step reached, smaller than the configured one only after ``stop``.

    Raises:
        ConfigError, DataError: bad options or data, before or while training.
        NonFiniteError: a loss or gradient is NaN or infinite.
        OSError: a checkpoint could not be written; on every rank.
        SupersededError: the folder was taken over by a later start of this run; on every rank.
    """
    device = _device()
    if device.type == "cpu":
        torch.set_num_threads(config.training.threads or _threads())
    trainer = Trainer(config, folder, device=device)
    with collectives.measured(partial(trainer.clock.phase, "collectives")):
        reached = trainer.run(on_record=on_record, stop=stop)
    if collectives.rank() == 0:
        folder.update(
            status="finished" if reached == config.training.steps else "interrupted",
            world_size=collectives.world_size(),
            parameters=sum(p.numel() for p in trainer.method.parameters()),
            timings=trainer.clock.summary(),
            step_timings=trainer.clock.steps(),
        )
    return reached


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # A launcher may show each worker all GPUs of the node or only its own.
    index = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
    torch.cuda.set_device(index)  # object collectives over NCCL use the current device
    return torch.device("cuda", index)


def _threads() -> int:
    if "OMP_NUM_THREADS" in os.environ:  # torchrun sets it, and so may a user
        return max(1, int(os.environ["OMP_NUM_THREADS"].split(",")[0]))  # a list by nesting level
    local = int(os.environ.get("LOCAL_WORLD_SIZE", collectives.world_size()))
    return max(1, (os.cpu_count() or 1) // max(1, local))
