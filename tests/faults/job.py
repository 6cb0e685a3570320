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

import torch

from tests.command import CONFIGS, Outcome, outcome, process, small, wait_until
from trainer.runs.attempt import LOCK_NAME, read_starts
from trainer.runs.checkpoint import open_checkpoint
from trainer.runs.run_folder import RunFolder

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


def loader_workers(pid: int) -> list[int]:
    """The loader's processes among the descendants of ``pid``, without the one they fork from."""
    server = "multiprocessing.forkserver"
    servers = {p for p, command in descendants(pid).items() if server in command}
    return sorted(p for p, fields in _stats() if p in servers and int(fields[1]) in servers)


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


def _mapped(pid: int) -> set[str]:
    """Names in ``/dev/shm`` that a process has mapped."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/maps").read_text()
        return set(re.findall(rf"{SHM}/([^/\s]+)$", text, flags=re.MULTILINE))
    return set()


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


def started_at(run: RunFolder) -> list[int]:
    """The step at which each start of the run began, oldest first."""
    return [start.step for start in read_starts(run.path)]


def differing(run: Path, other: Path) -> list[str]:
    """Names of the values of the newest checkpoints that are not equal bit for bit."""
    states = [_flat(open_checkpoint(r).state) for r in (run, other)]
    names = sorted(states[0].keys() | states[1].keys())
    return [n for n in names if states[0].get(n) != states[1].get(n)]


def _flat(state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Plain values and hashes of tensors by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= _flat(value, f"{name}.")
        elif isinstance(value, torch.Tensor):
            found[name] = hashlib.sha256(value.numpy().tobytes()).hexdigest()
        else:
            found[name] = value
    return found


class Job:
    """``img2shape train --workers 2`` on a small benchmark, killed where a test likes.

    ``workers=0`` trains in the command's own process.
    """

    def __init__(
        self, data: Path, run: Path, *, workers: int = WORKERS, **overrides: object
    ) -> None:
        settings = {"training__steps": STEPS, "training__checkpoint_every": EVERY, **overrides}
        self.command = ["train", CONFIGS / "astn.yaml", *small(data, **settings)]
        self.command += ["--workers", workers, "--out", run]
        self.run = run
        self.shared_memory = set(os.listdir(SHM))
        self.seen: set[int] = set()  # every process that belonged to the run
        self.mapped: set[str] = set()  # the shared memory that they were seen to use
        self.lost: list[tuple[int, int]] = []  # steps done, and step kept, at each kill
        self.running = self.start()

    def start(self) -> subprocess.Popen[str]:
        self.running = process(*self.command)
        return self.running

    def wait(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, self.running, seconds=240)
        self._look_around()

    def _look_around(self) -> None:
        found = descendants(self.running.pid).keys() | {self.running.pid}
        self.seen |= found
        self.mapped |= {name for pid in found for name in _mapped(pid)}

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
        self._look_around()
        self.lost.append((reached(self.run), kept(self.run)))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def reap(self) -> None:
        """Take leave of a killed command."""
        assert self.running.wait(timeout=60) == -signal.SIGKILL
        for stream in (self.running.stdout, self.running.stderr):
            assert stream is not None
            stream.close()

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

    def remove_semaphores(self) -> int:
        """Remove named semaphores, 32 bytes each, and say how many there were.

        A loader drops their names with its first batches. Until then they are left where
        multiprocessing's resource tracker, their keeper, is killed together with the loader.
        """
        self.assert_no_process()
        found = [SHM / name for name in self._leaked() if name.startswith("sem.")]
        assert all(path.stat().st_size == 32 for path in found)
        for path in found:
            path.unlink()
        return len(found)

    def _alive(self) -> dict[int, str]:
        mine = {pid for pid, fields in _stats() if int(fields[3]) == self.running.pid}
        living = {pid for pid, _ in _stats()}
        return {pid: _command(pid) for pid in mine | (self.seen & living)}

    def _leaked(self) -> list[str]:
        """New files of shared memory named after a process of the run or seen in use by one, or an
        object store of Ray that nobody uses; that of another Ray on this machine is in use."""
        new = sorted(set(os.listdir(SHM)) - self.shared_memory)
        pids = {str(pid) for pid in self.seen}
        stores = {n for n in new if n.startswith("plasma")}
        stores -= {name for pid, _ in _stats() for name in _mapped(pid)} if stores else set()
        return [
            n for n in new if n in self.mapped or n in stores or pids & set(re.findall(r"\d+", n))
        ]

    def assert_same(self, reference: Path) -> None:
        """Finished, with the same bits and lines as ``reference``."""
        assert json.loads((self.run / "run.json").read_text())["status"] == "finished"
        assert lines(self.run) == lines(reference)
        assert differing(self.run, reference) == []

    def assert_as_uninterrupted(self, reference: Path) -> None:
        """The same bits and lines as ``reference``; only what no checkpoint had was repeated."""
        self.assert_same(reference)
        starts = started_at(RunFolder(self.run))
        assert starts[0] == 0
        assert len(starts) == len(self.lost) + 1, (starts, self.lost)
        for (done, checkpoint), start in zip(self.lost, starts[1:], strict=True):
            # A write that goes on beside training may be one interval late.
            assert checkpoint <= start, (starts, self.lost)
            assert done - start <= 2 * EVERY, (starts, self.lost)
