"""Ctrl-C and SIGTERM: the first one asks the command to save and leave, a second one ends it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

SAME_SIGNAL_SECONDS = 1.0  # workers of torchrun get Ctrl-C twice: from the terminal and from it


@contextlib.contextmanager
def handling_signals(handler: Any, *numbers: int) -> Iterator[None]:
    """In the block ``handler`` handles these signals; outside of the main thread nothing does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM sets the event, a later one raises KeyboardInterrupt."""
    stopped = threading.Event()
    first_seconds = 0.0

    def ask(number: int, frame: object) -> None:
        nonlocal first_seconds
        now_seconds = time.monotonic()
        if not stopped.is_set():
            first_seconds = now_seconds
            stopped.set()
        elif now_seconds - first_seconds > SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt

    with handling_signals(ask, signal.SIGINT, signal.SIGTERM):
        yield stopped


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in the block, so that it ends what it started."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with handling_signals(interrupt, signal.SIGTERM):
        yield
