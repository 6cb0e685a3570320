"""A trunk applied to a few images at a time, whose activations are computed again when needed.

Training keeps the activations of a whole batch for the backward pass. Here those of each part are
dropped after its forward pass and computed a second time in its backward pass, so that those of one
part at most are in memory. Losses, and everything else behind the trunk, see the whole batch:
values and gradients are those of one pass, which smaller batches would not give.

A part must not depend on the others: no statistics over the batch inside the trunk. Nor may ranks
meet inside it, since their numbers of parts differ.

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
        # Seed, step and positions of dropout, for the second time: the blocks that declare them
        # are over by then, and on a GPU it happens in a thread that never saw them.
        context = copy_context()
    # Dropout takes nothing from random generators, so their states need not be kept.
    return checkpoint(context.run, run, x, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]
