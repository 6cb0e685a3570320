"""Dropout whose masks depend on the sample's place in the global batch, not on the rank.

Ordinary dropout draws from a per-process generator, so the masks, and with them the whole run,
change with the number of workers. Here the mask bit of (layer, global row, unit) is a hash of
(seed, step, layer, row, unit): any split of the batch over ranks drops the same units, a resumed
run needs no generator state, and no mask is ever communicated.

Axis letters: n rows of the layer's input on this rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Key:
    seed: int
    step: int


_key: ContextVar[_Key | None] = ContextVar("dropout_key", default=None)
_rows: ContextVar[Tensor | None] = ContextVar("dropout_rows", default=None)


@contextmanager
def dropout_rows(*, seed: int, step: int) -> Iterator[None]:
    """Set the run's seed and the global step for every :class:`GlobalDropout` inside."""
    token = _key.set(_Key(seed, step))
    try:
        yield
    finally:
        _key.reset(token)


@contextmanager
def row_positions(rows: Tensor) -> Iterator[None]:
    """Declare the global positions ``[n]`` (int64) of the rows that layers in this block get."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def current_positions(x: Tensor) -> Tensor:
    """Global positions ``[n]`` of the rows of ``x [n, ...]``: those declared, else 0 to n - 1."""
    rows = _rows.get()
    if rows is None:
        return torch.arange(len(x), device=x.device)
    assert len(rows) == len(x), "row positions do not match the rows of the layer's input"
    return rows


def _kept(x: Tensor, p: float, layer: int) -> Tensor:
    """Which units of ``x [n, ...]`` stay, bool ``[n, units]``."""
    key, rows = _key.get() or _Key(0, 0), current_positions(x)
    units = torch.arange(math.prod(x.shape[1:]), device=x.device)
    base = _mix(_mix(key.seed * 1_000_003 + key.step) + layer)
    bits = _hash(_hash(rows[:, None] ^ base) + units[None, :])
    return (bits >> 11 & ((1 << 53) - 1)) >= int(p * (1 << 53))


# A compiled network calls this function uncompiled. Seed, step and positions change with every
# # batch, and as constants of compiled code each new value would compile it anew. The tag keeps the
# # backward pass from computing the mask again, when they are no longer known.
_kept_opaque = torch.library.custom_op(
    "img2shape::dropout_kept",
    _kept,
    mutates_args=(),
    schema="(Tensor x, float p, int layer) -> Tensor",
    tags=(torch.Tag.nondeterministic_seeded,),
)


@_kept_opaque.register_fake
def _(x: Tensor, p: float, layer: int) -> Tensor:
    return x.new_empty((x.shape[0], math.prod(x.shape[1:])), dtype=torch.bool)


class GlobalDropout(nn.Module):
    """Dropout with probability ``p`` on inputs ``[n, ...]``, the same at any number of ranks.

    Outside :func:`dropout_rows` and :func:`row_positions` (a network used alone) rows count from
    0 at step 0; in evaluation mode it is the identity.
    """

    def __init__(self, p: float, *, layer: int) -> None:
        super().__init__()
        assert 0 <= p < 1
        self.p, self.layer = p, layer

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = _kept_opaque if torch.compiler.is_compiling() else _kept
        keep = kept(x.detach(), self.p, self.layer)
        return x * keep.view(x.shape).to(x.dtype) / (1.0 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}, layer={self.layer}"


_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_STEP, _MUL1, _MUL2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mix(value: int) -> int:
    """SplitMix64 finaliser (Steele et al., OOPSLA 2014) on one Python integer, as signed 64 bit."""
    z = (value + _STEP) & _MASK
    z = ((z ^ (z >> 30)) * _MUL1) & _MASK
    z = ((z ^ (z >> 27)) * _MUL2) & _MASK
    return _signed(z ^ (z >> 31))


def _hash(x: Tensor) -> Tensor:
    """SplitMix64 on an int64 tensor; products wrap, right shifts are made logical by a mask."""
    z = x + _signed(_STEP)
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(_MUL1)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(_MUL2)
    return z ^ ((z >> 31) & ((1 << 33) - 1))
