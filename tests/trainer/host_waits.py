"""Finds, on a CPU, the operations of a step for which the host would wait for a GPU."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["host_waits"]

_ROOT = Path(__file__).parents[2]
_OURS = (str(_ROOT / "trainer"), str(_ROOT / "dataio"))

# The value of a tensor as a Python number; sizes that depend on values.
_READS = {
    "_local_scalar_dense",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
    "_unique",
    "_unique2",
}
# What makes a tensor of Python numbers: on a GPU a copy from memory that is not page-locked.
_COPIES = {"lift_fresh"}
_INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}


_METHODS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}


@contextmanager
def host_waits() -> Iterator[set[str]]:
    """The set that it yields gets such operations of its block, as "file.py function: name"."""
    found: set[str] = set()
    with _Methods(found), _Operations(found):
        yield found


class _Methods(TorchFunctionMode):
    """What never reaches the dispatcher."""

    def __init__(self, found: set[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _METHODS:
            self.found.add(f"{_place()}: {func.__name__}")
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, found: set[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        masked = name in _INDEXING and any(
            isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if name in _READS or name in _COPIES or masked:
            self.found.add(f"{_place()}: {name}")
        return func(*args, **(kwargs or {}))


def _place() -> str:
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(_OURS):
            return f"{Path(frame.filename).name} {frame.name}"
    return "elsewhere"
