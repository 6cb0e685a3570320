"""The loader's worker processes: how they start, which signals they ignore, how they end."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing import util
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import SemLock
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader

from dataio.loading import recycled_batches as recycled

_groups = itertools.count()  # numbers the groups of workers; each iteration starts one group
_END_SECONDS = 5.0  # until the system reports the end of a worker whose connections broke


class LoaderWorkerError(RuntimeError):
    """A worker process was killed; starting again at the same step gives the same batches."""


class Running:
    """One iteration over a map-style data set: `data[step]` for each step, in order."""

    def __init__(
        self, data: Any, steps: range, *, workers: int, prefetch: int, pin_memory: bool
    ) -> None:
        self._group = next(_groups)
        in_workers = {
            "multiprocessing_context": _context(),
            "prefetch_factor": prefetch,
            "worker_init_fn": partial(_set_up_worker, group=self._group),
        }
        loader = DataLoader(
            data,
            sampler=steps,
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=workers,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # or each iteration would draw from the global one
            **(in_workers if workers else {}),
        )
        self._unheard = workers  # workers that have not sent their first batch yet
        registry: dict[Any, Any] = vars(util).get("_finalizer_registry", {})
        before = set(registry)
        with _starting() if workers else contextlib.nullcontext():
            self._iterator: Iterator[Any] | None = iter(loader)
        # multiprocessing names semaphores for its workers; each finalizer takes one name away.
        self._names = [
            finalizer
            for key, finalizer in list(registry.items())
            if key not in before and finalizer._callback is vars(SemLock)["_cleanup"].__func__
        ]

    def __iter__(self) -> Running:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            raise StopIteration
        try:
            item = next(self._iterator)
        except (RuntimeError, OSError, EOFError) as err:
            dead = self._dead()
            if not dead:
                raise
            raise LoaderWorkerError(
                f"loader worker {', '.join(dead)} was killed, as the system does when memory runs "
                "out; use fewer of them, smaller batches or cache=none, and start again"
            ) from err
        self._unheard -= 1
        if self._unheard == 0:
            self._drop_names()
        return item

    def _drop_names(self) -> None:
        """Take the semaphores' names from `/dev/shm`: every worker holds them open by now.

        multiprocessing's resource tracker would remove the names, but it is killed too when a whole
        session is killed, as Ray does with its workers.
        """
        while self._names:
            self._names.pop()()

    def _dead(self) -> list[str]:
        """Process ids of workers that have ended without being asked to.

        A killed worker's connections break some moments before its end is reported.
        """
        workers: list[BaseProcess] = getattr(self._iterator, "_workers", [])
        if workers:
            wait([worker.sentinel for worker in workers], timeout=_END_SECONDS)
        return [str(worker.pid) for worker in workers if worker.exitcode is not None]

    def close(self) -> None:
        self._iterator = None  # torch's iterator joins its workers when it is dropped
        recycled.forget(self._group)


def _unchanged(item: Any) -> Any:
    return item


def _set_up_worker(_: int, *, group: int) -> None:
    recycled.join(group)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends its workers
    sys.excepthook = _report
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the training process is gone, even if that was killed outright.

    torch's own watchdog checks the parent process id. Here that is the fork server, which lives as
    long as its workers.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A worker's excepthook: silent when an interrupted parent has closed the connection."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _context() -> Any:
    """How workers start: forked from a clean server process where there is one, else spawned.

    A plain fork would copy a process that may hold OpenMP threads, a process group's threads and
    their locks, and can hang. The server imports torch once, so later workers start at once.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Has no effect if a server is running already; workers then import the modules themselves.
    context.set_forkserver_preload(["torch", "dataio.loading.loader"])
    return context


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """While worker processes start: Ctrl-C waits, and `__main__` stays out of them.

    Workers inherit the blocked signal, so none dies of it before `_set_up_worker`. They need
    nothing of `__main__`, whose import would cost seconds in a large program and would run a script
    that has no `if __name__ == "__main__"` a second time.
    """
    main = sys.modules["__main__"]
    in_main_thread = threading.current_thread() is threading.main_thread()
    blocking = in_main_thread and hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blocking else None
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
