"""The observers of a training run and their interface: clock, finite check, log, telemetry and
checkpoints; and the watchdog, which ends a process that hangs.

May import: dataio, trainer.config, trainer.methods, trainer.runs, trainer.synchronised.
"""

from trainer.watching.checkpoints import Checkpoints
from trainer.watching.finite import FiniteCheck, NonFiniteError
from trainer.watching.observer import Observer, Observers, Origin, ReadCounts
from trainer.watching.phase_clock import OTHER, START, PhaseClock, shares
from trainer.watching.telemetry import FORMAT, STEP_BUCKETS, Telemetry
from trainer.watching.training_log import OnRecord, TrainingLog, step_record
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
    "Checkpoints",
    "FiniteCheck",
    "NonFiniteError",
    "Observer",
    "Observers",
    "OnRecord",
    "Origin",
    "PhaseClock",
    "ReadCounts",
    "Telemetry",
    "TrainingLog",
    "shares",
    "step_record",
    "watching",
]
