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

    On a GPU a batch is copied in a stream of its own. The host asks for the batch of a step when it
    has queued the step before, so the copy and that step's kernels run side by side, and the
    kernels queued afterwards wait for the copy, the host for neither. Nothing is read ahead of what
    is asked for.

    Args:
        batches: from page-locked memory (``Loader(pin_memory=True)``). Memory that a loader worker
            fills again (:mod:`dataio.loading.recycled_batches`) is never the source of such a
            copy: pinning copies
            out of it before the batch arrives here, and torch's allocator gives page-locked memory
            out again only when the copies from it have ended, whatever becomes of the tensor.
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
        # The memory belongs to the copies' stream: without this mark its next copy could take it
        # while kernels still read this one.
        part.record_stream(compute)
    return there
