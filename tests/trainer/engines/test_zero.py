"""DeepSpeed against plain training in one process: weights, state, gradients, norms, resumption."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.spawn import run_alone, run_processes
from tests.trainer.strategies import Run, batches, flat, tensors

# Importing it would take seconds and leave its traces here.
if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("deepspeed is not installed", allow_module_level=True)

STAGES = ("zero0", "zero1", "zero2", "zero3")
STEPS = 5
CLIP = 2.3


@dataclass(frozen=True)
class Job:
    """A run of some steps under a strategy, perhaps continued from what :func:`flat` gave."""

    strategy: str
    kind: str = "sgd"
    turns: bool = False
    rows: int = 5
    first: int = 0
    steps: int = STEPS
    start: dict[str, np.ndarray] | None = None

    def plain(self) -> Job:
        return replace(self, strategy="ddp")


@dataclass(frozen=True)
class Outcome:
    state: dict[str, np.ndarray]
    norms: list[float]
    gradients: list[dict[str, np.ndarray]]
    kept: bool
    """Whether a batch that is not finite changed nothing and gave such a norm."""


def work(rank: int, world_size: int, jobs: list[Job]) -> list[Outcome]:
    return [trained(job, rank, world_size) for job in jobs]


def trained(job: Job, rank: int = 0, world_size: int = 1) -> Outcome:
    start = None if job.start is None else tensors(job.start)
    run = Run(job.strategy, turns=job.turns, kind=job.kind, clip_norm=CLIP, state=start)
    data = batches(job.first + job.steps, rows=job.rows)
    place: dict[str, Any] = {"rank": rank, "world_size": world_size}
    run.train(data[job.first :], first=job.first, **place)
    state, norms, gradients = flat(run.state()), list(run.norms), list(run.gradients)
    x, y = data[-1]
    run.train([(x / 0, y)], first=3 * job.steps, **place)
    after = flat(run.state())
    kept = not np.isfinite(run.norms[-1]) and all(  # pyright: ignore[reportCallIssue, reportArgumentType]
        np.array_equal(state[k], after[k]) for k in state if k != "seen"
    )
    return Outcome(state, norms, gradients, kept)  # pyright: ignore[reportArgumentType]


def run_jobs(jobs: list[Job], world_size: int) -> list[list[Outcome]]:
    """By job, what every rank found."""
    if world_size == 1:
        # In another process: this one must not get DeepSpeed's process group.
        return [[outcome] for outcome in run_alone(work, 0, 1, jobs)]
    ranks = run_processes(work, world_size, jobs)
    return [[rank[i] for rank in ranks] for i in range(len(jobs))]


def require_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], what: Any) -> None:
    assert found.keys() == expected.keys(), what
    for name, value in expected.items():
        message = f"{what}: {name}"
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-6, err_msg=message)


CASES = [
    *(Job(stage, kind) for stage in STAGES for kind in ("sgd", "adam")),
    *(Job(stage, kind, turns=True) for stage in STAGES for kind in ("sgd", "adam")),
]


FEW_ROWS = [Job("zero2", rows=2), Job("zero3", rows=2, turns=True), Job("zero1", "adam", rows=2)]


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "jobs"), [(1, CASES), (2, CASES), (3, FEW_ROWS)])
def test_every_stage_trains_as_one_plain_process(world_size, jobs):
    """Uneven parts with two processes; with three, one without a row. Frozen groups keep weights
    and state though weight decay and momentum act on what learns."""
    for job, ranks in zip(jobs, run_jobs(jobs, world_size), strict=True):
        expected = trained(job.plain())
        assert expected.kept
        for rank, found in enumerate(ranks):
            what = f"{job} on rank {rank} of {world_size}"
            require_equal(found.state, expected.state, what)
            np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-4, err_msg=what)
            clipped = max(found.norms) > CLIP > min(found.norms)
            assert clipped or job != CASES[0], "it must matter"
            for step, (one, other) in enumerate(
                zip(found.gradients, expected.gradients, strict=True)
            ):
                require_equal(one, other, f"{what}, update {step}")
            assert found.kept, what


@pytest.mark.slow
def test_checkpoints_go_from_any_strategy_and_world_size_to_any_other():
    """2 processes -> 1 and 1 -> 2, each held against the run that was never interrupted."""
    routes = [
        *(("ddp", stage) for stage in STAGES),
        *((stage, "ddp") for stage in STAGES),
        *(("zero3", "zero1"), ("zero2", "zero3")),
    ]
    kinds = [("sgd", False), ("adam", True)]
    cases = [(a, b, kind, turns) for a, b in routes for kind, turns in kinds]
    expected = {
        (kind, turns): trained(Job("ddp", kind, turns=turns)).state for kind, turns in kinds
    }
    for before, after in ((2, 1), (1, 2)):
        firsts = [Job(a, kind, turns=turns, steps=3) for a, _, kind, turns in cases]
        halves = [ranks[0].state for ranks in run_jobs(firsts, before)]
        seconds = [
            Job(b, kind, turns=turns, first=3, steps=STEPS - 3, start=half)
            for (_, b, kind, turns), half in zip(cases, halves, strict=True)
        ]
        for case, ranks in zip(cases, run_jobs(seconds, after), strict=True):
            for found in ranks:
                require_equal(found.state, expected[case[2:]], (case, before, after))


def peek(rank: int, world_size: int) -> list[tuple[int, int]]:
    """Elements of weights in memory outside and inside the block that gathers them."""
    found = []
    for name in ("zero2", "zero3"):
        run = Run(name)
        run.train(batches(1), rank=rank, world_size=world_size)
        outside = sum(p.numel() for p in run.method.parameters())
        with run.strategy.whole_weights(), torch.no_grad():
            inside = sum(p.numel() for p in run.method.parameters())
            x = torch.ones(1, 3)
            run.method.head(run.method.trunk(x) * run.method.gates["a"])
            assert sum(p.numel() for p in run.method.parameters()) == inside, "held"
        run.train(batches(1), rank=rank, world_size=world_size)
        found.append((outside, inside))
    return found


@pytest.mark.slow
def test_stage_3_spreads_the_weights_and_gives_them_back_whole():
    count = sum(p.numel() for p in Run("ddp").method.parameters())
    for answer in (run_alone(peek, 0, 1), *run_processes(peek, 2)):
        assert answer == [(count, count), (0, count)]
