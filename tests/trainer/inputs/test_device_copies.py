"""Batches on their way to a device."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from dataio.loading.batch import Batch
from trainer.inputs.device_copies import on_device

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def batch(value: int, *, rows: int = 4, side: int = 32) -> Batch:
    def whole(*shape: int) -> torch.Tensor:
        return torch.full(shape, value)

    return Batch(
        pixels=whole(rows, 3, side, side).to(torch.uint8),
        label=whole(rows),
        row=whole(rows),
        position=whole(rows),
        views=whole(rows, 1),
        offset=0,
        count=rows,
        keys=[str(value)] * rows,
        jitter=None,
    )


def test_on_the_cpu_batches_pass_through_and_waiting_is_data():
    entered = []

    @contextmanager
    def phase(name):
        entered.append(name)
        yield

    steps = [(s, {"x": batch(s)}) for s in range(3)]
    found = on_device(iter(steps), torch.device("cpu"), phase=phase)
    assert all(a is b for a, b in zip(found, steps, strict=True))
    assert entered == ["data"] * 4  # the last one finds the end


def test_nothing_is_read_ahead():
    read = []

    def loader():
        for step in range(3):
            read.append(step)
            yield step, {"x": batch(step)}

    batches = on_device(loader(), torch.device("cpu"))
    next(batches)
    assert read == [0]


@needs_gpu
def test_copies_beside_a_busy_gpu_arrive_whole():
    """Kernels that run for long, and memory that is given out again as soon as it is free."""
    device = torch.device("cuda")
    weight = torch.randn(4096, 4096, device=device)
    steps = 30

    def loader():
        for step in range(steps):
            yield step, {"x": batch(step, rows=256, side=128).pin_memory()}

    sums = []
    for _, found in on_device(loader(), device):
        for _ in range(4):
            weight = torch.tanh(weight @ weight)
        pixels = found["x"].pixels
        assert pixels.is_cuda
        sums.append((pixels.double().mean(), found["x"].label.double().mean()))
        del pixels, found
    values = np.array([[float(a), float(b)] for a, b in sums])
    np.testing.assert_array_equal(values, np.repeat(np.arange(steps)[:, None], 2, axis=1))


@needs_gpu
def test_the_host_does_not_wait_for_copies():
    device = torch.device("cuda")
    steps = [(s, {"x": batch(s).pin_memory()}) for s in range(3)]
    torch.zeros(1, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert [step for step, _ in on_device(iter(steps), device)] == [0, 1, 2]
    finally:
        torch.cuda.set_sync_debug_mode("default")
