"""A run on groups of Ray Train workers: each group has one size, and the next one continues.

Each group is one ``fit`` of Ray Train. It ends when the run is finished, when the workers left
(see :mod:`cluster.training.worker`) or when one died. Then the size of the next group is chosen
from what the nodes have free. Ray's own elastic policy is not used: it stops workers without a
last checkpoint, and counts what others use, or what draining nodes have, as free.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.terminal import say, stop_on_signal
from cluster.training.group_size import GroupPlan, GroupSize, capacity, plan_group
from cluster.training.hangs import Hangs
from cluster.training.loopback import torch_config
from cluster.training.ray_cluster import may_grow, nodes, ray_session
from cluster.training.ray_private import at_worker_start
from cluster.training.worker import (
    error_file,
    leave_on_sigterm,
    notice_file,
    stop_file,
    train_worker,
)
from cluster.training.worker_restarts import GroupEnd, Restarts, how_it_ended, raise_mistake
from evalsuite.run_records import NewRecords
from trainer.config import RunConfig
from trainer.runs import RunFolder

GROWTH_SECONDS = 30.0  # a group makes way after there was room for more workers for so long
SETTLE_SECONDS = 3.0  # free resources are believed when they have stayed the same for so long
RETRY_SECONDS = 5.0  # after a group that found no room
SAVE_SECONDS = 60.0  # for the workers' last checkpoint after Ctrl-C
LOOK_SECONDS = 0.5
LARGER = "room for more workers"
OnRecord = Callable[[dict[str, Any]], None]


def train_on_ray(
    config: RunConfig,
    folder: RunFolder,
    size: GroupSize,
    *,
    on_record: OnRecord,
    on_wait: Callable[[], None],
) -> None:
    """Train in groups of ``size`` workers until the run is finished.

    Raises:
        RunFailed: groups died more often than ``training.max_failures``.
        KeyboardInterrupt: Ctrl-C or SIGTERM; a checkpoint of the last step was saved.
    """
    with ray_session():
        _Driver(config, folder, size, on_record=on_record, on_wait=on_wait).run()


class _Driver:
    """The process that the user started, while groups of workers train."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        size: GroupSize,
        *,
        on_record: OnRecord,
        on_wait: Callable[[], None],
    ) -> None:
        self.config, self.folder, self.size = config, folder, size
        self.on_record, self.on_wait = on_record, on_wait
        self.restarts = Restarts(folder, size, limit=config.training.max_failures)
        self.hangs = Hangs(folder)
        self.log = NewRecords(folder.log)
        self.at_most: int | None = None  # one less than the size of a group that found no room
        self.waited_for: GroupPlan | None = None

    def run(self) -> None:
        """Start groups until one finishes the run."""
        reason: str | None = None
        with stop_on_signal() as stopped:
            while True:
                plan = self._plan(stopped)
                end = None if stopped.is_set() else self._train_group(plan, reason, stopped)
                if stopped.is_set():
                    raise KeyboardInterrupt
                if end is None:
                    return
                self.restarts.after(end)
                if end.unplaced:
                    self.at_most = plan.workers - 1
                    stopped.wait(RETRY_SECONDS)
                else:
                    self.at_most, reason = None, end.reason

    def _plan(self, stopped: threading.Event) -> GroupPlan:
        """The next group, once the cluster has taken back what the group before had reserved."""
        since, plan = time.monotonic(), self._plan_now()
        while plan.workers < self.size.most or plan.missing:
            if stopped.wait(0.5):
                return plan
            before, plan = plan, self._plan_now()
            if plan != before:
                since = time.monotonic()
            elif time.monotonic() - since >= SETTLE_SECONDS:
                break
        if plan.missing:
            self.on_wait()
        if plan.missing and plan != self.waited_for:
            what = "a GPU" if plan.gpus else f"{plan.cpus:g} CPU"
            say(
                f"waiting for room for {plan.missing} of {plan.workers} workers "
                f"({what} each, --workers {self.size}); Ctrl-C ends the wait"
            )
        self.waited_for = plan
        return plan

    def _plan_now(self) -> GroupPlan:
        return plan_group(self.size, nodes(), at_most=self.at_most, may_grow=may_grow())

    def _train_group(
        self, plan: GroupPlan, reason: str | None, stopped: threading.Event
    ) -> GroupEnd | None:
        """One group from its start to its end; None where the run is finished or was stopped."""
        for file in (error_file(self.folder), stop_file(self.folder), notice_file(self.folder)):
            file.unlink(missing_ok=True)  # from the group before, or from a killed command
        growth = _Growth(plan, self.size)
        done, failure = self._start_group(plan, reason)
        self._follow(done, growth, stopped)
        if stopped.is_set() or self.folder.finished:
            return None
        if failure:
            raise_mistake(self.folder, failure[0])
        return how_it_ended(
            self.folder,
            failure[0] if failure else None,
            asked=LARGER if growth.asked else None,
            hang=self.hangs.taken(),
        )

    def _start_group(
        self, plan: GroupPlan, reason: str | None
    ) -> tuple[threading.Event, list[BaseException]]:
        """Start Ray's ``fit`` in a thread: an event for its end, and a list for what it raises."""
        failure: list[BaseException] = []
        # An event, since Thread.join that Ctrl-C interrupts takes the thread for ended.
        done = threading.Event()

        def fit() -> None:
            try:
                _fit(self.config, self.folder, plan, reason)
            except BaseException as err:
                failure.append(err)
            finally:
                done.set()

        threading.Thread(target=fit, daemon=True, name="ray-train").start()
        return done, failure

    def _follow(self, done: threading.Event, growth: _Growth, stopped: threading.Event) -> None:
        """Report what the group does until it is ``done``, and ask it to leave when it has to.

        It has to when the user stops the run, or when there is room for more workers. A stopped
        group has ``SAVE_SECONDS`` to save a last checkpoint. Before its first step it has nothing
        to save and is not waited for.
        """
        stop, deadline_seconds, asked = stop_file(self.folder), float("inf"), False
        try:
            while True:
                last = done.is_set() or time.monotonic() > deadline_seconds
                self.restarts.look()
                self.hangs.look(last=last)
                for record in self.log.read():
                    self.on_record(record)
                if last:
                    return
                training = self.restarts.training
                if not asked and (stopped.is_set() or (training and growth.possible())):
                    asked = True
                    stop.touch()
                if stopped.is_set() and deadline_seconds == float("inf"):
                    deadline_seconds = time.monotonic() + (SAVE_SECONDS if training else 0.0)
                done.wait(timeout=LOOK_SECONDS)
        finally:
            stop.unlink(missing_ok=True)


