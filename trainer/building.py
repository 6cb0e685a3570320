"""From a run description to a method with its first weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainer.config import RunConfig
from trainer.methods import METHODS, Method

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}


def build_method(config: RunConfig, *, num_classes: int, classes: Sequence[str] = ()) -> Method:
    """The method with freshly seeded weights, equal on every rank.

    Args:
        num_classes: K.
        classes: names of the K classes; empty where nothing is embedded that depends on them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        method = METHODS[config.method_name](
            config.method, config.network, num_classes=num_classes, seed=config.training.seed
        )
    if classes:
        method.use_classes(classes)
    method = method.to(DTYPES[config.training.precision])
    if config.training.precision == "bf16":
        method.autocast_dtype = torch.bfloat16
    return method
