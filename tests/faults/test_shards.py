"""Shards that vanish or change while a run reads them: a clear end, and the way on."""

from __future__ import annotations

import pytest

from tests.faults.job import Job, kept, reached, started_at
from tests.faults.many_shards import Damage, copy_of, late_shard
from trainer.runs.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.faults]
SEEN = 8  # steps before the damage
AHEAD = 8  # steps that loader processes may be ahead of training, with some to spare


def _damaged(kind: str, many_shards, tmp_path, *, workers: int, **overrides: object):
    """A run that ended because of a damaged shard: itself, and the damage to undo."""
    data = copy_of(many_shards, tmp_path / "data")
    shard = late_shard(data, after_step=SEEN + AHEAD, before_step=28)
    damage = Damage(kind, shard)
    job = Job(data, tmp_path / "run", workers=workers, **overrides)
    job.wait_for_step(SEEN, attempt=1 if workers else 0)
    damage.do()
    job.lost.append((reached(job.run), kept(job.run)))
    done = job.end()
    complaint = done.complaint
    assert str(shard) in complaint
    assert "copy" in complaint
    assert "pack again" in complaint
    assert SEEN <= reached(job.run) < 28
    job.assert_nothing_is_left()
    return job, damage


@pytest.mark.parametrize("cache", ["none", "ram"])
@pytest.mark.parametrize("loader_workers", [0, 2])
def test_a_shard_that_disappears_ends_the_run_until_it_is_back(
    loader_workers, cache, many_shards, undisturbed_in, tmp_path
):
    options = {"training__loader_workers": loader_workers, "training__cache": cache}
    job, damage = _damaged("removed", many_shards, tmp_path, workers=0, **options)
    job.start()
    assert "copy" in job.end().complaint  # still missing: refused before anything is written
    damage.undo()
    job.start()
    done = job.end()
    assert done.code == 0, done.err
    job.assert_same(undisturbed_in(0))
    job.assert_nothing_is_left()


@pytest.mark.parametrize("kind", ["truncated", "altered"])
def test_a_shard_that_changes_ends_the_run_at_the_sample(
    kind, many_shards, undisturbed_in, tmp_path
):
    job, damage = _damaged(kind, many_shards, tmp_path, workers=0)
    damage.undo()
    job.start()
    done = job.end()
    assert done.code == 0, done.err
    job.assert_same(undisturbed_in(0))


@pytest.mark.ray
@pytest.mark.parametrize("loader_workers", [0, 2])
def test_ray_workers_end_together_without_a_restart(
    loader_workers, many_shards, undisturbed_in, tmp_path
):
    """The rank that lacks the shard tells; the other waits for it in a collective meanwhile."""
    options = {"training__loader_workers": loader_workers}
    job, damage = _damaged("removed", many_shards, tmp_path, workers=2, **options)
    assert started_at(RunFolder(job.run)) == [0]
    damage.undo()
    job.start()
    done = job.end()
    assert done.code == 0, done.err
    assert "restarted" not in done.err
    job.assert_as_uninterrupted(undisturbed_in(2))
    job.assert_nothing_is_left()
