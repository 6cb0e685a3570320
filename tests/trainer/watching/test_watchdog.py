"""Hung processes: reported with their place and stacks, ended, and nothing else is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.spawn import free_port
from trainer import loop
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.engines.hardware import own_device
from trainer.inputs.open_data import OpenData
from trainer.inputs.streams import walk_stream
from trainer.runs.run_folder import RunFolder
from trainer.synchronised import collectives
from trainer.watching import watchdog
from trainer.watching.phase_clock import PhaseClock
from trainer.watching.watchdog import HANGS, HUNG, Watchdog, watching

SCRIPT = """
import os, sys, threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path
import torch
from trainer.synchronised import collectives
from trainer.watching.phase_clock import PhaseClock
from trainer.watching.watchdog import watching

def blocked_for_ever():
    threading.Event().wait()

clock = PhaseClock()
group = nullcontext()
if "RANK" in os.environ:
    group = collectives.process_group(timeout_seconds=60, backend="gloo")
with (
    group,
    collectives.measured(partial(clock.phase, "collectives")),
    watching(clock, Path(sys.argv[1]), limit_seconds=1.0, step=lambda: 23),
):
    clock.end_start()
    collectives.barrier()
    if collectives.rank() == collectives.world_size() - 1:
        with clock.phase("data"):
            blocked_for_ever()
    with clock.phase("forward"):
        collectives.barrier()
