"""An ordered map over Ray tasks, on one machine or a whole cluster."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cluster.training import ray_session
from dataio.parallel import OrderedMap, in_processes, in_threads
from dataio.records import DataError

_HANDFUL = 8  # meshes; starting processes takes longer than rendering these
_AHEAD = 3  # chunks that wait for each worker: it stays busy, and memory holds few


def mapping(workers: int, *, meshes: int) -> OrderedMap:
    """How to encode or render records, of which `meshes` are to be rendered.

    In `workers` Ray tasks; with 0 in processes of this machine where many meshes are rendered,
    which is Python's own work, else in threads, since decoding releases the interpreter's lock.
    """
    if workers:
        return ray_tasks(workers)
    return in_processes() if meshes > _HANDFUL else in_threads()


def ray_tasks(workers: int, *, chunk: int = 8) -> OrderedMap:
    """`workers` Ray tasks of one CPU at a time, each for `chunk` items in a row.

    The cluster is the one of RAY_ADDRESS, else a local one that lives as long as the map. A task
    whose node dies runs again elsewhere. Files must be where every node sees them.
    """

    def run(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        import ray

        with ray_session():
            # Where the cluster has fewer CPUs than workers, chunks wait.
            remote = ray.remote(num_cpus=1, max_retries=3)(_worked)
            shared, folder = ray.put(work), str(Path.cwd())
            waiting: deque[Any] = deque()
            rest = iter(items)
            try:
                while True:
                    while len(waiting) < workers * _AHEAD and (part := list(islice(rest, chunk))):
                        waiting.append(remote.remote(shared, part, folder))
                    if not waiting:
                        return
                    for result, error in ray.get(waiting.popleft()):
                        if error is not None:
                            raise error
                        yield result
            finally:
                for task in waiting:
                    ray.cancel(task, force=True)

    return run


def _worked(work: Callable[[Any], Any], part: list[Any], folder: str) -> list[Any]:
    """Results, and the first user error as a value, since Ray's wrapping loses its class."""
    if Path(folder).is_dir():
        os.chdir(folder)  # relative paths mean what they mean to the user
    results: list[Any] = []
    for item in part:
        try:
            results.append((work(item), None))
        except (DataError, OSError) as error:
            results.append((None, error))
            break
    return results
