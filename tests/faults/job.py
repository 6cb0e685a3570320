"""A training run on Ray in a process of its own, to be killed: what it left, and what it must."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.restarts import started_at
from tests.command import CONFIGS, Outcome, outcome, process, small, wait_until
from trainer.attempt import LOCK_NAME
from trainer.checkpoint import open_checkpoint
from trainer.run_folder import RunFolder

STEPS, EVERY, WORKERS = 60, 5, 2
SHM = Path("/dev/shm")


def descendants(pid: int) -> dict[int, str]:
    """Living processes that ``pid`` started, directly or not, with their command lines."""
    parents: dict[int, list[int]] = {}
    for other, fields in _stats():
        parents.setdefault(int(fields[1]), []).append(other)
    found: dict[int, str] = {}
    ahead = [pid]
    while ahead:
        for child in parents.get(ahead.pop(), []):
            found[child] = _command(child)
            ahead.append(child)
    return found


def training_workers(pid: int) -> list[int]:
    """Ray Train's worker processes among the descendants of ``pid``."""
    return sorted(p for p, command in descendants(pid).items() if "RayTrainWorker" in command)


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Every living process with the fields of its ``stat`` from the state on; no zombies."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    yield int(folder.name), fields


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


def lines(run: Path) -> list[dict]:
    """The lines of ``log.jsonl``, without the wall clock and a line still being written."""
    log = run / "log.jsonl"
    text = log.read_text() if log.exists() else ""
    records = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def reached(run: Path) -> int:
    """Steps that the log shows as done."""
    records = lines(run)
    return records[-1]["step"] + 1 if records else 0


def kept(run: Path) -> int:
    """Step of the newest checkpoint under a final name, 0 without one."""
    found = sorted(p.name for p in (run / "checkpoints").glob("step-*"))
    return int(found[-1].removeprefix("step-")) if found else 0


def differing(run: Path, other: Path) -> list[str]:
    """Names of the values of the newest checkpoints that are not equal bit for bit.

    The state of torch's default generator is left out: every start of a loader draws from it, and
    nothing in training does.
    """
    states = [_flat(open_checkpoint(r).state) for r in (run, other)]
    names = sorted(n for n in states[0].keys() | states[1].keys() if n != "generator")
    return [n for n in names if states[0].get(n) != states[1].get(n)]


def _flat(state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Plain values and hashes of tensors by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= _flat(value, f"{name}.")
        elif isinstance(value, torch.Tensor):
            found[name] = hashlib.sha256(np.ascontiguousarray(value.numpy())).hexdigest()
        else:
            found[name] = value
    return found


class Job:
    """``img2shape train --workers 2`` on the smoke benchmark, killed where a test likes."""

    def __init__(self, data: Path, run: Path, **overrides: object) -> None:
        settings = {"training__steps": STEPS, "training__checkpoint_every": EVERY, **overrides}
        self.command = ["train", CONFIGS / "astn.yaml", *small(data, **settings)]
        self.command += ["--workers", WORKERS, "--out", run]
        self.run = run
        self.shared_memory = set(os.listdir(SHM))
        self.seen: set[int] = set()  # every process that belonged to the run
        self.lost: list[tuple[int, int]] = []  # steps done, and step kept, at each kill
        self.running = self.start()

    def start(self) -> subprocess.Popen[str]:
        self.running = process(*self.command)
        return self.running

    def wait(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, self.running, seconds=120)
        self.seen |= descendants(self.running.pid).keys() | {self.running.pid}

    def wait_for_step(self, step: int, *, attempt: int = 1) -> None:
        """Until the workers' start number ``attempt`` has done ``step`` steps."""
        self.wait(
            lambda: len(started_at(RunFolder(self.run))) >= attempt and reached(self.run) >= step
        )

    def workers(self) -> list[int]:
        found = training_workers(self.running.pid)
        assert len(found) == WORKERS, descendants(self.running.pid)
        return found

    def kill(self, *pids: int) -> None:
        """SIGKILL, with a note of what may be lost."""
        self.lost.append((reached(self.run), kept(self.run)))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def end(self) -> Outcome:
        """Wait for the run's own end."""
        return outcome(self.running, timeout_seconds=300)

    def assert_ended(self, workers: list[int]) -> None:
        """The workers of a killed driver notice by themselves."""
        left = set(workers)
        for _ in range(600):
            left &= {pid for pid, _ in _stats()}
            if not left:
                return
            time.sleep(0.05)
        raise AssertionError(f"still there: {left}")

    def assert_no_process(self) -> None:
        """Not even Ray's own agents, which take a minute to notice that their driver was killed."""
        for _ in range(300):
            if not self._alive():
                return
            time.sleep(0.5)
        raise AssertionError(f"still there: {self._alive()}")

    def assert_nothing_is_left(self) -> None:
        """No process, no temporary file, no shared memory."""
        self.assert_no_process()
        checkpoints = [p.name for p in (self.run / "checkpoints").iterdir()]
        assert all(name.startswith("step-") for name in checkpoints), checkpoints
        hidden = [p.relative_to(self.run) for p in self.run.rglob(".*") if p.name != LOCK_NAME]
        assert [p for p in hidden if p.parts[0] != "ray"] == []
        assert self._leaked() == []

    def _alive(self) -> dict[int, str]:
        mine = {pid for pid, fields in _stats() if int(fields[3]) == self.running.pid}
        living = {pid for pid, _ in _stats()}
        return {pid: _command(pid) for pid in mine | (self.seen & living)}

    def _leaked(self) -> list[str]:
        """New files of shared memory named after a process of the run, or Ray's object store."""
        new = sorted(set(os.listdir(SHM)) - self.shared_memory)
        pids = {str(pid) for pid in self.seen}
        return [n for n in new if pids & set(re.findall(r"\d+", n)) or n.startswith("plasma")]

    def assert_as_uninterrupted(self, reference: Path) -> None:
        """The same bits and lines as ``reference``; only what no checkpoint had was repeated."""
        assert json.loads((self.run / "run.json").read_text())["status"] == "finished"
        assert lines(self.run) == lines(reference)
        assert differing(self.run, reference) == []
        starts = started_at(RunFolder(self.run))
        assert starts[0] == 0
        assert len(starts) == len(self.lost) + 1, (starts, self.lost)
        for (done, checkpoint), start in zip(self.lost, starts[1:], strict=True):
            # A write that goes on beside training may be one interval late.
            assert checkpoint <= start, (starts, self.lost)
            assert done - start <= 2 * EVERY, (starts, self.lost)
