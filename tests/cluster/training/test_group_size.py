"""How many workers a group gets: pure functions of what is asked and what the nodes have."""

from __future__ import annotations

from itertools import product

import pytest

from cluster.training.group_size import (
    GroupPlan,
    GroupSize,
    Node,
    capacity,
    parse_workers,
    plan_group,
)
from tests.command import CONFIGS, call
from trainer.config import ConfigError


def node(cpus: float, gpus: float = 0, *, used: float = 0, used_gpus: float = 0) -> Node:
    return Node(cpus=cpus, gpus=gpus, free_cpus=cpus - used, free_gpus=gpus - used_gpus)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", GroupSize(0, 0)),
        ("4", GroupSize(4, 4)),
        ("1-4", GroupSize(1, 4)),
        (" 2-2 ", GroupSize(2, 2)),
    ],
)
def test_a_number_or_a_range_is_read(text, expected):
    assert parse_workers(text) == expected
    assert expected.fixed is (expected.least == expected.most)


@pytest.mark.parametrize("text", ["", "-1", "a", "1-", "-4", "4-1", "0-3", "1-2-3", "1.5", "1e3"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"^--workers '.*': .*1-4$"):
        parse_workers(text)


@pytest.mark.parametrize("command", ["train", "demo"])
def test_the_command_refuses_a_wrong_range_in_one_line(command, tmp_path, capfd):
    config = [CONFIGS / "astn.yaml"] if command == "train" else []
    told = call(capfd, command, *config, "--workers", "4-1", "--out", tmp_path / "run").complaint
    assert told.startswith("--workers '4-1': ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("cpus", "workers", "share"), [(8, 2, 1.0), (2, 4, 0.5), (2, 3, 2 / 3)])
def test_a_fixed_number_shares_the_cpus_there_are(cpus, workers, share):
    size = GroupSize(workers, workers)
    assert plan_group(size, [node(cpus)], may_grow=True) == GroupPlan(workers, share, gpus=False)


def test_a_fixed_number_waits_for_what_others_use():
    size = GroupSize(4, 4)
    assert plan_group(size, [node(4, used=3)], may_grow=True).missing == 3


@pytest.mark.parametrize(
    ("nodes", "workers", "missing"),
    [
        ([node(1)] * 3, 3, 0),
        ([node(1)] * 2, 2, 0),
        ([node(8)], 4, 0),
        ([node(2, used=1), node(1, used=1), node(1)], 2, 0),
        ([node(1.5), node(1.5)], 2, 0),  # no worker spans two nodes
        ([node(1)], 2, 1),  # at least the least, which has to wait
        ([], 2, 2),
    ],
)
def test_a_range_gets_what_the_cluster_holds_now(nodes, workers, missing):
    expected = GroupPlan(workers, 1.0, gpus=False, missing=missing)
    assert plan_group(GroupSize(2, 4), nodes, may_grow=True) == expected


def test_in_a_cluster_that_cannot_grow_the_least_fit_by_sharing():
    plan = plan_group(GroupSize(3, 4), [node(2)], may_grow=False)
    assert (plan.workers, plan.missing) == (3, 0)
    assert plan.cpus == pytest.approx(2 / 3)
    assert plan_group(GroupSize(1, 4), [node(2)], may_grow=False) == GroupPlan(2, 1.0, gpus=False)


def test_gpus_decide_where_there_are_enough():
    """CPUs that are scarcer than GPUs are shared."""
    nodes = [node(16, 4, used=2, used_gpus=2), node(2, 4)]
    plan = plan_group(GroupSize(1, 8), nodes, may_grow=True)
    assert plan == GroupPlan(6, 0.5, gpus=True)
    assert plan_group(GroupSize(2, 4), [node(4, 1)], may_grow=True) == GroupPlan(4, 1.0, gpus=False)


def test_a_group_that_could_not_be_placed_is_tried_smaller_but_not_below_the_least():
    size, nodes = GroupSize(2, 4), [node(8)]
    assert [plan_group(size, nodes, at_most=n, may_grow=True).workers for n in (3, 2, 1)] == [
        3,
        2,
        2,
    ]


def test_shares_add_up_to_the_whole_in_spite_of_rounding():
    for cpus, workers in product((1, 2, 3, 7, 96), range(1, 65)):
        share = min(1.0, cpus / workers)
        held = capacity([node(cpus)], cpus=share, gpus=False)
        assert held == max(cpus, workers), (cpus, workers)
