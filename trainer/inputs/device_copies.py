"""Batches from the loader to a GPU, copied while the step before is still computed there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch

from dataio.loading import Batch

Step = tuple[int, dict[str, Batch]]
Phase = Callable[[str], AbstractContextManager[None]]


def _unmeasured(_: str) -> AbstractContextManager[None]:
    return nullcontext()


def on_device(
    batches: Iterator[Step], device: torch.device, *, phase: Phase = _unmeasured
) -> Iterator[Step]:
    """``batches`` with their tensors on ``device``; on the CPU they are there already.

    On a GPU each batch is copied in a CUDA stream of its own. The host asks for the batch of a step
    after it has queued the step before, so the copy overlaps with that step's kernels. Kernels that
    are queued afterwards wait for the copy; the host does not wait. No batch is read ahead.

    Args:
        batches: from page-locked memory (``LoaderOptions(pin_memory=True)``). Pinning has copied
            them out of the memory that loader workers use again
            (:mod:`dataio.loading.recycled_batches`), and torch's allocator reuses page-locked
            memory only when the copies from it have ended.
        phase: the clock's phases ``data`` (waiting for the loader) and ``copy``.
    """
    if device.type != "cuda":
        return _measured(batches, phase)
    return _copied(batches, device, phase)


def _measured(batches: Iterator[Step], phase: Phase) -> Iterator[Step]:
    while True:
        with phase("data"):
            found = next(batches, None)
        if found is None:
            return
        yield found


def _copied(batches: Iterator[Step], device: torch.device, phase: Phase) -> Iterator[Step]:
    copies = torch.cuda.Stream(device)
    for step, batch in _measured(batches, phase):
        with phase("copy"):
            there = _copy(batch, copies, device)
        yield step, there


def _copy(
    batch: Mapping[str, Batch], copies: torch.cuda.Stream, device: torch.device
) -> dict[str, Batch]:
    compute = torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        there = {name: part.to(device, non_blocking=True) for name, part in batch.items()}
    compute.wait_stream(copies)  # kernels queued from now on; those before run on
    for part in there.values():
        # The memory belongs to the copies' stream. Without this mark the next copy could use it
        # while kernels still read this batch.
        part.record_stream(compute)
    return there
