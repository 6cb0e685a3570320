"""This rank's batches, step by step, and the walk over a gallery; the package's front door.

A step's batch is a pure function of (sources, seed, step, rank, world size). Loader workers take
whole steps, so their number changes nothing but the speed, and a run resumes at any step.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import wait
from types import ModuleType, TracebackType
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from dataio.batches import Batch, StepBatches, StreamSource, WalkBatches
from dataio.fetch import FetchError
from dataio.records import DataError
from dataio.sampling import Balance

__all__ = ["Balance", "Batch", "Loader", "StreamSource", "walk"]

Cache = Literal["none", "memory"]


class Loader:
    """Yields (step, {stream: Batch}) for steps `start_step` .. `steps` - 1.

    Worker processes end with the iteration, on an error, on Ctrl-C, and by `close` or leaving a
    `with` block. Iterating again starts again at `start_step`.
    """

    def __init__(
        self,
        sources: Mapping[str, StreamSource],
        *,
        batch: int | Mapping[str, int] | None = None,
        balance: Balance | None = None,
        seed: int,
        steps: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        prefetch: int = 2,
        pin_memory: bool = False,
        cache: Cache = "none",
        cache_bytes: int = 1 << 30,
        block_shards: int = 4,
    ) -> None:
        """Prepare; no pixels are read yet.

        Args:
            sources: stream name -> what to load. A stream's order depends on its name.
            batch: global batch size, one for all streams or one for each. A stream is read in
                passes; a pass's last batch may be short.
            balance: instead of `batch`, P classes x K samples for every stream at every step: the
                same classes in all streams, class after class in the same order. All sources must
                be labelled with the same classes. A sample that a small class repeats within a
                batch is augmented differently each time.
            seed: of orders, view choice and augmentation, in [0, 2^64).
            steps: steps of the whole run, `start_step` included.
            start_step: first step to yield; resuming needs nothing else.
            rank, world_size: which slice of each global batch to load.
            workers: loader processes; 0 loads in this process.
            prefetch: steps that each worker prepares ahead.
            pin_memory: put batches into page-locked memory, for copies to a GPU.
            cache: "memory" keeps decoded pictures, so each is decoded once a process.
            cache_bytes: limit of that cache, all streams and workers together.
            block_shards: shards mixed with one another in a pass's order.

        Raises:
            DataError: an option out of range, both or neither of `batch` and `balance`, an empty
                source, a labelled source with a label that is missing or not among its classes,
                an unlabelled source or too few common classes for `balance`.
        """
        if not sources:
            raise DataError("sources is empty; name at least one stream")
        if not 0 <= start_step <= steps:
            raise DataError(f"start_step must be in [0, steps={steps}], got {start_step}")
        if cache not in ("none", "memory"):
            raise DataError(f"cache must be 'none' or 'memory', got {cache!r}")
        _check_workers(workers, prefetch)
        self._sources, self._steps = dict(sources), range(start_step, steps)
        self._options = {"workers": workers, "prefetch": prefetch, "pin_memory": pin_memory}
        self._batches = StepBatches(
            self._sources,
            batch=dict.fromkeys(sources, batch) if isinstance(batch, int) else batch,
            balance=balance,
            seed=seed,
            rank=rank,
            world_size=world_size,
            cache_bytes=cache_bytes // max(1, workers) if cache == "memory" else 0,
            block_shards=block_shards,
        )
        self._running: list[_Running] = []

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Batch]]]:
        running = _Running(self._batches, self._steps, **self._options)
        self._running.append(running)
        try:
            for step, results in zip(self._steps, running, strict=False):
                yield (
                    step,
                    {name: _named(self._sources[name], result) for name, result in results.items()},
                )
        finally:
            running.close()
            if running in self._running:
                self._running.remove(running)

    def close(self) -> None:
        """End the worker processes of all iterations; those iterations stop."""
        while self._running:
            self._running.pop().close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def walk(
    source: StreamSource,
    *,
    batch: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    prefetch: int = 2,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Every sample of `source` exactly once over all ranks, in the order of its rows.

    No shuffling, no augmentation, all views; labels are visible whatever `source.labelled` says, -1
    where a sample has none or one outside `source.classes`. Each rank gets the same number of
    batches, the last ones possibly without rows. The arguments are as in Loader.

    Raises DataError for a bad option or a sample that cannot be read.
    """
    _check_workers(workers, prefetch)
    batches = WalkBatches(source, batch=batch, rank=rank, world_size=world_size)
    return _walk(source, batches, workers=workers, prefetch=prefetch, pin_memory=pin_memory)


def _walk(source: StreamSource, batches: WalkBatches, **options: Any) -> Iterator[Batch]:
    running = _Running(batches, range(len(batches)), **options)
    try:
        for result in running:
            yield _named(source, result)
    finally:
        running.close()


def _check_workers(workers: int, prefetch: int) -> None:
    if workers < 0 or prefetch < 1:
        raise DataError(f"need workers >= 0 and prefetch >= 1, got {workers} and {prefetch}")


def _named(source: StreamSource, result: Batch | FetchError) -> Batch:
    """Fill in the keys, or raise the error with the sample's key."""
    keys = source.manifest.keys
    if isinstance(result, FetchError):
        raise DataError(f"sample {keys[result.row]!r}: {result.reason}")
    result.keys = [keys[row] for row in result.row.tolist()]
    return result


# ---- worker processes --------------------------------------------------------------------------


class _Running:
    """One iteration over a map-style data set: `data[step]` for each step, in order."""

    def __init__(
        self, data: Any, steps: range, *, workers: int, prefetch: int, pin_memory: bool
    ) -> None:
        in_workers = {
            "multiprocessing_context": _context(),
            "prefetch_factor": prefetch,
            "worker_init_fn": _set_up_worker,
        }
        loader = DataLoader(
            data,
            sampler=steps,
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=workers,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # else each iteration draws from the global one
            **(in_workers if workers else {}),
        )
        with _starting() if workers else contextlib.nullcontext():
            self._iterator: Iterator[Any] | None = iter(loader)

    def __iter__(self) -> _Running:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            raise StopIteration
        return next(self._iterator)

    def close(self) -> None:
        self._iterator = None  # torch's iterator joins its workers when it is dropped


def _unchanged(item: Any) -> Any:
    return item


def _set_up_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends its workers
    sys.excepthook = _report
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the training process is gone, even if that was killed outright.

    torch's own watch looks at the parent process id, which here is the server's; and the server
    lives as long as its workers do.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A worker's excepthook: silent where the parent, interrupted, broke off taking a batch."""
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
    # Without effect where a server is running already: workers then import by themselves.
    context.set_forkserver_preload(["torch", "dataio.loader"])
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
