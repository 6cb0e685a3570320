"""The errors that a user can mend: one line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

from dataio.records import DataError
from evalsuite.embeddings import EvaluationError
from trainer.attempt import SupersededError
from trainer.config import ConfigError
from trainer.loop import NonFiniteError
from trainer.networks.weights import NetworkError

__all__ = ["USER_ERRORS"]

USER_ERRORS: tuple[type[Exception], ...] = (
    ConfigError,
    DataError,
    EvaluationError,
    NetworkError,
    NonFiniteError,
    SupersededError,
)
