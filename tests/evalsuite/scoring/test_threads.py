"""Work runs once per item, on as many threads as the matrix library has, and errors come back."""

from __future__ import annotations

import threading

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from evalsuite.scoring.threads import run_in_threads


def blas_threads() -> list[int]:
    """Threads of NumPy's own library; FAISS brings another one that no tile calls."""
    pools = ThreadpoolController().select(user_api="blas").info()
    return [pool["num_threads"] for pool in pools if "numpy" in pool["filepath"]]


def test_every_item_once_with_single_threaded_products():
    before = blas_threads()
    seen, inside = [], []

    def work(item: int) -> None:
        seen.append(item)
        inside.extend(blas_threads())

    run_in_threads(work, range(20))
    assert sorted(seen) == list(range(20))
    assert set(inside) <= {1}
    assert blas_threads() == before == [2]


def test_a_limit_from_outside_is_respected():
    names = set()
    with threadpool_limits(1):
        run_in_threads(lambda _: names.add(threading.current_thread().name), range(5))
    assert names == {threading.current_thread().name}


def test_no_items_and_failing_items():
    run_in_threads(lambda _: pytest.fail("called without an item"), [])

    def fail(item: int) -> None:
        if item == 3:
            raise KeyError(item)

    before = blas_threads()
    with pytest.raises(KeyError):
        run_in_threads(fail, range(5))
    assert blas_threads() == before
