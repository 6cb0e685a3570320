"""Ramps of training progress p in [0, 1], the same for all methods."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["Schedule", "inverse_decay", "ramp", "rate_factor"]


Schedule = Literal["inverse", "constant", "cosine"]


def ramp(p: float) -> float:
    """``2/(1 + exp(-10p)) - 1``: 0 at the start, about 1 at the end (Ganin and Lempitsky 2015)."""
    return 2.0 / (1.0 + math.exp(-10.0 * p)) - 1.0


def inverse_decay(p: float) -> float:
    """``(1 + 10p)^-0.75``, the learning-rate factor of this line of work (MSTN, ASTN)."""
    return (1.0 + 10.0 * p) ** -0.75


def rate_factor(schedule: Schedule, progress: float, *, warmup: float = 0.0) -> float:
    """Learning rate at progress p relative to the base rate.

    Args:
        warmup: share of training over which the rate rises linearly from 0.
    """
    warm = min(1.0, progress / warmup) if warmup else 1.0
    if schedule == "inverse":
        return warm * inverse_decay(progress)
    if schedule == "cosine":
        return warm * 0.5 * (1.0 + math.cos(math.pi * progress))
    return warm
