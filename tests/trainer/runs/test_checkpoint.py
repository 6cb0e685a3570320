"""Checkpoints under faults: damage, a failing disk, kills, and a process that was thought dead."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer.runs.checkpoint
from tests.spawn import run_processes
from tests.trainer.test_loop import run, small
from trainer.config import ConfigError
from trainer.inputs.open_data import OpenData
from trainer.loop import Trainer, train
from trainer.runs.attempt import SupersededError, take_attempt
from trainer.runs.checkpoint import (
    clear_leftovers,
    load_checkpoint,
    newest_checkpoint,
    open_checkpoint,
    open_selected,
    save_checkpoint,
)
from trainer.runs.checkpoint_writer import CheckpointWriter, snapshot
from trainer.runs.retention import Retention, best_first
from trainer.runs.run_folder import RunFolder

SAVE = torch.save


def saved(folder: Path, *steps: int, keep: int | Retention = 9, **facts: Any) -> None:
    for step in steps:
        state = {"x": torch.full((100,), float(step))}
        kept = Retention(keep) if isinstance(keep, int) else keep
        save_checkpoint(folder, state, step=step, description={"identity": "a"}, keep=kept, **facts)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def files(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*")}


def claimed(path: Path) -> RunFolder:
    """A run folder as far as attempts go."""
    path.mkdir(exist_ok=True)
    (path / "run.json").write_text('{"identity": "a", "data": {"fingerprint": "b"}}')
    return RunFolder(path)


def writer_in(folder: RunFolder, *, keep: int = 2) -> CheckpointWriter:
    return CheckpointWriter(
        folder.checkpoints,
        description={"identity": "a"},
        keep=Retention(keep),
        attempt=take_attempt(folder.facts),
    )


class Gate:
    """Stands in for ``torch.save``: tells that a write has begun and holds it until opened."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.opened = threading.Semaphore(0)

    def __call__(self, state: object, file: object) -> None:
        self.begun.release()
        assert self.opened.acquire(timeout=60)
        SAVE(state, file)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def gate(monkeypatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr("trainer.runs.checkpoint.torch.save", gate)
    return gate


# ---- damage


def truncate(path: Path) -> None:
    content = (path / "state.pt").read_bytes()
    (path / "state.pt").write_bytes(content[: len(content) // 2])


def flip_a_byte(path: Path) -> None:
    content = bytearray((path / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "state.pt").write_bytes(content)


def alter_the_facts(path: Path) -> None:
    text = (path / "checkpoint.json").read_text()
    (path / "checkpoint.json").write_text(text.replace('"step": 3', '"step": 7'))


def empty(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "state.pt does not match its hash"),
        (flip_a_byte, "state.pt does not match its hash"),
        (alter_the_facts, "checkpoint.json does not match its hash"),
        (lambda path: (path / "checkpoint.json").unlink(), "not a whole checkpoint"),
        (lambda path: (path / "state.pt").unlink(), "not a whole checkpoint"),
        (empty, "not a whole checkpoint"),
    ],
)
def test_damage_is_passed_over_in_one_line_naming_both(tmp_path, caplog, damage, reason):
    saved(tmp_path, 2, 3)
    bad, good = tmp_path / "step-00000003", tmp_path / "step-00000002"
    damage(bad)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.path, found.step, found.state["x"][0].item()) == (good, 2, 2.0)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert line.startswith(f"{bad}: {reason}")
    assert line.endswith(f"; passed over, using {good}")
    assert "\n" not in line
    with pytest.raises(ConfigError, match=f"{bad}: {reason}.*; choose another checkpoint"):
        load_checkpoint(bad)


def test_nothing_whole_is_said_too(tmp_path, caplog):
    saved(tmp_path / "checkpoints", 3)
    (tmp_path / "run.json").write_text("{}")
    truncate(tmp_path / "checkpoints" / "step-00000003")
    assert newest_checkpoint(tmp_path / "checkpoints") is None
    assert "passed over, no whole checkpoint is left" in caplog.text
    with pytest.raises(ConfigError, match="no checkpoint is whole; delete"):
        open_checkpoint(tmp_path)


def test_damaged_newer_ones_do_not_push_out_what_is_written_now(tmp_path):
    saved(tmp_path, 2, 8, 9)
    flip_a_byte(tmp_path / "step-00000008")
    flip_a_byte(tmp_path / "step-00000009")
    saved(tmp_path, 3, keep=1)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 3
    saved(tmp_path, 8, keep=1)  # in the place of the damaged one
    assert load_checkpoint(tmp_path / "step-00000008").state["x"][0].item() == 8.0
    assert names(tmp_path) == ["step-00000008", "step-00000009"]


def test_checkpoints_of_the_first_format_are_read(tmp_path):
    saved(tmp_path, 3)
    facts = json.loads((tmp_path / "step-00000003" / "checkpoint.json").read_text())
    del facts["facts_sha256"], facts["attempt"]
    text = json.dumps({**facts, "format": 1})
    (tmp_path / "step-00000003" / "checkpoint.json").write_text(text)
    assert load_checkpoint(tmp_path / "step-00000003").step == 3


# ---- writing in the background


def test_a_snapshot_shares_nothing_and_keeps_the_version_numbers():
    module = torch.nn.BatchNorm1d(3)
    state = {"method": module.state_dict(), "list": [torch.ones(2), 1], "name": "a"}
    copied = snapshot(state)
    module.running_mean.fill_(7)  # pyright: ignore[reportCallIssue, reportOptionalMemberAccess]
    state["list"][0].fill_(7)
    assert copied["method"]["running_mean"].tolist() == [0, 0, 0]
    assert copied["list"][0].tolist() == [1, 1]
    assert (copied["list"][1], copied["name"]) == (1, "a")
    assert isinstance(copied["method"], OrderedDict)
    assert copied["method"]._metadata == state["method"]._metadata  # pyright: ignore


def test_later_steps_run_during_the_write_and_do_not_change_it(tmp_path, gate):
    writer = writer_in(claimed(tmp_path))
    weights = torch.zeros(3)
    writer.write({"x": weights}, step=1)
    assert gate.begun.acquire(timeout=60)  # under way, and yet we are here
    weights.fill_(5)
    assert not list(tmp_path.glob("checkpoints/step-*"))
    gate.opened.release()
    writer.wait()
    found = load_checkpoint(tmp_path / "checkpoints" / "step-00000001")
    assert found.state["x"].tolist() == [0, 0, 0]
    assert found.description["attempt"] == 1


def test_a_second_write_waits_for_the_first(tmp_path, gate):
    writer = writer_in(claimed(tmp_path))
    writer.write({"x": torch.zeros(3)}, step=1)
    assert gate.begun.acquire(timeout=60)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(writer.write, {"x": torch.ones(3)}, step=2)
        assert not gate.begun.acquire(timeout=0.3)
        gate.opened.release(2)
        second.result(timeout=60)
    writer.wait()
    assert names(tmp_path / "checkpoints") == ["step-00000001", "step-00000002"]


class SlowToGo:
    """Something that a state holds and that takes its time to be freed."""

    def __copy__(self):
        return SlowToGo()

    def __del__(self):
        time.sleep(0.2)


def test_after_the_end_of_a_write_nothing_of_it_runs(tmp_path, monkeypatch):
    """A thread that frees tensors while the interpreter ends aborts the process."""
    monkeypatch.setattr(
        "trainer.runs.checkpoint_writer.save_checkpoint", lambda *_, **__: time.sleep(0.2)
    )
    under_way = writer_in(claimed(tmp_path))
    state = {"held": SlowToGo()}  # kept, so that only the copy goes in between
    under_way.write(state, step=1)
    under_way.close()
    assert "checkpoint-writer" not in [thread.name for thread in threading.enumerate()]


def test_a_disk_that_ends_in_the_middle_of_the_write_is_the_oserror_it_was(tmp_path):
    """A real limit on file sizes: torch turns what the system says into an error of its own."""
    writer = writer_in(claimed(tmp_path))
    writer.write({"x": torch.zeros(10)}, step=1)
    writer.wait()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        writer.write({"x": torch.zeros(1 << 20), "y": torch.zeros(9)}, step=2)
        with pytest.raises(OSError, match="too large") as error:
            writer.write({"x": torch.zeros(10)}, step=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(tmp_path / "checkpoints" / "step-00000002")
    assert names(tmp_path / "checkpoints") == ["step-00000001"]
    writer.wait()  # told once
    writer.write({"x": torch.zeros(10)}, step=3)
    writer.close()
    assert names(tmp_path / "checkpoints") == ["step-00000001", "step-00000003"]


@pytest.mark.slow
def test_how_checkpoints_are_written_changes_neither_run_nor_result(benchmark, tmp_path):
    one, other = (
        run(small(benchmark, async_checkpoints=flag), tmp_path / str(flag))
        for flag in (True, False)
    )
    assert one.read()["identity"] == other.read()["identity"]
    assert names(one.checkpoints) == names(other.checkpoints) == ["step-00000004", "step-00000006"]
    for name in names(one.checkpoints):
        ours, theirs = (load_checkpoint(r.checkpoints / name).state for r in (one, other))
        for key, value in ours["method"].items():
            assert torch.equal(value, theirs["method"][key]), key


def test_an_exception_in_the_loop_leaves_the_checkpoint_under_way_whole(benchmark, tmp_path):
    folder = RunFolder(tmp_path / "run")
    config = small(benchmark)
    folder.claim(config, fingerprint=OpenData(config).fingerprint)

    def fail(record: dict) -> None:
        if record["step"] == 2:  # the checkpoint at step 2 was started right before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(config, folder, on_record=fail)
    assert names(folder.checkpoints) == ["step-00000002"]
    assert load_checkpoint(folder.checkpoints / "step-00000002").step == 2


class DefectError(Exception):
    """Cannot be read back from its pickle, which has but the message."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def failure_on_rank(rank: int, world_size: int, root: Path, out: Path, fault: str) -> str:
    """What training raises on this rank when rank 0 meets ``fault`` at the first checkpoint."""
    config, folder = small(root, batch=9), RunFolder(out / f"w{world_size}")
    if rank == 0:
        folder.claim(config, fingerprint=OpenData(config).fingerprint)
    torch.distributed.barrier() if world_size > 1 else None

    def full_disk(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def defect(*_args: object) -> None:
        raise DefectError("what", "ever")

    def take_over(record: dict) -> None:
        if record["step"] == 1:
            take_attempt(folder.facts)

    try:
        if fault != "taken over" and rank == 0:
            torch.save = full_disk if fault == "full disk" else defect
        train(config, folder, on_record=take_over if fault == "taken over" else None)
    except Exception as err:
        return f"{type(err).__name__}: {err}".removeprefix("RuntimeError: ")
    finally:
        torch.save = SAVE
    return "nothing"


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("fault", ["full disk", "taken over", "defect"])
def test_all_ranks_stop_together_with_the_same_words(benchmark, tmp_path, fault, world_size):
    told = run_processes(failure_on_rank, world_size, benchmark, tmp_path, fault)
    assert len(set(told)) == 1, told
    folder = RunFolder(tmp_path / f"w{world_size}")
    if fault == "full disk":
        assert "No space left on device" in told[0]
        assert str(folder.checkpoints / "step-00000002") in told[0]
    elif fault == "defect":
        assert told[0] == "DefectError: whatever"
    else:
        assert told[0].startswith("SupersededError: attempt 1 was superseded by attempt 2, ")
    assert names(folder.checkpoints) == []
    assert folder.read()["status"] == "started"


# ---- what stays


def steps(folder: Path) -> list[int]:
    return [int(name.removeprefix("step-")) for name in names(folder)]


def test_the_newest_and_the_best_stay(tmp_path):
    keep = Retention(2, 2)
    values = {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.7, 5: 0.2, 6: 0.7, 7: 0.3, 8: None, 9: 0.0}
    kept = []
    for step, value in values.items():
        more = {} if value is None else {"scores": {"mAP": value}}
        saved(tmp_path, step, keep=keep, **more)
        kept.append(steps(tmp_path))
    assert kept[2:] == [
        [1, 2, 3],
        [2, 3, 4],
        [2, 4, 5],
        [2, 5, 6],  # 6 is as good as 4, and newer
        [2, 6, 7],
        [2, 6, 7, 8],
        [2, 6, 8, 9],
    ]


def test_of_anmrr_the_lowest_is_the_best(tmp_path):
    for step, value in enumerate((0.4, 0.2, 0.8, 0.6), start=1):
        scores = {"ANMRR": value, "mAP": 1 - value, "NN": math.nan}
        saved(tmp_path, step, keep=Retention(1, 1, ("ANMRR",)), scores=scores)
    assert steps(tmp_path) == [2, 4]
    ranked = best_first(tmp_path.iterdir(), "ANMRR")
    assert [(c.step, c.value) for c in ranked] == [(2, 0.2), (4, 0.6)]
    assert [c.step for c in best_first(tmp_path.iterdir(), "mAP")] == [2, 4]
    assert best_first(tmp_path.iterdir(), "NN") == []  # not defined for these queries


def test_what_stays_is_decided_without_reading_weights(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2, 3, scores={"mAP": 0.5})
    read = []
    digest = trainer.runs.checkpoint._sha256
    monkeypatch.setattr("trainer.runs.checkpoint._sha256", lambda p: (read.append(p), digest(p))[1])
    monkeypatch.setattr("trainer.runs.checkpoint.torch.load", None)
    saved(tmp_path, 4, keep=Retention(1, 1), scores={"mAP": 0.4})
    assert steps(tmp_path) == [3, 4]
    assert [path.parent.name.split(".")[1] for path in read] == ["step-00000004"]


def test_the_score_of_a_damaged_newer_one_counts_for_nothing(tmp_path):
    saved(tmp_path, 2, scores={"mAP": 0.5})
    saved(tmp_path, 8, scores={"mAP": 0.9})
    flip_a_byte(tmp_path / "step-00000008")
    saved(tmp_path, 3, keep=Retention(1, 1), scores={"mAP": 0.1})
    assert steps(tmp_path) == [2, 3, 8]


def config_with(split: str = "val", protocol: str = "mi3dor") -> dict[str, Any]:
    validation = {"metric": "mAP", "split": split}
    return {"config": {"validation": validation, "evaluation": {"protocol": protocol, "batch": 9}}}


def test_scores_under_other_conditions_are_not_compared(tmp_path):
    for step, value, config in (
        (1, 0.5, config_with()),
        (2, 0.9, config_with("test")),
        (3, 0.8, config_with(protocol="shrec")),
        (4, 0.1, config_with()),
    ):
        save_checkpoint(
            tmp_path,
            {"x": torch.ones(1)},
            step=step,
            description=config,
            keep=Retention(1, 1),
            scores={"mAP": value},
        )
    assert steps(tmp_path) == [4]  # 1 went when 2 came, under whose conditions it had no score
    assert best_first(tmp_path.iterdir())[0].selection == "oracle (mAP on val)"


def test_an_altered_score_is_damage(tmp_path):
    saved(tmp_path, 3, scores={"mAP": 0.25})
    file = tmp_path / "step-00000003" / "checkpoint.json"
    file.write_text(file.read_text().replace("0.25", "0.95"))
    assert best_first(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"checkpoint\.json does not match its hash"):
        load_checkpoint(file.parent)


def test_the_best_whole_one_is_opened(tmp_path, caplog):
    folder = claimed(tmp_path)
    with pytest.raises(ConfigError, match=r"no .* --select oracle; .*validation\.every"):
        open_selected(tmp_path, "oracle")
    for step, value in ((1, 0.3), (2, 0.9), (3, 0.6), (4, 0.1)):
        saved(folder.checkpoints, step, scores={"mAP": value})
    found, scored = open_selected(tmp_path, "oracle")
    assert scored is not None
    assert (found.step, scored.step, scored.value) == (2, 2, 0.9)
    assert found.state["x"][0].item() == 2
    truncate(folder.checkpoints / "step-00000002")
    found, scored = open_selected(tmp_path, "oracle")
    assert scored is not None
    assert (found.step, scored.value_shown) == (3, "mAP 0.600 on val at step 3")
    assert "step-00000002: state.pt does not match its hash; passed over" in caplog.text
    with pytest.raises(ConfigError, match="not a run folder; --select chooses"):
        open_selected(folder.checkpoints / "step-00000003", "oracle")
    with pytest.raises(ConfigError, match="no selection 'oracel'; did you mean 'oracle'"):
        open_selected(tmp_path, "oracel")


# ---- attempts


def test_each_start_takes_the_next_number_also_at_the_same_time(tmp_path):
    folder = claimed(tmp_path)
    tasks: list[Callable[[], object]] = []
    for number in range(12):
        tasks += [
            lambda: take_attempt(folder.facts).number,
            lambda n=number: folder.update(**{f"fact{n}": n}),
        ]
    with ThreadPoolExecutor(8) as pool:
        numbers = [f.result() for f in [pool.submit(task) for task in tasks]][::2]
    assert sorted(numbers) == list(range(1, 13))  # pyright: ignore[reportArgumentType]
    facts = folder.read()
    assert facts["attempt"] == 12
    assert all(facts[f"fact{n}"] == n for n in range(12))
    assert names(tmp_path) == ["run.json"]


def test_a_stale_trainer_can_neither_overwrite_nor_prune(benchmark, tmp_path):
    config = small(benchmark, keep_last=1)
    folder = run(config, tmp_path / "run", stop_after=3)
    stale = Trainer(config, folder, device=torch.device("cpu"))
    assert stale.step == 3
    run(config, folder.path)  # the next start, to the end
    before = files(folder.checkpoints)
    assert names(folder.checkpoints) == ["step-00000006"]
    facts = json.loads((folder.checkpoints / "step-00000006" / "checkpoint.json").read_text())
    assert (facts["attempt"], facts["identity"]) == (3, config.identity)
    for step in (3, 6, 7):  # an older one, the same, and one that would push the others out
        stale.step = step
        with pytest.raises(
            SupersededError, match=r"attempt 2 was superseded by attempt 3, .*this one stops"
        ):
            stale.save(last=True)
        assert files(folder.checkpoints) == before
    stale.step = 3
    with pytest.raises(SupersededError):
        stale.run()
    assert files(folder.checkpoints) == before
    assert folder.read()["status"] == "finished"


def test_a_writer_that_is_overtaken_in_its_write_says_so(tmp_path, gate):
    """The next start clears away what it was writing, which is not an error of the disk."""
    folder = claimed(tmp_path)
    stale = writer_in(folder)
    stale.write({"x": torch.zeros(3)}, step=1)
    assert gate.begun.acquire(timeout=60)
    clear_leftovers(folder.checkpoints, attempt=take_attempt(folder.facts))
    assert names(folder.checkpoints) == []
    gate.opened.release()
    with pytest.raises(SupersededError, match="attempt 1 was superseded by attempt 2"):
        stale.wait()
    assert names(folder.checkpoints) == []


# ---- kills

KILLED = """
import os, signal, sys, torch
from pathlib import Path
from trainer.runs.attempt import take_attempt
from trainer.runs.checkpoint import save_checkpoint
from trainer.runs.retention import Retention

run, where = Path(sys.argv[1]), sys.argv[2]
save, replace = torch.save, os.replace

def save_half(state, file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

def move_away_alone(source, target):
    replace(source, target)
    if str(target).endswith(".replaced"):
        os.kill(os.getpid(), signal.SIGKILL)

attempt = take_attempt(run / "run.json")
if where == "state":
    torch.save = save_half
else:
    os.replace = move_away_alone
save_checkpoint(run / "checkpoints", {"x": torch.full((100,), 30.0)}, step=3,
                description={"identity": "a"}, keep=Retention(2), attempt=attempt)
"""


@pytest.mark.parametrize("where", ["state", "exchange"])
def test_a_kill_inside_a_write_loses_nothing_and_the_next_start_clears_up(tmp_path, where):
    folder = claimed(tmp_path)
    saved(folder.checkpoints, 2, 3)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), where],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert any(name.startswith(".step-00000003") for name in names(folder.checkpoints))
    clear_leftovers(folder.checkpoints, attempt=take_attempt(folder.facts))
    assert names(folder.checkpoints) == ["step-00000002", "step-00000003"]
    found = newest_checkpoint(folder.checkpoints)
    assert found is not None
    assert (found.step, found.state["x"][0].item()) == (3, 3.0)
    assert folder.read()["attempt"] == 2
    folder.update(status="x")
    assert not list(tmp_path.glob(".*"))
