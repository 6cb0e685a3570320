"""Tiles on several threads, each with a single-threaded matrix product.

NumPy releases the interpreter lock in products, sorts and elementwise work, so whole tiles run side
by side. OpenBLAS's own threads wait for each other in every product, which on busy cores made an
evaluation ten times slower than one thread alone. Results do not depend on the choice (see
canonical_distances.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

try:
    from threadpoolctl import ThreadpoolController
except ImportError:  # then tiles run one after another; the results are the same
    ThreadpoolController = None

Item = TypeVar("Item")


def run_in_threads(work: Callable[[Item], object], items: Sequence[Item]) -> None:
    """Call ``work`` on every item, on as many threads as the matrix library would have used.

    So OMP_NUM_THREADS, OPENBLAS_NUM_THREADS and threadpoolctl limits are respected. The calls must
    write to disjoint places. The first exception is raised again.
    """
    threads = thread_count()
    with single_threaded_products():
        if min(threads, len(items)) <= 1:
            for item in items:
                work(item)
        else:
            with ThreadPoolExecutor(min(threads, len(items))) as pool:
                list(pool.map(work, items))


def thread_count() -> int:
    """How many threads the matrix library would use; 1 without threadpoolctl, which knows it."""
    controller = _controller()
    if controller is None:
        return 1
    return max((pool["num_threads"] for pool in controller.info()), default=1)


@contextmanager
def single_threaded_products() -> Iterator[None]:
    """Matrix products inside use one thread each; without threadpoolctl the library decides."""
    controller = _controller()
    if controller is None:
        yield
    else:
        with controller.limit(limits=1):
            yield


@lru_cache(maxsize=1)
def _controller() -> Any:
    # Kept, because listing the loaded libraries takes milliseconds. NumPy's is loaded by now.
    return ThreadpoolController and ThreadpoolController().select(user_api="blas")
