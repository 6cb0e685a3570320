"""How large the networks of a run are: what ``img2shape model`` prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from dataio.shards import MANIFEST_NAME, exists
from trainer.building import build_method
from trainer.config import RunConfig
from trainer.inputs import OpenData
from trainer.networks import measure, without_weights


def model_complexity(config: RunConfig) -> dict[str, Any]:
    """Parameters, multiply-adds and layers of a run's networks, without its data."""
    with without_weights():
        method = build_method(config, num_classes=_class_count(config))
    size, dtype = config.network.input_size, next(method.parameters()).dtype
    image = torch.zeros(1, 3, size, size, dtype=dtype)
    return asdict(measure(method, lambda: method.trace(image)))


def _class_count(config: RunConfig) -> int:
    absent = not exists(config.data.root, MANIFEST_NAME)
    if absent and config.data.classes is None and config.data.num_classes is not None:
        return config.data.num_classes
    return len(OpenData(config).classes)
