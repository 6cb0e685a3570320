"""Ramps of training progress p in [0, 1], the same for all methods."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["inverse", "constant", "cosine", "exponential"]


def ramp(p: float) -> float:
    """``2/(1 + exp(-10p)) - 1``: 0 at the start, about 1 at the end (Ganin and Lempitsky 2015)."""
    return 2.0 / (1.0 + math.exp(-10.0 * p)) - 1.0


def inverse_decay(p: float) -> float:
    """``(1 + 10p)^-0.75``, the learning-rate factor of this line of work (MSTN, ASTN)."""
    return (1.0 + 10.0 * p) ** -0.75


def late_exponential(p: float) -> float:
    """1 over the first third, then exponentially down to 0.001 (DCA, section IV.A: decay after
    10,000 of 30,000 steps; the last value is not given, this one is Hermans et al.'s of 2017)."""
    return 0.001 ** max(0.0, (p - 1 / 3) / (2 / 3))


def rate_factor(
    schedule: Schedule, step: int, steps: int, *, warmup: float = 0.0, hold_steps: int = 0
) -> float:
    """Learning rate at ``step`` of ``steps`` relative to the base rate.

    Args:
        warmup: share of the schedule over which the rate rises linearly from 0.
        hold_steps: first steps, before the schedule starts, at its first rate.
    """
    progress = max(0, step - hold_steps) / max(1, steps - hold_steps)
    warm = min(1.0, progress / warmup) if warmup else 1.0
    if schedule == "inverse":
        return warm * inverse_decay(progress)
    if schedule == "exponential":
        return warm * late_exponential(progress)
    if schedule == "cosine":
        return warm * 0.5 * (1.0 + math.cos(math.pi * progress))
    return warm
