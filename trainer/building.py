"""From a run description to a method with its first weights."""

from __future__ import annotations

import torch

from trainer.config import RunConfig
from trainer.methods import METHODS, Method

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}


def build_method(config: RunConfig, *, num_classes: int) -> Method:
    """The method with freshly seeded weights, equal on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        method = METHODS[config.method_name](
            config.method, config.network, num_classes=num_classes, seed=config.training.seed
        )
    method = method.to(DTYPES[config.training.precision])
    if config.training.precision == "bf16":
        method.autocast_dtype = torch.bfloat16
    return method
