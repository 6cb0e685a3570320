"""How many workers a group has: what the user asks for, and what the cluster has room for.

A fixed number of workers is always met, if necessary with less than one CPU each. A range gets as
many workers as there is room for now: one GPU each where there are GPUs, else one whole CPU each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.config import ConfigError

EPSILON = 1e-6  # three times 1/3 of a CPU may come out as less than one


@dataclass(frozen=True)
class GroupSize:
    """The fewest and the most workers; equal for a fixed number, both 0 for no workers."""

    least: int
    most: int

    @property
    def fixed(self) -> bool:
        return self.least == self.most

    def __str__(self) -> str:
        return str(self.most) if self.fixed else f"{self.least}-{self.most}"


@dataclass(frozen=True)
class Node:
    """What one node of a cluster has, and how much of it is free."""

    cpus: float
    gpus: float
    free_cpus: float
    free_gpus: float
    memory_bytes: float = 0.0
    free_memory_bytes: float = 0.0


@dataclass(frozen=True)
class GroupPlan:
    """A group to start now.

    Attributes:
        workers: its size.
        cpus: that each worker reserves.
        gpus: whether each worker gets one GPU.
        missing: workers for which there is no room yet; the group waits for room.
    """

    workers: int
    cpus: float
    gpus: bool
    missing: int = 0


def parse_workers(text: str) -> GroupSize:
    """``4`` or ``1-4``.

    Raises:
        ConfigError: anything else, or a range that holds no number or begins with 0.
    """
    found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text.strip())
    if found is None:
        raise ConfigError(f"--workers '{text}': expected a number or a range, like 4 or 1-4")
    least = int(found[1])
    most = int(found[2]) if found[2] else least
    if found[2] and not 1 <= least <= most:
        raise ConfigError(
            f"--workers '{text}': a range goes from 1 or more up to a larger number, like 1-4"
        )
    return GroupSize(least, most)


def plan_group(
    size: GroupSize, nodes: Sequence[Node], *, at_most: int | None = None, may_grow: bool
) -> GroupPlan:
    """The group to start on ``nodes``, while no worker of the run reserves anything there.

    Args:
        at_most: the most workers to try, but never fewer than ``size.least``.
        may_grow: whether nodes may join. Where none can, workers share CPUs so that
            ``size.least`` of them fit.
    """
    gpus = sum(node.gpus for node in nodes) >= max(1, size.least)
    cpus = _share(size, nodes, gpus=gpus, may_grow=may_grow)
    room = capacity(nodes, cpus=cpus, gpus=gpus)
    if size.fixed:
        return GroupPlan(size.most, cpus, gpus, missing=max(0, size.most - room))
    most = size.most if at_most is None else max(size.least, min(size.most, at_most))
    workers = min(most, max(size.least, room))
    return GroupPlan(workers, cpus, gpus, missing=max(0, workers - room))


def capacity(nodes: Sequence[Node], *, cpus: float, gpus: bool) -> int:
    """How many workers of ``cpus`` CPUs, and of a GPU each if ``gpus``, have room now."""
    total = 0
    for node in nodes:
        held = int(node.free_cpus / cpus + EPSILON)
        total += min(held, int(node.free_gpus)) if gpus else held
    return total


def _share(size: GroupSize, nodes: Sequence[Node], *, gpus: bool, may_grow: bool) -> float:
    """CPUs of each worker: one, or less where there are fewer CPUs than workers."""
    total = sum(node.cpus for node in nodes)
    if size.fixed:
        return min(1.0, (total or 1.0) / size.most)
    if gpus:  # a node has as many workers as GPUs, also with fewer CPUs than those
        return min([1.0, *(node.cpus / node.gpus for node in nodes if min(node.cpus, node.gpus))])
    return 1.0 if may_grow else min(1.0, (total or 1.0) / size.least)
