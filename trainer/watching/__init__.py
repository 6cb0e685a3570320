"""What is watched while a run trains: its clock, losses that are not finite, hangs, and what the
run says of itself right now.

May import: dataio, trainer.methods, trainer.runs, trainer.synchronised.
"""

from trainer.watching.finite import FiniteCheck, NonFiniteError, Origin
from trainer.watching.phase_clock import OTHER, START, PhaseClock, shares
from trainer.watching.step_times import STEP_BUCKETS
from trainer.watching.telemetry import FORMAT, Live
from trainer.watching.watchdog import HANGS, HEAD_START_SECONDS, WAITING, WRITE_SECONDS, watching

__all__ = [
    "FORMAT",
    "HANGS",
    "HEAD_START_SECONDS",
    "OTHER",
    "START",
    "STEP_BUCKETS",
    "WAITING",
    "WRITE_SECONDS",
    "FiniteCheck",
    "Live",
    "NonFiniteError",
    "Origin",
    "PhaseClock",
    "shares",
    "watching",
]
