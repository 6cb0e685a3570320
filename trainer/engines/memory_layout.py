"""Memory layout of the trunks: which of N×C×H×W varies fastest.

GPUs multiply faster with the channels last. The layout is no part of the results: values and
gradients differ by rounding alone, and checkpoints are written in one layout.
"""

from __future__ import annotations

import torch
from torch import nn

from trainer.networks import Backbone


def set_layout(
    method: nn.Module, *, channels_last: bool | None, device: torch.device, weights: bool = True
) -> None:
    """Give every trunk of ``method`` its layout; before an optimiser or an engine sees it.

    A trunk brings its images into the layout itself, behind the place where views become images
    and both streams one batch; its layers keep it.

    Args:
        channels_last: None takes it on a GPU, and leaves trunks their own on the CPU.
        weights: whether weights are stored so too; not where an engine packs them itself.
    """
    if channels_last is None and device.type != "cuda":
        return
    layout = torch.contiguous_format if channels_last is False else torch.channels_last
    for trunk in method.modules():
        if isinstance(trunk, Backbone):
            trunk.memory_format = layout
            if weights:
                trunk.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
