"""A disk that fills up while a run writes: a small file system of the test's own."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.job import EVERY, STEPS, Job, kept, lines, reached
from trainer.runs.checkpoint import load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.faults]
SPACE_BYTES = 32 << 20


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], None]]:
    """Mounts a file system of ``SPACE_BYTES`` in memory on a folder; skips where it may not."""
    mounted: list[Path] = []

    def mount(folder: Path) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"size={SPACE_BYTES}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
        mounted.append(folder)

    if shutil.which("mount") is None:
        pytest.skip("needs the command mount")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(disk: Path) -> None:
    """Leave no room: a file takes all that there is."""
    with (disk / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def _keep_full(disk: Path, job: Job) -> None:
    """Until the run has ended: checkpoints that it removes give room back."""
    while job.running.poll() is None:
        _fill(disk)
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("workers", "full"),
    [(0, "run"), (0, "checkpoints"), pytest.param(2, "checkpoints", marks=pytest.mark.ray)],
)
def test_a_full_disk_ends_the_run_until_there_is_room(
    workers, full, small_disk, many_shards, undisturbed_in, tmp_path
):
    run = tmp_path / "disk" / "run"
    disk = run.parent if full == "run" else run / "checkpoints"
    if full == "run":
        disk.mkdir()
        small_disk(disk)
    job = Job(many_shards, run, workers=workers)
    if full == "checkpoints":  # it begins as an empty folder: nothing but a run may be in there
        job.wait((run / "run.json").exists)
        disk.mkdir(exist_ok=True)
        small_disk(disk)
    job.wait(lambda: kept(run) >= 2 * EVERY)
    job.lost.append((reached(run), kept(run)))
    _keep_full(disk, job)
    done = job.end()
    complaint = done.complaint
    assert str(disk) in complaint
    assert "the disk is full; free some space" in complaint
    assert "restarted" not in done.err
    _assert_whole(run)
    (disk / "ballast").unlink()
    job.assert_nothing_is_left()
    job.start()
    done = job.end()
    assert done.code == 0, done.err
    if workers:
        job.assert_as_uninterrupted(undisturbed_in(workers))
    job.assert_same(undisturbed_in(workers))
    job.assert_nothing_is_left()


def _assert_whole(run: Path) -> None:
    """Whatever has its final name can be read: checkpoints, facts, and what was logged."""
    found = sorted((run / "checkpoints").glob("step-*"))
    assert found
    for path in found:
        assert load_checkpoint(path).step == int(path.name.removeprefix("step-")) < STEPS
    assert json.loads((run / "run.json").read_text())["status"] == "started"
    assert lines(run)
