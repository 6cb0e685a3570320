"""Device and CPU threads of one process."""

from __future__ import annotations

import os

import torch

from trainer.synchronised import collectives


def own_device() -> torch.device:
    """The GPU of this process, made the current one; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # A launcher may show each worker all GPUs of the node or only its own.
    index = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
    torch.cuda.set_device(index)  # object collectives over NCCL use the current device
    return torch.device("cuda", index)


def fair_threads() -> int:
    """CPU threads of this process, when the node's workers share its cores evenly."""
    if "OMP_NUM_THREADS" in os.environ:  # torchrun sets it, and so may a user
        return max(1, int(os.environ["OMP_NUM_THREADS"].split(",")[0]))  # a list by nesting level
    local = int(os.environ.get("LOCAL_WORLD_SIZE", collectives.world_size()))
    return max(1, (os.cpu_count() or 1) // max(1, local))
