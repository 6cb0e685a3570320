"""Collectives in W real processes against the same computation on the concatenated rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.spawn import run_processes
from trainer.synchronised.collectives import (
    all_gather_rows,
    all_reduce_max,
    all_reduce_sum,
    any_rank,
    global_mean,
)

COUNTS = {1: [7], 2: [7, 0], 3: [2, 0, 5], 4: [1, 3, 0, 3]}


def rows() -> torch.Tensor:
    return torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def part(rank: int, world_size: int) -> torch.Tensor:
    counts = COUNTS[world_size]
    start = sum(counts[:rank])
    return rows()[start : start + counts[rank]].clone().requires_grad_()


def loss_of(kind: str, x: torch.Tensor) -> torch.Tensor:
    if kind == "sum":
        return (all_reduce_sum(x.sin().sum(0)) ** 3).sum()
    if kind == "gather":
        g = all_gather_rows(x)
        return torch.cdist(g, g + 1.0).pow(2).sum() + (g * torch.arange(len(g))[:, None]).sum()
    return global_mean(x.exp()[:, 0]) ** 2


def on_rank(rank: int, world_size: int, kind: str) -> tuple[float, np.ndarray]:
    x = part(rank, world_size)
    loss = loss_of(kind, x)
    loss.backward()
    # What DDP does to gradients: divide by W.
    return loss.item(), (x.grad / world_size).numpy()


@pytest.mark.parametrize("kind", ["sum", "gather", "mean"])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_value_and_gradient_equal_one_process(kind, world_size):
    expected_loss, expected_grad = on_rank(0, 1, kind)
    results = run_processes(on_rank, world_size, kind)
    for loss, _ in results:
        assert loss == pytest.approx(expected_loss, rel=1e-12)
    gradient = np.concatenate([g for _, g in results])
    np.testing.assert_allclose(gradient, expected_grad, rtol=1e-11)


def no_rows_anywhere(rank: int, world_size: int) -> tuple[float, int]:
    x = torch.zeros(0, 3, requires_grad=True)
    mean = global_mean(x.sum(1))
    mean.backward()
    return mean.item(), len(all_gather_rows(x))


@pytest.mark.parametrize("world_size", [1, 2])
def test_no_row_on_any_rank_is_zero_not_nan(world_size):
    assert run_processes(no_rows_anywhere, world_size) == [(0.0, 0)] * world_size


def flags(rank: int, world_size: int) -> tuple[bool, bool, float]:
    return any_rank(rank == 1), any_rank(False), all_reduce_max(torch.tensor(float(rank))).item()


def test_flags_agree_on_all_ranks():
    assert run_processes(flags, 2) == [(True, False, 1.0)] * 2
