"""Random processes of one run are killed at random moments; the run ends as if undisturbed.

``IMG2SHAPE_SOAK=20`` sets the number of kills, ``IMG2SHAPE_SOAK_SEED`` repeats the victims and
moments of a run that failed (as far as processes repeat themselves).
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.job import (
    EVERY,
    STEPS,
    Job,
    kept,
    loader_workers,
    reached,
    started_at,
    training_workers,
)
from trainer.runs.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.ray]
FAULTS = int(os.environ.get("IMG2SHAPE_SOAK", "3"))
STEPS_A_FAULT = 20
KINDS = ("worker", "all workers", "loader", "command")


class _Soak:
    """One run, what was done to it, and what it cost."""

    def __init__(self, job: Job, chosen: random.Random) -> None:
        self.job, self.chosen = job, chosen
        self.killed: Counter[str] = Counter()
        self.calls = 1
        self._done: dict[int, int] = {}  # number of the next start -> steps done before it

    def fault(self, at_step: int) -> bool:
        """One kill, most often at a step, else at any moment of a start; False after the end."""
        kind = self.chosen.choice(KINDS)
        pause_seconds, early = self.chosen.uniform(0, 0.3), self.chosen.random() < 0.25
        soon_seconds = self.chosen.uniform(0, 15)
        if early:
            time.sleep(soon_seconds)
        while self.job.running.poll() is None:
            victims = self._victims(kind)
            if victims and (early or self._steps_now() >= at_step):
                break
            time.sleep(0.02)
        time.sleep(pause_seconds)
        victims = self._victims(kind)
        if self.job.running.poll() is not None or not victims:
            return False
        number = self._starts()
        self.job.kill(*victims)
        steps = self._steps_now()
        self._done[number] = max(self._done.get(number, 0), steps)
        self.killed[kind] += 1
        print(f"killed at step {steps}: {kind} {victims}")
        if kind == "command":
            self.job.reap()
            self.job.start()
            self.calls += 1
        return True

    def _victims(self, kind: str) -> list[int]:
        """Processes to kill; none while the run has none of that kind."""
        pid = self.job.running.pid
        workers = training_workers(pid)
        if kind == "command":
            return [pid]
        if kind == "all workers":
            return workers
        found = workers if kind == "worker" else loader_workers(pid)
        return [self.chosen.choice(found)] if found else []

    def _starts(self) -> int:
        return len(started_at(RunFolder(self.job.run)))

    def _steps_now(self) -> int:
        """Steps that the newest start of the workers has reached."""
        starts = started_at(RunFolder(self.job.run))
        log, attempts = self.job.run / "log.jsonl", self.job.run / "attempts.jsonl"
        if log.exists() and attempts.exists() and log.stat().st_mtime > attempts.stat().st_mtime:
            return max(reached(self.job.run), starts[-1])
        return starts[-1] if starts else 0

    def summary(self) -> dict[str, object]:
        starts = started_at(RunFolder(self.job.run))
        # A run goes on, and may save, until it needs the loader process that was killed.
        lost = [max(0, done - starts[n]) for n, done in self._done.items() if 0 < n < len(starts)]
        return {
            "steps": reached(self.job.run),
            "faults": sum(self.killed.values()),
            "by_kind": dict(self.killed),
            "commands": self.calls,
            "starts_of_workers": len(starts),
            "steps_repeated": sum(lost),
            "most_steps_repeated_at_once": max(lost, default=0),
            "checkpoint_every": EVERY,
        }


def test_random_kills_change_nothing(benchmark, undisturbed, tmp_path, capsys):
    seed = int(os.environ.get("IMG2SHAPE_SOAK_SEED", random.randrange(1 << 32)))
    print(f"IMG2SHAPE_SOAK={FAULTS} IMG2SHAPE_SOAK_SEED={seed}")
    chosen, steps = random.Random(seed), STEPS_A_FAULT * FAULTS
    reference = undisturbed if steps == STEPS else _reference(benchmark, tmp_path, steps)
    options = {"training__steps": steps, "training__max_failures": 10 * FAULTS}
    job = Job(benchmark, tmp_path / "run", training__loader_workers=1, **options)
    soak = _Soak(job, chosen)
    for at_step in sorted(chosen.randrange(1, steps - 5) for _ in range(FAULTS)):
        soak.fault(at_step)
    done = job.end()
    assert done.code == 0, done.err
    left = job.remove_semaphores()
    summary = {"seed": seed, **soak.summary(), "semaphores_left": left}
    (tmp_path / "soak.json").write_text(json.dumps(summary, indent=2))
    with capsys.disabled():
        print(f"\nsoak: {json.dumps(summary)}")
    assert kept(job.run) == steps
    job.assert_same(reference)
    job.assert_nothing_is_left()
    most = summary["most_steps_repeated_at_once"]
    assert isinstance(most, int)
    assert most <= 2 * EVERY
    assert soak.killed.total() > FAULTS // 2


def _reference(benchmark: Path, tmp_path: Path, steps: int) -> Path:
    job = Job(benchmark, tmp_path / "reference", training__steps=steps)
    done = job.end()
    assert done.code == 0, done.err
    return job.run
