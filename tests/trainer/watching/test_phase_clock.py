"""The phases of a run: exclusive, nested, and summing to the wall clock."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.spawn import run_processes
from trainer.config import RunConfig, parse_config
from trainer.inputs.open_data import OpenData
from trainer.loop import train
from trainer.runs.run_folder import RunFolder
from trainer.watching.phase_clock import PhaseClock, shares


class Time:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def clock(time: Time) -> PhaseClock:
    """A clock whose start-up is over, after no time."""
    clock = PhaseClock(time)
    clock.end_start()
    return clock


def assert_sums(summary: dict[str, float]) -> None:
    parts = [v for k, v in summary.items() if k != "total"]
    assert sum(parts) == pytest.approx(summary["total"], abs=1e-9)
    assert all(part >= 0 for part in parts)


def test_an_inner_phase_pauses_the_outer_one(time, clock):
    time.passes(1)
    with clock.phase("forward"):
        time.passes(2)
        with clock.phase("collectives"):
            time.passes(4)
            with clock.phase("deeper"):
                time.passes(8)
        time.passes(16)
    with clock.phase("backward"), clock.phase("collectives"):
        time.passes(32)
    time.passes(64)
    expected = {"forward": 18, "collectives": 36, "deeper": 8, "backward": 0, "other": 65}
    assert clock.summary() == {"start": 0, **expected, "total": 127}


def test_a_phase_inside_itself_is_counted_once(time, clock):
    with clock.phase("collectives"):
        time.passes(1)
        with clock.phase("collectives"):
            time.passes(2)
    assert clock.summary()["collectives"] == 3


def test_exceptions_close_their_phases(time, clock):
    def fails() -> None:
        with clock.phase("forward"):
            time.passes(1)
            with clock.phase("collectives"):
                time.passes(2)
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert clock.current == "other"
    time.passes(4)
    summary = clock.summary()
    assert (summary["forward"], summary["collectives"], summary["other"]) == (1, 2, 4)
    assert_sums(summary)


def test_a_summary_in_the_middle_of_a_phase_disturbs_nothing(time, clock):
    with clock.phase("forward"):
        time.passes(1)
        assert clock.summary()["forward"] == 1
        assert clock.current == "forward"
        time.passes(2)
    assert clock.summary() == {"start": 0, "forward": 3, "other": 0, "total": 3}


def test_everything_is_start_until_the_first_step(time):
    clock = PhaseClock(time)
    time.passes(1)
    with clock.phase("data"):
        time.passes(2)
        assert clock.current == "start"
    clock.end_start()
    time.passes(4)
    clock.end_start()
    time.passes(8)
    assert clock.summary() == {"start": 3, "other": 12, "total": 15}


def test_phases_of_other_threads_are_not_counted(clock):
    """With the real time, many threads and the owner nesting at once: still a partition."""
    real = PhaseClock()
    real.end_start()
    go = threading.Event()

    def elsewhere() -> None:
        go.wait()
        for _ in range(200):
            with real.phase("elsewhere"), real.phase("deeper"):
                pass

    threads = [threading.Thread(target=elsewhere) for _ in range(8)]
    for thread in threads:
        thread.start()
    go.set()
    for _ in range(500):
        with real.phase("forward"), real.phase("collectives"):
            pass
    for thread in threads:
        thread.join()
    summary = real.summary()
    assert summary.keys() == {"start", "forward", "collectives", "other", "total"}
    assert_sums(summary)


def test_other_threads_can_tell_whether_and_where_there_is_progress(clock):
    seen = [clock.beats]
    with clock.phase("round"):
        seen.append(clock.beats)
        clock.beat()
        seen.append(clock.beats)
        with clock.phase("collectives"):
            seen.append(clock.beats)
            assert clock.innermost == "collectives"
        seen.append(clock.beats)
        assert clock.innermost == "round"
    seen.append(clock.beats)
    assert seen == sorted(set(seen))
    assert (clock.entered("round"), clock.entered("collectives"), clock.entered("x")) == (1, 1, 0)


def test_the_innermost_phase_shows_during_start_up_too(time):
    clock = PhaseClock(time)
    assert clock.innermost == "start"
    with clock.phase("collectives"):
        assert (clock.innermost, clock.current) == ("collectives", "start")


def test_steps_count_from_the_end_of_start_up(time):
    clock = PhaseClock(time)
    assert clock.steps() == {"count": 0}
    time.passes(50)
    clock.end_start()
    for seconds in [1.0] * 19 + [21.0]:
        time.passes(seconds)
        clock.end_step()
    steps = clock.steps()
    assert (steps["count"], steps["mean_seconds"], steps["per_second"]) == (20, 2.0, 0.5)
    assert 1 <= steps["p95_seconds"] < 21


def test_shares_leave_start_up_out():
    found = shares({"start": 90.0, "data": 1.0, "forward": 3.0, "other": 0.0, "total": 94.0})
    assert found == {"data": 0.25, "forward": 0.75, "other": 0.0}
    assert shares({"start": 1.0, "other": 0.0, "total": 1.0}) == {"other": 0.0}


def small(root: Path) -> RunConfig:
    return parse_config(
        {
            "method": {"name": "astn"},
            "data": {"root": str(root), "train_views": 2},
            "network": {"tiny_width": 8, "embedding": 16},
            "training": {"steps": 4, "batch": 10, "log_every": 1, "threads": 1},
        }
    )


def facts_of_a_run(rank: int, world_size: int, root: Path, out: Path) -> dict | None:
    config, folder = small(root), RunFolder(out / f"w{world_size}")
    if rank == 0:
        folder.claim(config, fingerprint=OpenData(config).fingerprint)
    train(config, folder)
    return folder.read() if rank == 0 else None


# And "copy" on a GPU.
PHASES = ("start", "data", "augment", "forward", "backward", "optimizer", "checkpoint")


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_phases_of_a_run_sum_to_its_wall_clock(benchmark, tmp_path, world_size):
    facts = run_processes(facts_of_a_run, world_size, benchmark, tmp_path)[0]
    timings = facts["timings"]
    assert {*PHASES, "finish", "other", "total"} <= timings.keys()
    assert all(timings[name] > 0 for name in PHASES)
    assert ("collectives" in timings) == (world_size > 1)
    assert_sums(timings)
    assert facts["step_timings"]["count"] == 4
    spent = sum(v for k, v in timings.items() if k not in ("start", "total"))
    assert facts["step_timings"]["mean_seconds"] * 4 <= spent + 1e-9
