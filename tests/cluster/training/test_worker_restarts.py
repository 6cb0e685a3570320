"""Why a group of workers ended, and what the user is told when the next one starts."""

from __future__ import annotations

import json

import pytest

from cluster.training.group_size import GroupSize
from cluster.training.worker import error_file, notice_file
from cluster.training.worker_restarts import (
    GroupEnd,
    Restarts,
    RunFailed,
    how_it_ended,
    raise_mistake,
)
from trainer.config import ConfigError
from trainer.runs.attempt import take_attempt
from trainer.runs.run_folder import RunFolder


class Failure(RuntimeError):
    """As Ray raises them: by rank, what the workers raised."""

    def __init__(self, **facts: object) -> None:
        super().__init__("first line\nlast line\n")
        self.__dict__.update(facts)


class WorkerGroupStartupTimeoutError(RuntimeError):
    """Named like Ray's."""


class PreemptionError(Failure):
    """Named like Ray's."""


class NodeGone(RuntimeError):
    """A dead actor whose node was drained before."""

    preempted = True


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    (tmp_path / "run.json").write_text("{}")
    return RunFolder(tmp_path)


@pytest.mark.parametrize(
    ("failure", "hang", "expected", "detail"),
    [
        (Failure(worker_failures={1: RuntimeError("x")}), None, "worker death", "last line"),
        (Failure(worker_failures={1: RuntimeError("x")}), "rank 1 hung", "hang", "rank 1 hung"),
        (RuntimeError("a\nlast line"), None, "worker death", "last line"),
    ],
)
def test_a_death_is_counted(failure, hang, expected, detail, folder):
    end = how_it_ended(folder, failure, asked=None, hang=hang)
    assert end == GroupEnd(expected, counted=True, detail=detail)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (PreemptionError(), "preemption"),
        (Failure(worker_failures={0: RuntimeError("peer"), 1: NodeGone("x")}), "preemption"),
        (Failure(worker_failures={1: Failure(health_check_failure=NodeGone())}), "preemption"),
        (None, "room for more workers"),
    ],
)
def test_a_group_that_had_to_go_is_no_failure(failure, expected, folder):
    asked = None if failure else "room for more workers"
    end = how_it_ended(folder, failure, asked=asked, hang=None)
    assert (end.reason, end.counted, end.unplaced) == (expected, False, False)


@pytest.mark.parametrize("failure", [None, RuntimeError("a node went before all had left")])
def test_a_notice_names_the_reason(failure, folder):
    notice_file(folder).write_text(json.dumps({"reason": "SIGTERM to a worker", "rank": 1}))
    end = how_it_ended(folder, failure, asked=None, hang=None)
    assert (end.reason, end.counted) == ("SIGTERM to a worker", False)


def test_a_group_without_room_never_started(folder):
    failure = Failure(controller_failure=WorkerGroupStartupTimeoutError())
    end = how_it_ended(folder, failure, asked=None, hang=None)
    assert (end.unplaced, end.counted) == (True, False)


def test_a_mistake_is_raised_in_its_own_words(folder):
    error_file(folder).write_text(json.dumps({"type": "ConfigError", "message": "x.y: no"}))
    with pytest.raises(ConfigError, match=r"^x\.y: no$"):
        raise_mistake(folder, Failure())
    assert not error_file(folder).exists()
    with pytest.raises(OSError, match="No space") as told:
        raise_mistake(folder, Failure(worker_failures={0: OSError(28, "No space", "/run")}))
    assert told.value.filename == "/run"
    raise_mistake(folder, Failure(worker_failures={0: ConnectionResetError("a peer died")}))


def begin(folder: RunFolder, *, step: int, workers: int, reason: str | None = None) -> None:
    take_attempt(folder.facts).begin(step=step, world_size=workers, reason=reason)


def test_each_start_is_said_once(folder, capfd):
    begin(folder, step=0, workers=4)  # by an earlier call
    restarts = Restarts(folder, GroupSize(1, 4), limit=2)
    begin(folder, step=5, workers=3)
    restarts.look()
    restarts.look()
    restarts.after(GroupEnd("worker death", counted=True))
    assert not restarts.training
    restarts.look()
    begin(folder, step=10, workers=2)
    restarts.look()
    restarts.after(GroupEnd("preemption notice"))
    begin(folder, step=17, workers=2)
    restarts.look()
    assert restarts.training
    assert capfd.readouterr().err.splitlines() == [
        "training on 3 workers (1-4), continuing at step 5",
        "worker group restarted (1 of 2): continuing at step 10",
        "training on 2 workers (1-4), continuing at step 10",
        "worker group restarted (preemption notice): continuing at step 17",
    ]


def test_a_fixed_number_of_workers_is_not_worth_a_line(folder, capfd):
    restarts = Restarts(folder, GroupSize(2, 2), limit=2)
    begin(folder, step=0, workers=2)
    restarts.look()
    assert capfd.readouterr().err == ""


def test_only_deaths_are_limited(folder):
    restarts = Restarts(folder, GroupSize(2, 2), limit=1)
    for _ in range(3):
        restarts.after(GroupEnd("preemption notice"))
    restarts.after(GroupEnd("worker death", counted=True))
    with pytest.raises(RunFailed, match=r"^the workers failed \(restarts before: 1, .*\): killed$"):
        restarts.after(GroupEnd("worker death", counted=True, detail="killed"))
