"""DeepSpeed without its surprises: no compiler, no output, in one process or an existing group."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainer.synchronised import ensure_process_group

LARGEST_BUCKET = (
    50_000_000  # elements that are summed or gathered at once; DeepSpeed: ten times that
)


def open_engine(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, stage: int, clip_norm: float | None
) -> Any:
    """A DeepSpeed engine in float32 over ``model`` at one ZeRO stage.

    It takes the process group that exists, or makes one of this process alone.
    """
    deepspeed = _import()
    ensure_process_group()
    bucket = min(LARGEST_BUCKET, sum(p.numel() for p in model.parameters()))
    bucket += bucket % 2  # an odd one is refused
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if stage == 3:
        # Small weights are spread as large ones are: one behaviour for networks of any size.
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": bucket}
    _name_device()
    config = {
        "train_micro_batch_size_per_gpu": 1,  # has no meaning here but must be there
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": (clip_norm or 0.0) if stage else 0.0,
    }
    with _weights_as_they_are():
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


@contextmanager
def _weights_as_they_are() -> Iterator[None]:
    """Else rank 0's weights, which all ranks have from seed or checkpoint, are sent around, in a
    way that fails for parameters without axes."""
    engine = importlib.import_module("deepspeed.runtime.engine").DeepSpeedEngine
    init = importlib.import_module("deepspeed.runtime.zero.partition_parameters").Init

    def spread(self: Any, parameter: Any) -> None:
        self._convert_to_deepspeed_param(parameter)
        parameter.partition()

    before = engine._broadcast_model, init._zero_init_param
    engine._broadcast_model, init._zero_init_param = (lambda self: None), spread
    try:
        yield
    finally:
        engine._broadcast_model, init._zero_init_param = before


def _import() -> Any:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # Warnings of DeepSpeed are about settings that are made here; errors are exceptions.
    deepspeed = importlib.import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        # Else its shared-memory collectives are compiled at the first use, which needs a compiler.
        importlib.import_module("deepspeed.ops").__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _name_device() -> None:
    """DeepSpeed takes its device from this variable, also later; the loop has chosen one."""
    if torch.cuda.is_available():
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())
    else:
        os.environ.setdefault("LOCAL_RANK", "0")
