"""A loader process is killed: the run never hangs, and what was loaded stays the same."""

from __future__ import annotations

import pytest

from tests.faults.job import Job, loader_workers

pytestmark = [pytest.mark.slow, pytest.mark.faults]
LOADERS = 2
OPTIONS = {"training__loader_workers": LOADERS, "training__cache": "ram"}


def test_in_one_process_the_run_ends_by_name_and_the_same_command_continues(
    many_shards, undisturbed_in, tmp_path
):
    job = Job(many_shards, tmp_path / "run", workers=0, **OPTIONS)
    job.wait_for_step(12, attempt=0)
    victims = loader_workers(job.running.pid)
    assert len(victims) == LOADERS
    job.kill(victims[1])
    done = job.end()
    assert done.code == 1, done.err
    assert f"loader worker {victims[1]} was killed" in done.err
    assert "Traceback" not in done.err
    job.assert_nothing_is_left()
    job.start()
    done = job.end()
    assert done.code == 0, done.err
    job.assert_same(undisturbed_in(0))
    job.assert_nothing_is_left()


@pytest.mark.ray
def test_ray_workers_are_started_again(many_shards, undisturbed_in, tmp_path):
    job = Job(many_shards, tmp_path / "run", workers=2, **OPTIONS)
    job.wait_for_step(12)
    victims = loader_workers(job.running.pid)
    assert len(victims) == 2 * LOADERS
    job.kill(victims[-1])
    done = job.end()
    assert done.code == 0, done.err
    assert "worker group restarted (1 of 3)" in done.err
    job.assert_as_uninterrupted(undisturbed_in(2))
    job.assert_nothing_is_left()
