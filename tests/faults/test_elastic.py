"""Workers that are asked to leave, and groups that shrink and grow: the run stays the same."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import CONFIGS, call, outcome, process, small, wait_until
from tests.faults.job import EVERY, Job, lines, reached
from tests.faults.small_cluster import SmallCluster
from trainer.runs.attempt import Start, read_starts

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.ray]
EXACT: dict[str, Any] = {"training__precision": "float64"}


def test_sigterm_to_one_worker_saves_on_all_and_is_no_failure(benchmark, undisturbed, tmp_path):
    job = Job(benchmark, tmp_path / "run", training__max_failures=0)
    job.wait_for_step(EVERY + 2)
    done_steps = reached(job.run)
    os.kill(job.workers()[1], signal.SIGTERM)
    done = job.end()
    assert done.code == 0, done.err
    first, second = read_starts(job.run)
    assert (first.reason, second.reason) == ("start", "SIGTERM to a worker")
    assert second.step >= done_steps  # the checkpoint before was of an earlier step
    said = f"worker group restarted (SIGTERM to a worker): continuing at step {second.step}"
    assert done.err.splitlines().count(said) == 1
    assert not (job.run / "notice.json").exists()
    job.assert_same(undisturbed)
    job.assert_nothing_is_left()


@pytest.fixture(scope="module")
def alone(benchmark, tmp_path_factory) -> Path:
    """One process in float64, to which any number of workers may be compared."""
    job = Job(benchmark, tmp_path_factory.mktemp("alone") / "run", workers=0, **EXACT)
    done = job.end()
    assert done.code == 0, done.err
    return job.run


@pytest.mark.parametrize("workers", ["3", "0"])
def test_a_killed_run_is_continued_on_another_number_of_workers(
    workers, benchmark, alone, tmp_path, capfd
):
    job = Job(benchmark, tmp_path / "run", **EXACT)
    job.wait_for_step(EVERY + 2)
    job.kill(job.running.pid)
    job.reap()
    job.command[job.command.index("--workers") + 1] = workers
    job.start()
    done = job.end()
    assert done.code == 0, done.err
    first, second = read_starts(job.run)
    assert (first.world_size, second.world_size) == (2, max(1, int(workers)))
    assert second.step >= EVERY
    assert_close(job.run, alone, capfd)


def assert_close(run: Path, reference: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same losses and the same evaluation but for the rounding of sums in another order."""
    ours, theirs = lines(run), lines(reference)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    losses = [[r["loss"] for r in records] for records in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    scores = [call(capfd, "eval", r, "--json").json for r in (run, reference)]
    numbers = [{k: v for k, v in s.items() if isinstance(v, float)} for s in scores]
    assert len(numbers[0]) > 5
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)


@pytest.fixture
def three_nodes(monkeypatch) -> Iterator[SmallCluster]:
    """Three nodes with one CPU each, which the command finds by RAY_ADDRESS."""
    cluster = SmallCluster(3)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
    try:
        yield cluster
    finally:
        cluster.close()


def test_a_group_shrinks_with_its_nodes_and_grows_again(
    benchmark, three_nodes, tmp_path, capfd, monkeypatch
):
    run, steps = tmp_path / "run", {"training__steps": 400, "training__checkpoint_every": 20}
    train = ["train", CONFIGS / "astn.yaml", *small(benchmark, **EXACT, **steps), "--out"]
    running = process(*train, run, "--workers", "1-3", module="tests.faults.impatient")

    def trains(attempt: int) -> Start:
        """Wait until that start of a group has done five steps."""

        def well_on() -> bool:
            starts = read_starts(run)
            return len(starts) >= attempt and reached(run) >= starts[attempt - 1].step + 5

        wait_until(well_on, running, seconds=240)
        return read_starts(run)[attempt - 1]

    assert trains(1).world_size == 3
    three_nodes.kill(0)
    assert (trains(2).world_size, trains(2).reason) == (2, "worker death")
    three_nodes.add()
    seen = reached(run)
    grown = trains(3)
    assert (grown.world_size, grown.reason) == (3, "room for more workers")
    assert grown.step >= seen  # saved just in time
    seen = reached(run)
    three_nodes.drain(1, 600)
    shrunk = trains(4)
    assert (shrunk.world_size, shrunk.reason) == (2, "preemption notice")
    assert shrunk.step >= seen
    done = outcome(running, timeout_seconds=300)
    assert done.code == 0, done.err
    starts = read_starts(run)
    for start in starts:
        said = f"training on {start.world_size} workers (1-3), continuing at step {start.step}"
        assert done.err.splitlines().count(said) == 1, done.err
    assert len(re.findall(r"restarted \(\d of 3\)", done.err)) == 1  # only the lost node's
    assert len(starts) == 4
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    monkeypatch.delenv("RAY_ADDRESS")
    whole = outcome(process(*train, tmp_path / "whole"), timeout_seconds=300)
    assert whole.code == 0, whole.err
    assert_close(run, tmp_path / "whole", capfd)
