"""How large the networks of a run are: what ``img2shape model`` prints."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import torch

from dataio.shards import MANIFEST_NAME, exists
from trainer.building import build_method
from trainer.config import RunConfig
from trainer.inputs import OpenData
from trainer.methods import Method
from trainer.networks import measure, without_weights

log = logging.getLogger(__name__)


def model_complexity(config: RunConfig) -> dict[str, Any]:
    """Parameters, multiply-adds and layers of a run's networks, without its data and weights."""
    config = _without_absent_file(config)
    with without_weights():
        method = build_method(config, num_classes=_class_count(config))
    dtype = next(method.parameters()).dtype
    sizes = [config.network.of(modality).input_size for modality in ("image", "shape")]
    image, view = (torch.zeros(1, 3, size, size, dtype=dtype) for size in sizes)
    counted = asdict(measure(method, lambda: method.trace(image, view)))
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    trunks = _trunks(method, config)
    rates = config.optimizer.rates(pretrained=config.network.pretrained)
    return {"trunks": trunks, "rates": rates, "trained": trained, **counted}


def _trunks(method: Method, config: RunConfig) -> list[dict[str, Any]]:
    """What is built, by modality; one entry where images and shapes share a trunk."""
    sections = {"images": config.network.of("image"), "shapes": config.network.of("shape")}
    if not method.two_trunks:
        sections = {"images and shapes": config.network}
    found = []
    for of, network in sections.items():
        trunk = method.trunk_of("shape" if of == "shapes" else "image")
        found.append(
            {
                "of": of,
                "backbone": network.backbone,
                "weights": network.weights,
                "train": network.train,
                "stages": list(network.facts.stages),
                "features": trunk.width,
                "pool_tokens": getattr(trunk, "pooling", None),
                "image_size": network.input_size,
                "preprocessing": asdict(network.resolved_preprocessing),
                "pictures": network.resolved_preprocessing.describe(),
            }
        )
    return found


def _without_absent_file(config: RunConfig) -> RunConfig:
    """The same network from scratch where the file of its weights is not here: it counts the same,
    at the size of its backbone."""
    files = config.network.weights_files
    absent = {key: file for key, file in files.items() if not file.exists()}
    for key, file in absent.items():
        log.warning("network.%s: %s is not here, so its pictures are not known", key, file)
    network = config.network.model_copy(update=dict.fromkeys(absent, "none"))
    return config.model_copy(update={"network": network})


def _class_count(config: RunConfig) -> int:
    absent = not exists(config.data.root, MANIFEST_NAME)
    if absent and config.data.classes is None and config.data.num_classes is not None:
        return config.data.num_classes
    return len(OpenData(config).classes)
