"""Workers that are killed: the run goes on by itself and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.training import train_run
from cluster.training.worker import needs_the_user
from tests.command import CONFIGS, small
from tests.faults.job import STEPS, Job, differing, kept, lines, started_at, training_workers
from tests.faults.many_shards import pass_ends
from tests.spawn import run_processes
from trainer.config import ConfigError, load_config, parse_config
from trainer.loop import train
from trainer.runs.run_folder import RunFolder
from trainer.watching.finite import NonFiniteError


@pytest.mark.ray
def test_a_killed_worker_is_replaced_and_the_run_is_the_same(
    benchmark, ray_cluster, tmp_path, capfd
):
    """The short form of this folder's slow tests; what to equal is trained without Ray."""
    steps = {"training__steps": 12, "training__checkpoint_every": 2}
    config = load_config(CONFIGS / "astn.yaml", small(benchmark, **steps))
    (tmp_path / "whole").mkdir()
    run_processes(_train_whole, 2, config.to_dict(), tmp_path / "whole")
    run, killed = tmp_path / "run", threading.Event()

    def kill_one() -> None:
        for _ in range(6000):
            workers = training_workers(os.getpid())
            if len(workers) == 2 and kept(run) >= 2:
                os.kill(workers[1], signal.SIGKILL)
                killed.set()
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one)
    killer.start()
    train_run(config, run, workers=2)
    killer.join()
    assert killed.is_set()
    starts = started_at(RunFolder(run))
    assert len(starts) == 2
    assert starts[1] >= 2
    said = f"worker group restarted (1 of 3): continuing at step {starts[1]}"
    assert capfd.readouterr().err.splitlines().count(said) == 1
    assert lines(run) == lines(tmp_path / "whole")
    assert differing(run, tmp_path / "whole") == []


def _train_whole(rank: int, world_size: int, tree: dict[str, Any], out: Path) -> None:
    train(parse_config(tree, where="test"), RunFolder(out))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigError("x"), True),
        (NonFiniteError("x"), True),
        (OSError(28, "No space left on device"), True),
        (ConnectionResetError("a peer died"), False),
        (TimeoutError("a peer died"), False),
        (RuntimeError("Connection closed by peer"), False),
    ],
)
def test_what_would_happen_again_is_not_tried_again(error, expected):
    assert needs_the_user(error) is expected


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.ray
def test_one_worker_is_killed_at_a_random_step_twice_in_a_row(benchmark, undisturbed, tmp_path):
    job, chosen = Job(benchmark, tmp_path / "run"), random.Random()
    first = chosen.randint(1, 40)
    for attempt, step in enumerate((first, first + chosen.randint(1, 12)), start=1):
        job.wait_for_step(step, attempt=attempt)
        job.kill(chosen.choice(job.workers()))
    done = job.end()
    assert done.code == 0, done.err
    for n in (1, 2):
        step = started_at(RunFolder(job.run))[n]
        assert f"worker group restarted ({n} of 3): continuing at step {step}\n" in done.err
    job.assert_as_uninterrupted(undisturbed)
    job.assert_nothing_is_left()


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.ray
@pytest.mark.parametrize("moment", ["between", "writing"])
def test_the_whole_group_is_killed(moment, benchmark, undisturbed, tmp_path):
    job = Job(benchmark, tmp_path / "run")
    job.wait_for_step(17)
    workers = job.workers()
    if moment == "writing":
        seen = kept(job.run)
        job.wait(lambda: kept(job.run) > seen)
        _until_a_checkpoint_is_being_written(job.run / "checkpoints")
    job.kill(*workers)
    done = job.end()
    assert done.code == 0, done.err
    job.assert_as_uninterrupted(undisturbed)
    job.assert_nothing_is_left()


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.ray
def test_a_worker_is_killed_twice_where_a_stream_starts_its_next_pass(
    many_shards, undisturbed_in, tmp_path
):
    """The shorter stream draws a new permutation there, the longer one goes on in its own."""
    job = Job(many_shards, tmp_path / "run")
    turns = pass_ends(many_shards)
    first = min(turns.values())
    assert first < max(turns.values()) <= STEPS
    for attempt in (1, 2):
        job.wait_for_step(first, attempt=attempt)
        job.kill(job.workers()[attempt - 1])
        job.wait(lambda attempt=attempt: len(started_at(RunFolder(job.run))) > attempt)
    done = job.end()
    assert done.code == 0, done.err
    job.assert_as_uninterrupted(undisturbed_in(2))
    job.assert_nothing_is_left()


def _until_a_checkpoint_is_being_written(folder: Path) -> None:
    """Without a pause: a small checkpoint's temporary folder lives for milliseconds."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if any(not name.startswith("step-") for name in os.listdir(folder)):
            return
    raise AssertionError("no checkpoint was written")


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.ray
def test_a_mistake_ends_all_workers_at_once(benchmark, tmp_path):
    """A diverged run is refused in its own words, without a restart."""
    job = Job(benchmark, tmp_path / "run", optimizer__learning_rate=1e30, optimizer__kind="sgd")
    done = job.end()
    assert "optimizer.learning_rate" in done.complaint
    assert "restarted" not in done.err
    assert started_at(RunFolder(job.run)) == [0]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.ray
def test_too_many_deaths_end_the_run_and_the_same_command_continues_it(
    benchmark, undisturbed, tmp_path
):
    job = Job(benchmark, tmp_path / "run", training__max_failures=0)
    job.wait_for_step(12)
    job.kill(job.workers()[0])
    done = job.end()
    assert done.code not in (0, 2)
    assert "the workers failed" in done.err
    job.start()
    done = job.end()
    assert done.code == 0, done.err
    assert "restarted" not in done.err  # the first start of a call is none
    job.assert_as_uninterrupted(undisturbed)
    job.assert_nothing_is_left()
