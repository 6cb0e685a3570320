"""What Ctrl-C and SIGTERM mean to the command: first save and leave, then leave at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

SAME_SIGNAL_SECONDS = 1.0  # torchrun passes on to its workers what the terminal has sent them too


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM asks the loop to save and leave; a later one interrupts."""
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

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what it started ends with it."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
