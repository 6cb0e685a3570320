"""A step that is not logged leaves the host free: nothing in it waits for a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dataio.loading.augment import AugmentConfig, apply, draw
from tests.spawn import run_processes
from tests.trainer.host_waits import host_waits
from tests.trainer.methods.test_methods import CASES, local_batch, make, walk_of
from trainer.engines.data_parallel import DataParallel
from trainer.methods import METHODS, Now
from trainer.sections import OptimizerConfig
from trainer.watching.finite import FiniteCheck
from trainer.watching.observer import Origin

# Asked on the CPU alone, where it costs nothing.
ON_THE_CPU = {
    "augment.py _coloured: _local_scalar_dense": "does this batch change colours?",
    "augment.py _inverted: _local_scalar_dense": "does this batch invert pictures?",
    "class_centers.py _local_sums: _local_scalar_dense": "one_hot: are labels in range?",
    "data_parallel.py _may_step: _local_scalar_dense": "fused optimisers are told on the GPU",
    "read_back.py tolist: tolist": "on a GPU one update later, without a wait for this one",
}
# Must stay.
INHERENT = {
    "triplet.py choose: lift_fresh": "random numbers of the host, from page-locked memory",
    "data_parallel.py backward: _local_scalar_dense": "several workers, networks that learn in "
    "turn: DDP asks which parameters were used",
    "collectives.py row_counts: tolist": "several workers: sizes of what the others send",
}
TRAINED = [(n, i) for n, i in CASES if set(METHODS[n].streams) - METHODS[n].walked]


def take_step(step: int, model: Any, batch: Any, *, strategy: DataParallel, finite: FiniteCheck):
    """What the loop does with a batch, in a step that is not logged."""
    now = Now(step, 0.3, logged=False)
    for update in strategy.method.updates(step):
        with strategy.only(update):
            losses = model(batch, now, update.name)
            finite.losses_known(losses.terms, Origin(now, update, dict))
            strategy.backward(losses.total)
        finite.settle()
        norm = strategy.step(factor=1.0)
        assert norm is not None
        finite.updated(norm)


def waits(rank: int, world_size: int, name: str, variant: int) -> set[str]:
    """What was found in two steps."""
    method = make(name, variant)
    strategy = DataParallel()
    model = strategy.prepare(method, OptimizerConfig(learning_rate=0.05, clip_norm=1.0))
    finite = FiniteCheck(method, learning=strategy.only, delayed=True)
    if method.rounds(100):
        method.eval().start_round(1, method.rounds(100), walk_of(rank, world_size))
    method.train()
    batches = [local_batch(name, step, rank, world_size) for step in range(2)]
    with host_waits() as found:
        for step, batch in enumerate(batches):
            take_step(step, model, batch, strategy=strategy, finite=finite)
    return found


@pytest.mark.parametrize(("name", "variant"), TRAINED)
def test_the_host_waits_for_nothing_in_a_step(name, variant):
    found = waits(0, 1, name, variant)
    if variant == 0:
        found = found.union(*run_processes(waits, 2, name, variant))
    assert found - ON_THE_CPU.keys() - INHERENT.keys() == set()


def test_augmentation_waits_for_nothing():
    config = AugmentConfig(rotation_degrees=20, brightness=0.3, saturation=0.2, negative=0.5)
    pixels = torch.randint(0, 256, (3, 2, 3, 40, 40), dtype=torch.uint8)
    jitter = torch.from_numpy(draw(config, seed=1, pass_index=0, rows=np.arange(3), views=2))
    apply(pixels, jitter, size=32)  # makes the constants of a device once
    with host_waits() as found:
        apply(pixels, jitter, size=32)
        apply(pixels, None, size=32)
    assert found - ON_THE_CPU.keys() == set()


def test_waits_are_found():
    x = torch.randn(4, requires_grad=True)
    with host_waits() as found:
        x[x.detach() > 0].sum().backward()
        x.new_tensor(1.0)
        (x.detach() > 9).nonzero()
        torch.bincount(torch.tensor([1]))
        x.tolist(), x.sum().item()
    kinds = {entry.split(": ")[1] for entry in found}
    assert kinds == {
        *("index", "index_put", "lift_fresh", "nonzero", "bincount", "tolist"),
        "_local_scalar_dense",
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("name", "variant"), TRAINED)
def test_a_gpu_is_not_waited_for(name, variant):
    device = torch.device("cuda")
    method = make(name, variant, precision="float32").to(device)
    strategy = DataParallel()
    model = strategy.prepare(method, OptimizerConfig(learning_rate=0.05, clip_norm=1.0))
    finite = FiniteCheck(method, learning=strategy.only, delayed=True)
    batches = [on_gpu(local_batch(name, step, 0, 1), device) for step in range(4)]
    if method.rounds(100):
        method.eval().start_round(1, method.rounds(100), gpu_walk(device))
    method.train()
    for step, batch in enumerate(batches):
        # The first step makes handles, workspaces and optimiser state.
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            take_step(step, model, batch, strategy=strategy, finite=finite)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    finite.settle()
    assert all(p.isfinite().all() for p in method.parameters())


def on_gpu(batch, device):
    from dataclasses import replace

    return {
        stream: replace(
            domain,
            pixels=domain.pixels.float().to(device),
            labels=domain.labels.to(device),
            samples=domain.samples.to(device),
        )
        for stream, domain in batch.items()
    }


def gpu_walk(device):
    return lambda stream: (on_gpu({stream: p}, device)[stream] for p in walk_of(0, 1)(stream))
