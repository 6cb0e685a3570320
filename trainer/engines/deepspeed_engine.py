"""A DeepSpeed engine without compiler and output, in one process or an existing process group."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from typing import Any

import torch
from torch import nn

from trainer.engines.deepspeed_private import weights_as_they_are, without_compiled_collectives
from trainer.synchronised import ensure_process_group

# Elements that are summed or gathered at once, a tenth of DeepSpeed's own default.
LARGEST_BUCKET = 50_000_000


def open_engine(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, stage: int, clip_norm: float | None
) -> Any:
    """A DeepSpeed engine in float32 over ``model`` at one ZeRO stage.

    It uses the process group that exists, or makes one of this process alone.
    """
    deepspeed = _import()
    ensure_process_group()
    bucket = min(LARGEST_BUCKET, sum(p.numel() for p in model.parameters()))
    bucket += bucket % 2  # DeepSpeed refuses odd numbers
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if stage == 3:
        # Spread small weights too, so that networks of any size behave alike.
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": bucket}
    _name_device()
    config = {
        "train_micro_batch_size_per_gpu": 1,  # required, though it has no meaning here
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": (clip_norm or 0.0) if stage else 0.0,
    }
    with weights_as_they_are():
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def _import() -> Any:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # It warns of settings that are made here on purpose; its errors are exceptions anyway.
    deepspeed = importlib.import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        without_compiled_collectives(deepspeed)
    return deepspeed


def _name_device() -> None:
    """DeepSpeed reads its device from ``LOCAL_RANK``, also later; the loop has chosen it before."""
    if torch.cuda.is_available():
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())
    else:
        os.environ.setdefault("LOCAL_RANK", "0")
