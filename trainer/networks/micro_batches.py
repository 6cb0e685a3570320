"""A trunk applied to a few images at a time; activations are computed again when needed.

Training keeps the activations of a whole batch for the backward pass. Here the activations of each
part are dropped after its forward pass and computed again in its backward pass, so that memory
holds those of one part. Losses and heads still see the whole batch: values and gradients are those
of one pass, unlike with smaller batches.

A part must not depend on the others, so the trunk must not compute statistics over the batch. It
must not call collectives either, since ranks have different numbers of parts.

Axis letters: n images.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.networks.dropout import current_positions, row_positions

Features = tuple[Tensor, dict[str, Tensor]]


def in_micro_batches(run: Callable[[Tensor], Features], x: Tensor, size: int) -> Features:
    """``run(x)`` for ``x [n, ...]``, at most ``size`` rows at a time; n may be 0.

    Args:
        run: from rows to features ``[n, F]`` and named maps ``[n, ...]``, row by row.
    """
    rows = current_positions(x).split(size)
    parts = [_part(run, part, own) for part, own in zip(x.split(size), rows, strict=True)]
    if len(parts) == 1:
        return parts[0]
    names = parts[0][1]
    return torch.cat([features for features, _ in parts]), {
        name: torch.cat([maps[name] for _, maps in parts]) for name in names
    }


def _part(run: Callable[[Tensor], Features], x: Tensor, rows: Tensor) -> Features:
    """One part, without its activations."""
    if not torch.is_grad_enabled():
        with row_positions(rows):
            return run(x)
    with row_positions(rows):
        # Declare seed, step and positions of dropout for the second computation. The blocks that
        # declared them have ended by then, and on a GPU another thread computes it.
        context = copy_context()
    # Dropout takes nothing from random generators, so their states need not be kept.
    return checkpoint(context.run, run, x, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]
