"""Workers that hang: they are named, ended and replaced, and the run ends as if undisturbed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.faults.job import Job, kept, reached, started_at
from trainer.runs.run_folder import RunFolder
from trainer.watching.watchdog import HANGS

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.ray]

LIMIT = {"training__watchdog_seconds": 15, "training__timeout_seconds": 100}

# In the process of rank 1 alone, and once: a read that never returns, as from a dead file server.
SITECUSTOMIZE = """
import importlib.abc, importlib.machinery, os, sys, threading

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "dataio.shards.reading":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run(module), patch(module))
        return spec

def patch(module):
    read = module.ShardReader.read

    def read_from_dead_server(self, *args, **options):
        if os.environ.get("RANK") == "1":
            try:
                os.rename(TRIGGER, TRIGGER + ".taken")
            except FileNotFoundError:
                pass
            else:
                threading.Event().wait()
        return read(self, *args, **options)

    module.ShardReader.read = read_from_dead_server

sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def dead_server(tmp_path, monkeypatch) -> Path:
    """From when this file is made, the next read of rank 1 takes for ever."""
    trigger, folder = tmp_path / "hang-now", tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"TRIGGER = {str(trigger)!r}\n{SITECUSTOMIZE}")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return trigger


def note_what_may_be_lost(job: Job) -> None:
    job.lost.append((reached(job.run), kept(job.run)))


def assert_said_in_order(err: str, *patterns: str) -> None:
    """Each pattern matches one whole line, in this order."""
    found = []
    for pattern in patterns:
        matches = [n for n, line in enumerate(err.splitlines()) if re.fullmatch(pattern, line)]
        assert len(matches) == 1, (pattern, err)
        found += matches
    assert found == sorted(found), err


def test_a_worker_that_is_stopped_is_replaced(benchmark, undisturbed, tmp_path):
    """SIGSTOP: the process is there, keeps its connections, and does nothing."""
    job = Job(benchmark, tmp_path / "run", **LIMIT)
    job.wait_for_step(13)
    stopped = job.workers()[1]
    note_what_may_be_lost(job)
    os.kill(stopped, signal.SIGSTOP)
    done = job.end()
    assert done.code == 0, done.err
    step = started_at(RunFolder(job.run))[1]
    assert_said_in_order(
        done.err,
        r"rank (0|1) gave no sign of life; rank (?!\1)(0|1) waited for it in phase "
        r"'(collectives|backward)' at step \d+ \(no progress for \d+ s\); stacks: .*\.txt",
        rf"worker group restarted \(1 of 3\): continuing at step {step}",
    )
    job.assert_as_uninterrupted(undisturbed)
    job.assert_nothing_is_left()


def test_a_worker_whose_disk_hangs_is_named_and_replaced(
    benchmark, undisturbed, tmp_path, dead_server
):
    job = Job(benchmark, tmp_path / "run", **LIMIT)
    job.wait_for_step(13)
    job.workers()
    note_what_may_be_lost(job)
    dead_server.touch()
    done = job.end()
    assert done.code == 0, done.err
    step = started_at(RunFolder(job.run))[1]
    assert_said_in_order(
        done.err,
        r"rank 1 hung in phase 'data' at step \d+ \(no progress for \d+ s\); stacks: .*-1\.txt",
        rf"worker group restarted \(1 of 3\): continuing at step {step}",
    )
    (stacks,) = (job.run / HANGS).glob("*-rank-1.txt")
    assert "read_from_dead_server" in stacks.read_text()
    job.assert_as_uninterrupted(undisturbed)
    job.assert_nothing_is_left()


def test_a_hang_that_ends_the_run_is_in_its_last_words(
    benchmark, undisturbed, tmp_path, dead_server
):
    job = Job(benchmark, tmp_path / "run", training__max_failures=0, **LIMIT)
    job.wait_for_step(13)
    note_what_may_be_lost(job)
    dead_server.touch()
    done = job.end()
    assert done.code == 1, done.err
    last = done.err.splitlines()[-1]
    assert "the workers failed" in last
    assert "rank 1 hung in phase 'data' at step" in last
    job.start()
    done = job.end()
    assert done.code == 0, done.err
    job.assert_as_uninterrupted(undisturbed)
    job.assert_nothing_is_left()
