"""telemetry.json: its numbers against counts by hand, and that it harms nothing."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dataio.shards.reading import HEADER_BYTES, content_member
from tests.spawn import run_processes
from trainer.config import RunConfig, parse_config
from trainer.inputs.open_data import OpenData
from trainer.loop import train
from trainer.runs.attempt import Attempt
from trainer.runs.checkpoint_writer import CheckpointWriter, Written
from trainer.runs.retention import Retention
from trainer.runs.run_folder import RunFolder
from trainer.watching import telemetry as telemetry_module
from trainer.watching.phase_clock import PhaseClock
from trainer.watching.telemetry import STEP_BUCKETS, StepHistogram, Telemetry

STEPS = 4


def small(root: Path, **training: Any) -> RunConfig:
    settings = {"steps": STEPS, "batch": 9, "log_every": 1, "checkpoint_every": 2, "threads": 1}
    return parse_config(
        {
            "method": {"name": "astn"},
            "data": {"root": str(root), "train_views": 2},
            "network": {"tiny_width": 8, "embedding": 16},
            "training": {**settings, "cache": "none", **training},
        }
    )


def trained(config: RunConfig, path: Path, stop_after: int | None = None) -> RunFolder:
    folder = RunFolder(path)
    folder.claim(config, fingerprint=OpenData(config).fingerprint)
    asked = iter(range(10**6))
    train(config, folder, stop=None if stop_after is None else lambda: next(asked) >= stop_after)
    return folder


def told(folder: RunFolder) -> dict[str, Any]:
    return json.loads(folder.telemetry.read_text())


def stored_bytes(config: RunConfig, *, whole: bool = False, first: int = 0) -> int:
    """What the batches of the steps from ``first`` on, or whole streams, take of the shards."""
    data, found = OpenData(config), 0
    for name, source in data.sources.items():
        steps = range(first, STEPS)
        drawn = [row for s in steps for row in data.plan.places(s)[name].rows.tolist()]
        rows = source.rows.tolist() if whole else drawn
        found += sum(HEADER_BYTES + content_member(source.manifest, row).size for row in rows)
    return found


@dataclass(frozen=True)
class Whole:
    folder: RunFolder
    config: RunConfig
    telemetry: dict[str, Any]
    wall_seconds: float


@pytest.fixture(scope="module")
def whole(benchmark, tmp_path_factory) -> Whole:
    config, begun = small(benchmark), time.monotonic()
    folder = trained(config, tmp_path_factory.mktemp("whole") / "run")
    return Whole(folder, config, told(folder), time.monotonic() - begun)


def test_a_run_tells_its_counts(whole):
    found = whole.telemetry
    assert (found["format"], found["attempt"], found["world_size"]) == (1, 1, 1)
    assert (found["step"], found["steps"]) == (STEPS, STEPS)
    streams = OpenData(whole.config).sources
    assert found["samples"] == dict.fromkeys(streams, 9 * STEPS)
    assert found["read_bytes"] == stored_bytes(whole.config)
    assert (found["cache_bytes"], found["bad_samples"], found["rank_skew"]) == (0, 0, 0.0)
    assert found["last_step_time"] <= found["time"] <= time.time()


def test_it_has_the_last_record_and_the_newest_checkpoint(whole):
    found, path = whole.telemetry, whole.folder.checkpoints / f"step-{STEPS:08d}"
    assert found["record"] == json.loads(whole.folder.log.read_text().splitlines()[-1])
    written = found["checkpoint"]
    assert written["step"] == STEPS
    assert written["seconds"] > 0
    assert written["bytes"] == sum(file.stat().st_size for file in path.iterdir())


def test_its_phases_sum_to_the_wall_clock(whole):
    phases = dict(whole.telemetry["phases"])
    total = phases.pop("total")
    assert sum(phases.values()) == pytest.approx(total, rel=0.02)
    assert 0 < total <= whole.wall_seconds


def test_its_steps_are_those_of_the_summary_in_run_json(whole):
    steps, told_steps = whole.folder.read()["step_timings"], whole.telemetry["step_seconds"]
    assert told_steps["buckets"]["+Inf"] == steps["count"] == STEPS
    assert told_steps["sum"] == pytest.approx(steps["mean_seconds"] * STEPS)


def test_the_histogram_is_cumulative_and_bounds_belong_to_their_bucket():
    histogram = StepHistogram()
    for seconds in (0.001, 0.005, 0.0051, 60.0, 61.0):
        histogram.add(seconds)
    buckets = histogram.told()["buckets"]
    assert list(buckets) == [*map(str, STEP_BUCKETS), "+Inf"]
    assert (buckets["0.005"], buckets["0.01"]) == (2, 3)
    assert (buckets["30.0"], buckets["60.0"], buckets["+Inf"]) == (3, 4, 5)
    assert histogram.told()["sum"] == pytest.approx(121.0111)


def test_a_continued_run_counts_from_0_and_knows_the_checkpoint_it_began_with(benchmark, tmp_path):
    config = small(benchmark, checkpoint_every=100)
    folder = trained(config, tmp_path / "run", stop_after=3)
    before = told(folder)
    assert (before["step"], before["steps"], before["checkpoint"]["step"]) == (3, 3, 3)
    trained(config, tmp_path / "run", stop_after=0)  # it leaves before a step
    resumed = told(folder)
    assert (resumed["attempt"], resumed["step"], resumed["steps"]) == (2, 3, 0)
    assert (resumed["samples"], resumed["record"], resumed["last_step_time"]) == ({}, None, None)
    assert resumed["checkpoint"]["bytes"] == before["checkpoint"]["bytes"]
    trained(config, tmp_path / "run")
    assert (told(folder)["attempt"], told(folder)["steps"]) == (3, 1)
    assert told(folder)["read_bytes"] == stored_bytes(config, first=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_bytes_of_loader_workers_and_caches(benchmark, tmp_path, whole, workers):
    streams = OpenData(whole.config).sources.values()
    sizes = {"device": stored_bytes(whole.config, whole=True), "none": stored_bytes(whole.config)}
    for cache, read in sizes.items():
        config = small(benchmark, cache=cache, loader_workers=workers)
        found = told(trained(config, tmp_path / cache))
        assert found["read_bytes"] == read, cache
        assert (found["cache_bytes"] > 0) == (cache == "device")
    found = told(trained(small(benchmark, cache="ram", loader_workers=workers), tmp_path / "ram"))
    assert 0 < found["read_bytes"] <= sizes["none"]
    # A worker is ahead of the step, so with one the cache holds more than the steps have had.
    assert (
        0
        < found["cache_bytes"]
        <= sum(
            len(s.rows) * max(1, int(s.manifest.views[s.rows].max())) * 3 * s.image_size**2
            for s in streams
        )
    )


def told_by_a_rank(rank: int, world_size: int, root: Path, out: Path) -> dict[str, Any] | None:
    config, folder = small(root), RunFolder(out / "two")
    if rank == 0:
        folder.claim(config, fingerprint=OpenData(config).fingerprint)
    train(config, folder)
    return told(folder) if rank == 0 else None


def test_two_processes_read_and_train_what_one_does(benchmark, tmp_path, whole):
    found = run_processes(told_by_a_rank, 2, benchmark, tmp_path)[0]
    assert found["world_size"] == 2
    for key in ("samples", "read_bytes", "cache_bytes", "steps"):
        assert found[key] == whole.telemetry[key], key
    assert 0 <= found["rank_skew"] <= 1


class Part:
    count = 5


class Loader:
    """What a loader tells."""

    read_bytes, held_bytes = 7, 11


def telemetry(path: Path, clock: PhaseClock, *, leader: bool = True) -> Telemetry:
    attempt = Attempt(path.with_name("run.json"), 3)
    writer = CheckpointWriter(path.parent, description={}, keep=Retention(last=1), attempt=attempt)
    found = Telemetry(
        path, clock=clock, writer=writer if leader else None, device=torch.device("cpu")
    )
    found.started(0, Loader())
    return found


def skewed(rank: int, world_size: int, out: Path) -> dict[str, Any] | None:
    """Rank 1 works three times as long as the others, who wait for it in the collective."""
    now = [0.0]
    clock = PhaseClock(lambda: now[0])
    clock.end_start()
    mine = telemetry(out / "telemetry.json", clock, leader=rank == 0)
    for step, slow in enumerate((1.0, 3.0), start=1):
        with clock.phase("forward"):
            now[0] += slow if rank == 1 else 1.0
        with clock.phase("collectives"):
            now[0] += 0.0 if rank == 1 else slow - 1.0
        clock.end_step()
        if rank == 0:
            mine.recorded({"loss": 1.0})
        mine.stepped(step, {"shapes": Part()}, logged=True)
        if step == 1 and rank == 0:
            assert json.loads((out / "telemetry.json").read_text())["rank_skew"] == 0
    mine.ended(2)
    return json.loads((out / "telemetry.json").read_text()) if rank == 0 else None


def test_skew_is_that_of_the_own_work_since_the_last_logged_step(tmp_path):
    found = run_processes(skewed, 2, tmp_path)[0]
    assert found["rank_skew"] == pytest.approx(0.5)  # 3 / mean(1, 3) - 1
    assert (found["read_bytes"], found["cache_bytes"]) == (14, 22)
    assert found["samples"] == {"shapes": 10}
    assert found["phases"]["total"] == 4


def test_it_is_written_at_the_first_record_at_checkpoints_and_once_in_a_while(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(telemetry_module, "EVERY_SECONDS", math.inf)
    path = tmp_path / "telemetry.json"
    mine = telemetry(path, PhaseClock())

    def step_told(step: int, record: dict[str, Any] | None = None) -> int:
        if record is not None:
            mine.recorded(record)
        mine.stepped(step, {}, logged=record is not None)
        return json.loads(path.read_text())["step"]

    assert step_told(1) == 1
    assert step_told(2) == 1
    assert step_told(3, {"loss": 1.0}) == 3
    assert step_told(4, {"loss": 1.0}) == 3
    assert mine._writer is not None
    mine._writer.last = Written(step=4, time=0.0, bytes=1)
    assert step_told(5) == 5
    assert step_told(6) == 5
    mine.ended(6)
    assert json.loads(path.read_text())["step"] == 6
    assert [p.name for p in tmp_path.iterdir()] == ["telemetry.json"]


def test_a_file_that_cannot_be_written_is_said_once_and_harms_nothing(
    benchmark, tmp_path, whole, caplog
):
    config, folder = small(benchmark), RunFolder(tmp_path / "run")
    folder.claim(config, fingerprint=OpenData(config).fingerprint)
    (folder.telemetry / "in-the-way").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        train(config, folder)
    said = [r.getMessage() for r in caplog.records if "telemetry.json" in r.getMessage()]
    assert len(said) == 1
    assert "training goes on" in said[0]
    assert folder.finished
    assert not list(folder.path.glob(".telemetry*"))
    losses = [
        [json.loads(line)["loss"] for line in f.log.read_text().splitlines()]
        for f in (folder, whole.folder)
    ]
    assert losses[0] == losses[1]


def test_a_step_that_is_not_logged_asks_no_other_rank(tmp_path, monkeypatch):
    """Nor a GPU: what it counts is the host's."""
    exchanged: list[list[float]] = []

    def gather(values: list[float], device: torch.device) -> list[list[float]]:
        exchanged.append(values)
        return [values]

    monkeypatch.setattr(telemetry_module.collectives, "gather_numbers", gather)
    mine = telemetry(tmp_path / "telemetry.json", PhaseClock())
    for step, logged in enumerate([True, False, False, True], start=1):
        if logged:
            mine.recorded({"loss": 1.0})
        mine.stepped(step, {"a": Part()}, logged=logged)
    assert len(exchanged) == 2


def test_what_is_not_a_number_is_null(tmp_path):
    path = tmp_path / "telemetry.json"
    record = {"loss": math.nan, "terms": {"a": math.inf}}
    mine = telemetry(path, PhaseClock())
    mine.recorded(record)
    mine.stepped(1, {}, logged=True)
    assert json.loads(path.read_text())["record"] == {"loss": None, "terms": {"a": None}}


def test_bad_samples_are_those_of_the_data_sets_trained_on(benchmark, monkeypatch):
    import trainer.inputs.open_data as open_data
    from dataio.records import DataError
    from dataio.shards.quarantine import Quarantine, QuarantinedSample

    sample = QuarantinedSample("a", "0" * 64, "damaged")
    seen = []

    def quarantine(root: str) -> Quarantine:
        seen.append(root)
        return Quarantine((sample, sample))

    monkeypatch.setattr(open_data, "read_quarantine", quarantine)
    assert OpenData(small(benchmark)).bad_samples() == 2
    assert seen == [str(benchmark)]  # both streams are of one data set

    def unreadable(root: str) -> Quarantine:
        raise DataError("no")

    monkeypatch.setattr(open_data, "read_quarantine", unreadable)
    assert OpenData(small(benchmark)).bad_samples() is None
