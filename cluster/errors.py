"""Errors that the user can mend. The command line prints one line and ends with exit code 2."""

from __future__ import annotations

from dataio.records import DataError
from evalsuite.vectors import EvaluationError
from trainer.config import ConfigError
from trainer.networks import NetworkError
from trainer.runs import SupersededError
from trainer.watching import NonFiniteError

USER_ERRORS: tuple[type[Exception], ...] = (
    ConfigError,
    DataError,
    EvaluationError,
    NetworkError,
    NonFiniteError,
    SupersededError,
)
