"""Tensors from the host to a GPU without a wait."""

from __future__ import annotations

import torch


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """``tensor``, in CPU memory, on ``device``; the host does not wait for a GPU.

    From pageable memory it would wait until everything queued before the copy is done. From
    page-locked memory only the GPU's own next work waits; torch's allocator keeps that memory until
    the copy has ended.
    """
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
