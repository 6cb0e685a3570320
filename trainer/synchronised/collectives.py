"""Differentiable collectives over the default process group, and the one rule they serve.

This is the only file that calls ``torch.distributed`` collectives. Without a process group every
function is the one-process identity, so losses built on them work on plain tensors.

The rule: *every rank computes the same global loss*. The backward of these collectives sums the
ranks' gradients, which makes a parameter's gradient on each rank, summed over ranks, ``W`` times
the gradient of the global loss; data-parallel engines (DDP, DeepSpeed) then divide by ``W``. No
factor of ``W`` appears anywhere else.

Axis letters: n local rows, N global rows, W ranks.
"""

from __future__ import annotations

import atexit
import importlib
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.synchronised.read_back import ReadBack

_waiting: Callable[[], AbstractContextManager[None]] = nullcontext


@contextmanager
def measured(waiting: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """In this block every wait of this file for other ranks happens inside a ``waiting()``.

    The gradients that a data-parallel engine averages are not among them.
    """
    global _waiting
    before, _waiting = _waiting, waiting
    try:
        yield
    finally:
        _waiting = before


def is_distributed() -> bool:
    """True inside a process group of more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Number of ranks W, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """This process's rank in 0..W-1, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


@contextmanager
def process_group(*, timeout_seconds: float, backend: str | None = None) -> Iterator[None]:
    """Join the process group that the environment describes (``torchrun``), leave it at the end.

    ``backend`` is ``nccl`` where there is a GPU and ``gloo`` elsewhere, unless it is given.
    """
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    try:
        yield
    finally:
        dist.destroy_process_group()


def meet_on_loopback() -> None:
    """Let process groups of this machine listen on the loopback address only.

    The rank that opens the store of ``env://`` then listens on ``MASTER_ADDR``. By default torch
    listens on every address of the machine, and anyone who can reach it may write to the store.
    """
    # Private, as in torch 2.13, which has no public way to replace its own handler.
    # tests/cluster/training/test_listening.py fails where torch listens elsewhere.
    handlers = importlib.import_module("torch.distributed.rendezvous")._rendezvous_handlers
    handlers["env"] = _meet_at_master


def _meet_at_master(
    url: str, timeout: timedelta = timedelta(minutes=10), **options: Any
) -> Iterator[tuple[Any, int, int]]:
    """Like torch's own handler of ``env://``, but with a socket that is bound already."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    asked = {name: int(found[0]) for name, found in parse_qs(urlsplit(url).query).items()}
    own, size = (
        asked.get(name, int(os.environ.get(name.upper(), -1))) for name in ("rank", "world_size")
    )
    # torch owns the socket from here on.
    bound = socket.create_server((host, port)).detach() if own == 0 else None
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        host, port, size, own == 0, timeout, multi_tenant=True, master_listen_fd=bound
    )
    yield store, own, size


def ensure_process_group() -> None:
    """Make a process group of this process alone where there is none, for engines that need one.

    It lasts until the process ends and needs no address. All functions of this file stay the
    one-process identity."""
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)  # pyright: ignore[reportPrivateImportUsage]
        atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        with _waiting():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        with _waiting():
            dist.all_reduce(grad)
        return grad


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts, width = counts, max(counts)
        # gloo and NCCL both need parts of equal size; the padding is cut off right here.
        part = x.new_zeros((width, *x.shape[1:]))
        part[: len(x)] = x.detach()
        parts = [torch.empty_like(part) for _ in counts]
        with _waiting():
            dist.all_gather(parts, part)
        return torch.cat([p[:count] for p, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        with _waiting():
            dist.all_reduce(grad)
        start = sum(ctx.counts[: dist.get_rank()])
        return grad[start : start + ctx.counts[dist.get_rank()]], None


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` (any shape, the same on every rank) over ranks; the gradient is summed too."""
    return _AllReduceSum.apply(x) if is_distributed() else x  # pyright: ignore[reportReturnType]


def all_gather_rows(x: Tensor) -> Tensor:
    """Rows ``x [n, ...]`` of every rank in rank order, ``[N, ...]``; n may differ and may be 0.

    The gradient of my rows is the sum over ranks of the gradients for these rows.
    """
    if not is_distributed():
        return x
    counts = row_counts(x)
    if sum(counts) == 0:
        return x
    return _AllGatherRows.apply(x, counts)  # pyright: ignore[reportReturnType]


def row_counts(x: Tensor) -> list[int]:
    """Rows of ``x`` on every rank, in rank order."""
    if not is_distributed():
        return [len(x)]
    mine = torch.full((1,), len(x), device=x.device)
    counts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    with _waiting():
        dist.all_gather(counts, mine)
    return torch.cat(counts).tolist()


def global_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of ``values`` (any shape, mostly ``[n]``) over all ranks, a scalar; 0 where there are
    none.

    ``mask``, bool of the same shape, chooses the values that count; the others get gradient 0.
    Indexing would make the host wait for a GPU, to know how many there are. Sum and count are
    reduced together and divided once, so ranks with fewer or no values are exact.
    """
    if mask is None:
        count = values.new_full((), values.numel())
    else:
        values, count = values.masked_fill(~mask, 0), mask.sum().to(values.dtype)
    total = torch.stack([values.sum(), count])
    total = all_reduce_sum(total)
    return total[0] / total[1].detach().clamp(min=1.0)


@torch.no_grad()
def all_reduce_max(x: Tensor) -> Tensor:
    """Elementwise maximum of ``x`` over ranks; no gradient."""
    x = x.detach().clone()
    if is_distributed():
        with _waiting():
            dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def any_rank(flag: bool, device: torch.device | str = "cpu") -> bool:
    """True on every rank when ``flag`` is true on at least one."""
    if not is_distributed():
        return flag
    return bool(all_reduce_max(torch.tensor(float(flag), device=device)).item())


class AnyRank:
    """:func:`any_rank` for a question that is asked once a step, without a pause in a GPU's work.

    On a GPU a call returns the answer to the question of the call before.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._asked: ReadBack | None = None

    def __call__(self, flag: bool) -> bool:
        """Whether any rank passed True; all ranks call it and get the same answer."""
        if self._device.type != "cuda" or not is_distributed():
            return any_rank(flag, self._device)
        asked, mine = self._asked, torch.full((1,), float(flag), device=self._device)
        self._asked = ReadBack(all_reduce_max(mine))
        return asked is not None and asked.tolist() != [0.0]


def gather_numbers(values: Sequence[float], device: torch.device | str) -> list[list[float]]:
    """The ``values`` of every rank, equally many on each, in rank order, on every rank.

    One small collective; on a GPU the host waits for it.
    """
    if not is_distributed():
        return [list(values)]
    mine = torch.tensor(values, dtype=torch.float64, device=device)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    with _waiting():
        dist.all_gather(parts, mine)
    return torch.stack(parts).tolist()


def gather_objects(value: Any) -> list[Any]:
    """``value`` of every rank, in rank order, on every rank; small picklable objects only."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    with _waiting():
        dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any) -> Any:
    """Rank 0's ``value`` on every rank; small picklable objects only."""
    if not is_distributed():
        return value
    box = [value]
    with _waiting():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def raise_together(error: Exception | None) -> None:
    """Raise rank 0's ``error`` on every rank, nothing where it is None; called by all ranks.

    An exception that cannot be pickled reaches the other ranks as a RuntimeError with its message.
    """
    told = broadcast_object(_portable(error) if rank() == 0 else None)
    if told is not None:
        raise error if rank() == 0 and error is not None else told


def _portable(error: Exception | None) -> Exception | None:
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def barrier() -> None:
    """Wait until every rank is here."""
    if is_distributed():
        with _waiting():
            dist.barrier()
