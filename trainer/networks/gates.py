"""Gates on the stages of a trunk (ASTN, eq. 1-2): one learnable scalar each.

Equation 1 multiplies what a layer gives by ψ, on AlexNet, which has no normalisation. In other
trunks a bias-free convolution with a normalisation behind the gate cancels any factor, and the
paper does not say where the gate sits in a residual trunk. Here it sits where the factor survives:

- **branches**: where the blocks of a stage have skips (ResNets, transformers, ConvNeXt, most stages
  of EfficientNet), ψ scales each residual branch before it is added to its skip.
- **blend**: where a stage has no skip and a normalisation follows (the first stages of ``tiny``, a
  few of EfficientNet), the output becomes ``ψ·output + (1 - ψ)·input``, with the stage's input
  averaged or repeated to the shape of its output. A factor after the normalisation, before or after
  the ReLU, would be cancelled by the next one.
- **output**: elsewhere (AlexNet, the last stage of ``tiny``), ψ scales the output, as printed.
- **features**: a frozen trunk, and a network without known stages: ψ scales its features.

With ψ = 1 each is the trunk without gates, bit for bit.

Axis letters: n images, C channels, H×W positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d

Place = Literal["branches", "blend", "output", "features"]
Plasticity = Literal["decay", "constant"]


class AdaptiveGates(nn.Module):
    """Adaptive feature encoding: gate ``i`` has the factor ``ψ_i = sigmoid((1 - q)·h_i)``.

    ``h_i`` is a learnable scalar: one parameter a stage. With plasticity "decay" the progress of
    training ``q`` takes the factor of ``h_i`` from 1 to 0, and ψ back to 1/2 at the end, whatever
    was learned. That is the most plausible reading of the paper, whose ratio is printed upside
    down. "constant" leaves the factor at 1: what a gate has learned is there at test time. ``q``
    is a buffer, saved with the weights, so that a checkpoint is evaluated with the gates it was
    trained with.

    Args:
        stages: names of the gated stages.
        plasticity: decay or constant.
        start: ``h_i`` before the first step, not given in the paper. 0 halves what the gates scale
            in a pre-trained trunk at once; a large value starts near ψ = 1.
    """

    q: Tensor

    def __init__(
        self, stages: Sequence[str], *, plasticity: Plasticity = "decay", start: float = 0.0
    ) -> None:
        super().__init__()
        self.plasticity = plasticity
        self.h = nn.ParameterDict({name: nn.Parameter(torch.tensor(start)) for name in stages})
        self.register_buffer("q", torch.zeros(()))

    def forward(self, x: Tensor, stage: str, skip: Tensor | None = None) -> Tensor:
        """``ψ·x``, or ``ψ·x + (1 - ψ)·skip``; ``x`` itself where ``stage`` has no gate."""
        if stage not in self.h:
            return x
        psi = self.gate(stage).to(x.dtype)
        return x * psi if skip is None else x * psi + skip * (1 - psi)

    def gate(self, stage: str) -> Tensor:
        """ψ of one gated stage, a scalar in (0, 1)."""
        h = self.h[stage]
        return torch.sigmoid((1 - self.q) * h if self.plasticity == "decay" else h)

    def set_progress(self, q: float) -> None:
        """Set the training progress, clipped to [0, 1]."""
        with torch.no_grad():
            self.q.fill_(min(max(q, 0.0), 1.0))

    def values(self) -> dict[str, Tensor]:
        """ψ by stage, without gradient, for the log."""
        return {stage: self.gate(stage).detach() for stage in self.h}


class BranchGate:
    """A forward hook on the last layer of a residual branch.

    Hooks leave the names of parameters alone, and a compiler traces them with the layer.
    """

    def __init__(self, gates: AdaptiveGates, stage: str) -> None:
        self.gates, self.stage = gates, stage

    def __call__(self, _layer: nn.Module, _inputs: tuple[Tensor, ...], branch: Tensor) -> Tensor:
        return self.gates(branch, self.stage)


def in_shape_of(x: Tensor, other: Tensor) -> Tensor:
    """Maps ``x [n, C, H, W]`` in the shape of ``other [n, C', H', W']``.

    Channels and positions are averaged where ``other`` has fewer, repeated where it has more.
    """
    assert x.dim() == 4, f"maps are [n, C, H, W], not {list(x.shape)}"
    _, c, h, w = other.shape
    return adaptive_avg_pool3d(x[:, None], (c, h, w))[:, 0].to(other.dtype)
