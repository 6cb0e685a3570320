"""Class sums and running centres against plain loops, and over W processes with uneven rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.spawn import run_processes
from trainer.synchronised.class_centers import RunningCenters, class_sums, euclidean_norm, pool_sums

K, D = 4, 3
# Rows per rank for source and target; one rank has no target row, class 3 has no target at all.
SPLITS = {
    1: ([6], [5]),
    2: ([4, 2], [5, 0]),
    3: ([1, 0, 5], [0, 2, 3]),
    4: ([2, 2, 1, 1], [1, 0, 4, 0]),
}


def batches(step: int) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(step)
    source = torch.randn(6, D, dtype=torch.float64, generator=g)
    target = torch.randn(5, D, dtype=torch.float64, generator=g)
    return source, torch.tensor([0, 1, 1, 3, 2, 0]), target, torch.tensor([0, 0, 2, 1, 0])


def part(x: torch.Tensor, counts: list[int], rank: int) -> torch.Tensor:
    start = sum(counts[:rank])
    return x[start : start + counts[rank]].clone()


def centers_after_two_steps(rank: int, world_size: int):
    source_counts, target_counts = SPLITS[world_size]
    running = RunningCenters(K, D, theta=0.3).double()
    values = []
    for step in range(2):
        f_s, y_s, f_t, y_t = batches(step)
        f_s = part(f_s, source_counts, rank).requires_grad_()
        f_t = part(f_t, target_counts, rank).requires_grad_()
        s, t = class_sums(
            (f_s, part(y_s, source_counts, rank)),
            (f_t, part(y_t, target_counts, rank)),
            num_classes=K,
        )
        centers, _, _ = running(pool_sums(s, t))
        loss = (euclidean_norm(centers) * torch.arange(1, K + 1)).sum() + t.means.square().sum()
        loss.backward()
        values.append(loss.item())
    return values, f_s.grad.numpy() / world_size, running.centers.numpy(), running.seen.numpy()


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_centres_and_gradients_do_not_depend_on_world_size(world_size):
    values, gradient, centers, seen = centers_after_two_steps(0, 1)
    results = run_processes(centers_after_two_steps, world_size)
    for result in results:
        np.testing.assert_allclose(result[0], values, rtol=1e-12)
        np.testing.assert_allclose(result[2], centers, rtol=1e-12)
        np.testing.assert_array_equal(result[3], seen)
    together = np.concatenate([r[1] for r in results])
    np.testing.assert_allclose(together, gradient, rtol=1e-11)


def slow_running_centers(theta: float) -> np.ndarray:
    """ASTN eq. 4-9 for the mixed domain, with plain loops."""
    centers, seen = np.zeros((K, D)), [False] * K
    for step in range(2):
        f_s, y_s, f_t, y_t = (x.numpy() for x in batches(step))
        rows = [(y_s, f_s), (y_t, f_t)]
        for k in range(K):
            mine = [f for ys, fs in rows for y, f in zip(ys, fs, strict=True) if y == k]
            if mine:
                mean = sum(mine) / len(mine)
                centers[k] = theta * mean + (1 - theta) * centers[k] if seen[k] else mean
                seen[k] = True
    return centers


def test_running_centres_equal_plain_loops():
    np.testing.assert_allclose(
        centers_after_two_steps(0, 1)[2], slow_running_centers(0.3), rtol=1e-12
    )


def test_an_absent_class_keeps_its_centre_and_a_new_one_is_not_decayed_up():
    running = RunningCenters(2, 1, theta=0.3)
    (first,) = class_sums((torch.tensor([[4.0]]), torch.tensor([0])), num_classes=2)
    (second,) = class_sums((torch.tensor([[2.0]]), torch.tensor([1])), num_classes=2)
    running(first)
    centers, seen, _ = running(second)
    assert centers.tolist() == [[4.0], [2.0]]
    assert seen.tolist() == [True, True]


def test_gradient_flows_through_the_current_batch_only():
    running = RunningCenters(1, 1, theta=0.25)
    for _ in range(2):
        x = torch.tensor([[1.0], [3.0]], requires_grad=True)
        (sums,) = class_sums((x, torch.zeros(2, dtype=torch.long)), num_classes=1)
        centers, _, _ = running(sums)
        centers.sum().backward()
    assert x.grad.tolist() == [[0.125], [0.125]]  # theta / n


def test_norm_has_zero_gradient_at_zero():
    x = torch.zeros(2, 3, requires_grad=True)
    euclidean_norm(x).sum().backward()
    assert x.grad.abs().max() == 0


def test_no_rows_give_zero_means():
    (sums,) = class_sums((torch.zeros(0, D), torch.zeros(0, dtype=torch.long)), num_classes=K)
    assert sums.means.abs().max() == 0
    assert not sums.present.any()
