"""Run one function in W real gloo processes and collect what each rank returns.

Starting a process that imports torch takes seconds, so the W processes of a world size are kept
for the whole test session; a failure ends them and the next call starts fresh ones.
"""

from __future__ import annotations

import os
import queue
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT_SECONDS = 180


def run_processes(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """``function(rank, world_size, *args)`` in ``world_size`` processes; results in rank order.

    ``function`` must be importable (defined at module level); results must be picklable without
    shared memory, so return numpy arrays or numbers rather than tensors. One process is this one.
    """
    if world_size == 1:
        return [function(0, 1, *args)]
    if world_size not in _groups:
        _groups[world_size] = _Group(world_size)
    try:
        return _groups[world_size].run(function, args)
    except BaseException:
        _groups.pop(world_size).kill()
        raise


class _Group:
    def __init__(self, world_size: int) -> None:
        context = mp.get_context("spawn")
        port = free_port()
        self.tasks = [context.Queue() for _ in range(world_size)]
        self.answers = context.Queue()
        self.workers = [
            context.Process(
                target=_serve, args=(r, world_size, port, task, self.answers), daemon=True
            )
            for r, task in enumerate(self.tasks)
        ]
        for worker in self.workers:
            worker.start()

    def run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        for task in self.tasks:
            task.put((function, args))
        results: dict[int, Any] = {}
        while len(results) < len(self.workers):
            try:
                rank, ok, value = self.answers.get(timeout=TIMEOUT_SECONDS)
            except queue.Empty:
                missing = set(range(len(self.workers))) - set(results)
                raise AssertionError(f"no answer from ranks {missing}") from None
            assert ok, f"rank {rank} failed:\n{value}"
            results[rank] = value
        return [results[r] for r in range(len(self.workers))]

    def kill(self) -> None:
        for worker in self.workers:
            worker.kill()


_groups: dict[int, _Group] = {}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _serve(rank: int, world_size: int, port: int, tasks: Any, answers: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    while True:
        function, args = tasks.get()
        try:
            answers.put((rank, True, function(rank, world_size, *args)))
        except BaseException:
            answers.put((rank, False, traceback.format_exc()))
            return
