"""One function over many items: results in the items' order, few of them held at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from dataio.records import DataError

T = TypeVar("T")
R = TypeVar("R")


class OrderedMap(Protocol):
    """Applies `work` to every item, several at once, and yields the results in order.

    An exception of `work` is raised in its result's place. Closing the iterator, as an exception in
    the loop over it does, cancels what has not begun and waits for the rest. `work` and the items
    can be pickled.
    """

    def __call__(self, work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]: ...


def in_threads(threads: int | None = None) -> OrderedMap:
    """In threads of this process, by default one a CPU up to 8: for work that drops the GIL."""
    count = threads or min(8, os.cpu_count() or 1)

    def run(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        with ThreadPoolExecutor(count) as pool:
            yield from _windowed(pool, work, items, ahead=2 * count)

    return run


def in_processes(processes: int | None = None) -> OrderedMap:
    """In processes of this machine, by default one a CPU: for work in Python itself.

    Raises DataError if one dies.
    """
    count = processes or os.cpu_count() or 1

    def run(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        # Spawned, not forked: the caller may hold threads (torch, Ray) that a fork would copy dead.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_leave_interrupts)
        try:
            yield from _windowed(pool, work, items, ahead=4 * count, starting=_interrupts_wait)
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died (out of memory?), or the calling script lacks "
                "`if __name__ == '__main__':`; call again with fewer workers to continue"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    return run


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _windowed(
    pool: Executor,
    work: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    ahead: int,
    starting: Callable[[], Any] = _nothing,
) -> Iterator[Any]:
    """Submit up to `ahead` items beyond the one whose result is awaited."""
    waiting: deque[Future[Any]] = deque()
    try:
        for item in items:
            with starting():  # a pool starts its processes while it is given work
                waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Block Ctrl-C while workers start.

    They inherit the blocked signal, so none dies with a traceback before `_leave_interrupts`.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave_interrupts() -> None:
    """Ctrl-C reaches the whole process group; only the parent acts on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
