"""Gradients by central differences, for losses whose reference is written with plain loops."""

from __future__ import annotations

import numpy as np
import torch


def numeric_gradient(function, x: torch.Tensor, step: float = 1e-6) -> np.ndarray:
    """d function / d x, entry by entry; ``function`` takes a tensor of the shape of ``x``."""
    gradient = np.zeros(x.numel())
    flat = x.detach().clone().reshape(-1)
    for i in range(len(flat)):
        up, down = flat.clone(), flat.clone()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up.view_as(x)) - function(down.view_as(x))) / (2 * step)
    return gradient.reshape(x.shape)
