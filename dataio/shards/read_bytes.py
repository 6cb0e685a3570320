"""How many bytes of shards this process and its loader workers have read.

Every read of a sample counts, its tar headers included. A worker's bytes arrive with its batches.
Shards at a URL count when they are read on this machine, not when they are fetched.
"""

from __future__ import annotations

import os
import threading

_lock = threading.Lock()  # torch's pinning thread unpickles batches too
_total = _handed_over = 0


def add(size_bytes: int) -> None:
    """Count a read, in this process or in one of its workers."""
    global _total
    with _lock:
        _total += size_bytes


def total() -> int:
    """Bytes since this process began."""
    return _total


def hand_over() -> int:
    """In a loader worker: the bytes since the last call; the training process adds them."""
    global _handed_over
    with _lock:
        new, _handed_over = _total - _handed_over, _total
    return new


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it when the process was forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)
