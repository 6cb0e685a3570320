"""Run a function in W real gloo processes, or in one process without a group.

Importing torch and the trainer takes five seconds of a processor. One server process imports them
once, and every process here is a fork of it. The processes of a world size are kept for the whole
test session, because the default process group, and DeepSpeed's copy of it, last as long as a
process. A failure ends them and the next call starts fresh ones.
"""

from __future__ import annotations

import os
import queue
import socket
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT_SECONDS = 300
IMPORTED_ONCE = ["torch", "torch._dynamo", "trainer.loop", "tests.spawn", "pytest"]


def start_server() -> None:
    """Let the server import while this process goes on; without effect where one runs already.

    Loader workers fork from the same server. It must start here before it starts for them, with
    fewer modules.
    """
    mp.get_context("forkserver").set_forkserver_preload(IMPORTED_ONCE)
    forkserver.ensure_running()


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


def run_alone(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)`` in one process; a process group that DeepSpeed makes stays there."""
    if not _alone:
        start_server()
        _alone.append(ProcessPoolExecutor(1, mp_context=mp.get_context("forkserver")))
    try:
        return _alone[0].submit(function, *args).result(timeout=TIMEOUT_SECONDS)
    except BaseException:
        _alone.pop().shutdown(wait=False, cancel_futures=True)
        raise


class _Group:
    def __init__(self, world_size: int) -> None:
        start_server()
        context = mp.get_context("forkserver")
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
_alone: list[ProcessPoolExecutor] = []


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
