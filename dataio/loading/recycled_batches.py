"""Shared memory that a loader worker uses again for later batches.

Fresh shared memory costs a page fault for every 4 KiB, which takes about half as long as decoding
the same pictures. So a worker keeps its blocks of shared memory. It sends a block to the training
process once and afterwards only the block's number. The training process sets the block's flag when
no tensor of the batch uses the block any more, views and slices included; then the worker may fill
it again.

The training process checks this when the next batch arrives, through weak references without
callbacks: an interrupt (Ctrl-C) that arrives inside a callback would be lost.
"""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

_BLOCKS = 32  # of a worker; when all are in use, a batch gets fresh memory
_FREE, _LENT = 0, 1
_Key = tuple[int, int, int]


class _Blocks:
    """A worker's blocks: uint8 tensors in shared memory, and a flag for each."""

    def __init__(self) -> None:
        self.flags = torch.zeros(_BLOCKS, dtype=torch.uint8).share_memory_()
        self.memory: list[torch.Tensor] = []
        self._numbers: dict[int, int] = {}  # address -> block
        self._held: dict[
            int, weakref.ref[np.ndarray]
        ] = {}  # block -> the array that uses it in this worker
        self._sent: set[int] = set()  # blocks whose flag the training process sets free
        self._known: set[int] = set()  # blocks that the training process has mapped

    def take(self, size_bytes: int) -> np.ndarray | None:
        """uint8 [size_bytes] of the smallest free block that is large enough, or of a new one."""
        for number, array in list(self._held.items()):
            if array() is None:
                del self._held[number]
                if number not in self._sent:  # else the training process sets it free
                    self.flags[number] = _FREE
        free = [
            (block.numel(), number)
            for number, block in enumerate(self.memory)
            if self.flags[number] == _FREE and block.numel() >= size_bytes
        ]
        if not free and len(self.memory) == _BLOCKS:
            return None
        if not free:
            block = torch.empty(size_bytes, dtype=torch.uint8).share_memory_()
            self.memory.append(block)
            free = [(size_bytes, len(self.memory) - 1)]
        number = min(free)[1]
        self.flags[number] = _LENT
        self._sent.discard(number)
        array = self.memory[number].numpy()[:size_bytes]
        self._numbers[array.ctypes.data] = number
        self._held[number] = weakref.ref(array)
        return array

    def sent(self, pixels: torch.Tensor) -> tuple[int, torch.Tensor | None] | None:
        """Number of the block that holds `pixels`, and the block if it was never sent before."""
        number = self._numbers.get(pixels.data_ptr())
        if number is None or not pixels.is_contiguous():
            return None
        self._sent.add(number)
        if number in self._known:
            return number, None
        self._known.add(number)
        return number, self.memory[number]


_mine: _Blocks | None = None  # in a worker
_group = 0  # the same for all workers of an iteration
# In the training process, by (group, worker, block):
_received: dict[_Key, tuple[torch.Tensor, torch.Tensor]] = {}  # the block, its worker's flags
_lent: dict[_Key, weakref.ref[np.ndarray]] = {}  # the array that uses the block
_lock = threading.Lock()  # torch's pinning thread receives batches too


def join(group: int) -> None:
    """Set the group of workers that this process belongs to; `forget` names it."""
    global _group
    _group = group


def empty(*shape: int) -> torch.Tensor:
    """Memory for a uint8 tensor of `shape`; in a loader worker shared, so it is sent uncopied."""
    global _mine
    if get_worker_info() is None or math.prod(shape) == 0:
        return torch.empty(shape, dtype=torch.uint8)
    if _mine is None:
        _mine = _Blocks()
    array = _mine.take(math.prod(shape))
    if array is None:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.from_numpy(array).view(shape)


def packed(pixels: torch.Tensor) -> Any:
    """What a worker sends for `pixels`: the number of their block, or else the tensor."""
    found = _mine.sent(pixels) if _mine is not None else None
    if _mine is None or found is None:
        return pixels
    number, block = found
    first = None if block is None else (block, _mine.flags)
    worker = get_worker_info()
    assert worker is not None
    return (_group, worker.id, number), tuple(pixels.shape), first


def unpacked(sent: Any) -> torch.Tensor:
    """The pixels of `packed`, in the process that receives them."""
    if isinstance(sent, torch.Tensor):
        return sent
    key, shape, first = sent
    if first is not None:
        _received[key] = first
    array = _received[key][0].numpy()[: math.prod(shape)]
    with _lock:
        for other, user in list(_lent.items()):
            if user() is None:
                del _lent[other]
                _received[other][1][other[-1]] = _FREE
        _lent[key] = weakref.ref(array)
    # The storage of the tensor, which all its views share, holds on to this very array.
    return torch.from_numpy(array).view(shape)


def forget(group: int) -> None:
    """Drop the blocks of workers that have ended; batches that are in use keep their memory."""
    with _lock:
        for known in (_lent, _received):
            for key in [key for key in known if key[0] == group]:
                del known[key]
