"""Adaptive feature encoding: learnable scalar gates on trunk stages (ASTN, eq. 1-2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AdaptiveGates(nn.Module):
    """Multiplies the output of each gated stage ``i`` by ``ψ_i = sigmoid((1 - q)·h_i)``.

    ``h_i`` is a learnable scalar, 0 at the start, so that ψ starts at 1/2: one parameter a stage.
    The progress of training ``q`` takes a gate's plasticity from 1 to 0, and ψ back to 1/2 at the
    end. It is a buffer, saved with the weights, so that a checkpoint is evaluated with the gates
    it was trained with.

    Args:
        stages: names of the gated stages.
    """

    q: Tensor

    def __init__(self, stages: Sequence[str]) -> None:
        super().__init__()
        self.h = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in stages})
        self.register_buffer("q", torch.zeros(()))

    def forward(self, x: Tensor, stage: str) -> Tensor:
        """``x [n, C, H, W]`` gated as the output of ``stage``; unchanged where there is no gate."""
        if stage not in self.h:
            return x
        return x * self.gate(stage).to(x.dtype)

    def gate(self, stage: str) -> Tensor:
        """ψ of one gated stage, a scalar in (0, 1)."""
        return torch.sigmoid((1 - self.q) * self.h[stage])

    def set_progress(self, q: float) -> None:
        """Set the training progress, clipped to [0, 1]."""
        with torch.no_grad():
            self.q.fill_(min(max(q, 0.0), 1.0))

    def values(self) -> dict[str, Tensor]:
        """ψ by stage, without gradient, for the log."""
        return {stage: self.gate(stage).detach() for stage in self.h}
