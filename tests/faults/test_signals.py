"""The command itself is killed or asked to leave; the same command goes on."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.job import Job, descendants, kept, reached, started_at
from trainer.runs.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.ray]


def test_a_killed_command_leaves_no_process_and_is_continued(benchmark, undisturbed, tmp_path):
    job = Job(benchmark, tmp_path / "run")
    job.wait_for_step(13)
    workers = job.workers()
    job.kill(job.running.pid)
    job.reap()
    job.assert_ended(workers)
    job.start()
    done = job.end()
    assert done.code == 0, done.err
    job.assert_as_uninterrupted(undisturbed)
    job.assert_nothing_is_left()


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_a_session_that_is_killed_whole_is_continued(
    loader_workers, benchmark, undisturbed, tmp_path
):
    """The command, Ray's own processes, both workers and their loaders at one blow."""
    job = Job(benchmark, tmp_path / "run", training__loader_workers=loader_workers)
    job.wait_for_step(13)
    assert len(job.workers()) == 2
    job.kill(job.running.pid, *descendants(job.running.pid))
    job.reap()
    job.assert_no_process()
    job.start()
    done = job.end()
    assert done.code == 0, done.err
    job.assert_as_uninterrupted(undisturbed)
    job.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_asked_to_leave_saves_just_in_time(
    number, benchmark, undisturbed, tmp_path
):
    job = Job(benchmark, tmp_path / "run")
    job.wait_for_step(12)
    job.lost.append((reached(job.run), kept(job.run)))
    os.kill(job.running.pid, number)
    left = job.end()
    assert left.code == 130, left.err
    assert "Traceback" not in left.err
    saved = kept(job.run)
    assert saved == reached(job.run)  # of every step that was done
    assert not (job.run / "stop").exists()
    job.assert_nothing_is_left()
    job.start()
    done = job.end()
    assert done.code == 0, done.err
    assert started_at(RunFolder(job.run)) == [0, saved]
    job.assert_as_uninterrupted(undisturbed)
    job.assert_nothing_is_left()