"""


def start(run: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(run)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def reports(run: Path) -> list[dict]:
    found = [json.loads(p.read_text()) for p in (run / HANGS).glob("*.json")]
    return sorted(found, key=lambda r: r["rank"])


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


@pytest.fixture
def ends(monkeypatch) -> list[int]:
    """Exit codes that watchdogs would have ended this process with."""
    codes: list[int] = []
    monkeypatch.setattr(watchdog.os, "_exit", codes.append)
    return codes


def running() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("watchdog")]


@pytest.mark.slow
def test_a_hang_is_reported_with_its_place_and_stack_and_ends_the_process(tmp_path):
    (tmp_path / "run.json").write_text('{"attempt": 4}')
    process = start(tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == HUNG == 75
    (report,) = reports(tmp_path)
    place = {"rank": 0, "world_size": 1, "step": 23, "phase": "data", "attempt": 4}
    assert place.items() <= report.items()
    assert report["seconds"] >= 1
    assert report["pid"] == process.pid
    assert "blocked_for_ever" in (tmp_path / HANGS / report["stacks"]).read_text()
    (line,) = [line for line in err.splitlines() if line.startswith("img2shape: ")]
    assert line == (
        f"img2shape: hung in phase 'data' at step 23 (no progress for {report['seconds']:.0f} s, "
        f"see training.watchdog_seconds); stacks: {tmp_path / HANGS / report['stacks']}; the same "
        "command continues"
    )


@pytest.mark.slow
def test_the_rank_that_hangs_and_the_one_that_waits_for_it_tell_who_is_who(tmp_path):
    master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [start(tmp_path, RANK=str(rank), **master) for rank in range(2)]
    for process in processes:
        process.communicate(timeout=120)
    waiting, hung = reports(tmp_path)
    assert (waiting["phase"], waiting["collectives"]) == ("collectives", 2)
    assert (hung["phase"], hung["collectives"]) == ("data", 1)
    assert "blocked_for_ever" in (tmp_path / HANGS / hung["stacks"]).read_text()
    assert processes[1].returncode == HUNG


def two_ranks(run: Path, monkeypatch: pytest.MonkeyPatch, *, phase: str) -> list[Watchdog]:
    """Rank 0 is at work for ever; rank 1 makes no progress in ``phase`` and has a short limit."""
    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    dogs = []
    for rank, limit_seconds in enumerate((1000.0, 0.4)):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        clock = PhaseClock()
        clock._stack.append(phase if rank else "forward")
        dogs.append(Watchdog(clock, run, limit_seconds=limit_seconds, step=lambda: None))
        dogs[-1].start()
    return dogs


def test_a_rank_that_works_answers_a_hung_one_and_goes_on(tmp_path, monkeypatch, ends):
    dogs = two_ranks(tmp_path, monkeypatch, phase="data")
    wait_for(lambda: bool(ends))
    for dog in dogs:
        dog.stop()
    assert ends == [HUNG]
    works, hangs = reports(tmp_path)
    assert works["seconds"] < works["limit_seconds"]
    assert hangs["seconds"] >= hangs["limit_seconds"]


def test_a_rank_that_waits_for_one_that_works_goes_on_too(tmp_path, monkeypatch, ends):
    """Rank 0 may score or write alone for long, as long as it makes progress."""
    written, write = [], Watchdog._write

    def counted(dog: Watchdog) -> str:
        written.append(dog.facts()["rank"])
        return write(dog)

    monkeypatch.setattr(Watchdog, "_write", counted)
    dogs = two_ranks(tmp_path, monkeypatch, phase="collectives")
    wait_for(lambda: len(written) >= 3)
    for dog in dogs:
        dog.stop()
    assert (ends, set(written)) == ([], {1})


def test_a_slow_phase_that_beats_is_no_hang(tmp_path, ends):
    clock = PhaseClock()
    with (
        watching(clock, tmp_path, limit_seconds=0.8, step=lambda: 0),
        clock.phase("round"),
    ):
        for _ in range(40):
            time.sleep(0.05)
            clock.beat()
    assert ends == []
    assert not (tmp_path / HANGS).exists()


def test_a_process_that_was_suspended_has_not_hung(tmp_path, ends, monkeypatch):
    """Ctrl-Z and fg, or a machine that slept: the clock jumps, the process is well."""
    monkeypatch.setattr(watchdog, "LOOKS_SECONDS", 0.02)
    hours = [0.0]
    real = time.monotonic
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: real() + 3600 * hours[0])
    with watching(PhaseClock(), tmp_path, limit_seconds=100, step=lambda: 0):
        time.sleep(0.2)
        hours[0] = 5.0
        time.sleep(0.3)
        assert ends == []


def test_a_disk_that_hangs_too_does_not_keep_the_process(tmp_path, ends, monkeypatch):
    monkeypatch.setattr(watchdog, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(watchdog, "HEAD_START_SECONDS", 0.1)
    answered = threading.Event()
    monkeypatch.setattr(watchdog, "write_json", lambda path, value: answered.wait())
    with watching(PhaseClock(), tmp_path, limit_seconds=0.2, step=lambda: 0):
        wait_for(lambda: bool(ends))
    assert ends == [HUNG]
    answered.set()


def test_only_the_newest_reports_are_kept(tmp_path, ends):
    folder = tmp_path / HANGS
    folder.mkdir()
    for n in range(30):
        for suffix in ("json", "txt"):
            (folder / f"2025-01-01T0000{n:02}-rank-0.{suffix}").write_text("{}")
    with watching(PhaseClock(), tmp_path, limit_seconds=0.2, step=lambda: 0):
        wait_for(lambda: bool(ends))
    names = sorted(p.name for p in folder.glob("*.json"))
    assert len(names) == watchdog.KEPT
    assert names[0] == "2025-01-01T000011-rank-0.json"
    assert names[-1] > "2025-01-02"
    assert sorted(p.stem for p in folder.glob("*.txt")) == [Path(n).stem for n in names]


def small(root: Path, **training: object) -> RunConfig:
    return parse_config(
        {
            "method": {"name": "astn"},
            "data": {"root": str(root), "train_views": 2},
            "network": {"tiny_width": 8, "embedding": 16},
            "training": {"steps": 2, "batch": 10, "log_every": 1, "threads": 1, **training},
            "evaluation": {"batch": 4},
        }
    )


@pytest.mark.parametrize("limit_seconds", [60, None])
def test_a_run_is_watched_to_its_end_and_not_beyond(benchmark, tmp_path, limit_seconds):
    config, folder = small(benchmark, watchdog_seconds=limit_seconds), RunFolder(tmp_path / "run")
    folder.claim(config, fingerprint=OpenData(config).fingerprint)
    seen: list[list[str]] = []
    loop.train(config, folder, on_record=lambda record: seen.append(running()))
    assert seen == 2 * [["watchdog", "watchdog-reports"] if limit_seconds else []]
    assert running() == []
    assert not (folder.path / HANGS).exists()


def test_each_part_of_a_walk_is_progress(benchmark, tmp_path, monkeypatch):
    """In the phases that look at all of a stream."""
    trainer = loop.Trainer(small(benchmark), RunFolder(tmp_path), device=own_device())
    stream = next(iter(trainer.sources))
    options = {"batch": 4, "rank": 0, "world_size": 1, "device": "cpu", "dtype": loop.torch.float32}
    parts = sum(1 for _ in walk_stream(trainer.sources[stream], **options))
    before = trainer.clock.beats
    assert sum(1 for _ in trainer.rounds.walk(stream)) == parts > 1
    assert trainer.clock.beats == before + parts


def test_each_part_of_a_stream_that_the_device_takes_is_progress(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("dataio.loading.resident._PART_BYTES", 1 << 18)
    clock, seen = PhaseClock(), []
    config, folder = small(benchmark, cache="device"), RunFolder(tmp_path)
    trainer = loop.Trainer(config, folder, device=own_device(), clock=clock)
    monkeypatch.setattr(clock, "beat", lambda: seen.append(clock.innermost))
    trainer.run()
    assert seen.count("data") > 2


def test_a_limit_that_the_collectives_would_not_await_is_refused():
    with pytest.raises(ConfigError, match=re.escape("watchdog_seconds: 300 is not below")) as info:
        parse_config({"method": "astn", "training": {"timeout_seconds": 200}})
    assert "lower it, or null" in str(info.value)
    for chosen in (100, None):
        parse_config(
            {"method": "astn", "training": {"timeout_seconds": 200, "watchdog_seconds": chosen}}
        )