class _Growth:
    """Whether a group that is smaller than wanted should make way for a larger one."""

    def __init__(self, plan: GroupPlan, size: GroupSize) -> None:
        self._plan, self._wanted = plan, size.most - plan.workers
        self._next_seconds = time.monotonic() + GROWTH_SECONDS
        self._seen_seconds: float | None = None
        self.asked = False

    def possible(self) -> bool:
        """Whether there has been room for another worker for ``GROWTH_SECONDS``."""
        now_seconds = time.monotonic()
        if not self.asked and self._wanted and now_seconds >= self._next_seconds:
            self._next_seconds = now_seconds + GROWTH_SECONDS / 2
            room = capacity(nodes(), cpus=self._plan.cpus, gpus=self._plan.gpus)
            if not room:
                self._seen_seconds = None
            elif self._seen_seconds is None:
                self._seen_seconds = now_seconds
            else:
                self.asked = now_seconds - self._seen_seconds >= GROWTH_SECONDS
        return self.asked


def _fit(config: RunConfig, folder: RunFolder, plan: GroupPlan, reason: str | None) -> None:
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.to_dict(),
            "folder": str(folder.path),
            "working_folder": str(Path.cwd()),
            "reason": reason,
        },
        torch_config=torch_config(
            backend="nccl" if plan.gpus else "gloo", timeout_s=int(config.training.timeout_seconds)
        ),
        scaling_config=ScalingConfig(
            num_workers=plan.workers,
            use_gpu=plan.gpus,
            resources_per_worker={"CPU": plan.cpus, **({"GPU": 1} if plan.gpus else {})},
        ),
        # Ray resumes a run name it has seen; our own checkpoints decide, so names are unique.
        run_config=RayRunConfig(
            name=f"{folder.path.name}-{config.identity}-{time.time_ns()}",
            storage_path=str(folder.path / "ray"),
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=0
            ),
            callbacks=[at_worker_start(leave_on_sigterm)],
        ),
    ).fit()
