"""Processes that probe methods: W of them joined by gloo, which get one method after another.

One process of the plain strategy stores its probe, the reference; all others compare theirs with
it. When a process fails, the others wait in a collective and can only be killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from cluster.terminal import handling_signals
from trainer.synchronised import meet_on_loopback, process_group
from trainer.verify import Difference, compare, probe

Differences = dict[str, Difference]

TIMEOUT_SECONDS = 60.0  # of a collective; the rank that another waits for longer has left it


@dataclass(frozen=True)
class Job:
    """What every process gets: data, precision, seed, and a folder for the reference.

    ``strategy`` None is for the reference, one process of the plain strategy. ``overrides`` change
    the probe's run description.
    """

    data: Path
    precision: str
    seed: int
    folder: Path
    strategy: str | None = None
    overrides: tuple[str, ...] = ()

    def run(self, method: str) -> Differences:
        """Probe one method in this process, then store the probe or compare it."""
        file = self.folder / f"{method}.pt"
        found = probe(
            method,
            root=self.data,
            precision=self.precision,
            seed=self.seed,
            strategy=self.strategy or "ddp",
            scratch=self.folder,
            overrides=self.overrides,
        )
        if self.strategy is None:
            torch.save(found, file)
            return {}
        return compare(torch.load(file, weights_only=True), found)


class ProbeError(RuntimeError):
    """A process failed; the message is its error on one line."""


class ProbeProcesses:
    """The running processes of one world size, and a pipe to each; see :func:`probe_processes`."""

    def __init__(self, world_size: int, job: Job) -> None:
        context, port = mp.get_context("spawn"), _free_port()
        self._pipes: list[Connection] = []
        self._workers: list[Any] = []
        # Processes that start inside ignore Ctrl-C; this process kills them.
        with handling_signals(signal.SIG_IGN, signal.SIGINT):
            for rank in range(world_size):
                mine, theirs = context.Pipe()
                place = (rank, world_size, port)
                worker = context.Process(target=_serve, args=(place, job, theirs), daemon=True)
                worker.start()
                theirs.close()  # so that the pipe ends with the process
                self._pipes.append(mine)
                self._workers.append(worker)

    def probe(self, method: str) -> list[Differences]:
        """Have every process probe ``method``; what each found.

        Raises:
            ProbeError: of the first process that failed; others may wait for it for ever.
        """
        for pipe in self._pipes:
            pipe.send(method)
        return self.answers()

    def answers(self) -> list[Differences]:
        """One answer of every process; raises what :meth:`probe` raises."""
        waiting, found = list(self._pipes), []
        while waiting:
            for pipe in wait(waiting):
                assert isinstance(pipe, Connection)
                waiting.remove(pipe)
                try:
                    answer = pipe.recv()
                except EOFError:
                    answer = "the process ended"
                if isinstance(answer, str):
                    raise ProbeError(self._death() or answer)
                found.append(answer)
        return found

    def _death(self) -> str | None:
        """How a process died, if one did; the others only report that it is gone."""
        dead = wait([worker.sentinel for worker in self._workers], timeout=0.5)
        for rank, worker in enumerate(self._workers):
            if worker.sentinel in dead:
                worker.join()
                return f"process {rank} ended with exit code {worker.exitcode}"
        return None

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for worker in self._workers:
            worker.kill()
            worker.join()


@contextlib.contextmanager
def probe_processes(world_size: int, job: Job) -> Iterator[ProbeProcesses]:
    """``world_size`` processes, which are killed when the block ends.

    Raises:
        RuntimeError: they do not come together.
    """
    processes = ProbeProcesses(world_size, job)
    try:
        try:
            processes.answers()
        except ProbeError as err:
            raise RuntimeError(f"{world_size} processes do not come together: {err}") from None
        yield processes
    finally:
        processes.close()


def _serve(place: tuple[int, int, int], job: Job, pipe: Connection) -> None:
    """What each process runs: probe the methods that come through the pipe until it is closed."""
    rank, world_size, port = place
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, BrokenPipeError), contextlib.ExitStack() as stack:
        try:
            if world_size > 1:
                meet_on_loopback()
                joined = process_group(timeout_seconds=TIMEOUT_SECONDS, backend="gloo")
                stack.enter_context(joined)
            pipe.send({})
        except Exception as err:
            pipe.send(_told(err))
        while True:
            method = pipe.recv()
            try:
                pipe.send(job.run(method))
            except Exception as err:
                pipe.send(_told(err))


def _told(err: Exception) -> str:
    if os.environ.get("IMG2SHAPE_DEBUG"):
        traceback.print_exception(err)
    return " ".join(f"{type(err).__name__}: {err}".split())


def _free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return probe_socket.getsockname()[1]
