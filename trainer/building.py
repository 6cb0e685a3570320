"""From a run description to a method with its first weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainer.config import RunConfig
from trainer.methods import METHODS, Method
from trainer.networks import NetworkConfig, named_weights

_SHOWN = 3  # names of weights in a line
_SMALL = "tiny"  # the trunk that is made for training from scratch on a processor
# Trunks whose weights have no name: how to get them.
_CONVERTED = {"alexnet": "FILE of `img2shape weights convert`"}
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


def trunk_cautions(config: RunConfig) -> list[tuple[str, str]]:
    """Ways in which the trunk of a run costs more than is mostly wanted, each with its remedy: no
    pre-trained weights where there are some, or float64 in a large trunk.

    Raises:
        NetworkError: the trunk's library is not installed.
    """
    large = [each for each in config.network.modalities if each.backbone != _SMALL]
    found = []
    if config.training.init_from is None:
        found += [caution for each in large for caution in _from_scratch(each)]
    trained = [each.backbone for each in large if each.train != "head"]
    if config.training.precision == "float64" and trained:
        found.append(
            (
                f"training.precision: float64 in {' and '.join(dict.fromkeys(trained))} takes "
                "twice the memory of float32 and several times as long",
                "training.precision=float32",
            )
        )
    return list(dict.fromkeys(found))


def _from_scratch(network: NetworkConfig) -> list[tuple[str, str]]:
    """Of one trunk that has weights, and is trained without them."""
    values = "" if network.pretrained else _weights_for(network.backbone)
    if not values:
        return []
    key = network.said_as("weights")
    return [
        (
            f"{key}: none trains {network.backbone} from scratch, which needs far more data than "
            "retrieval sets have",
            f"{key}={values}; see docs/guides/weights.md",
        )
    ]


def _weights_for(backbone: str) -> str:
    """The values of ``network.weights`` that load pre-trained weights; empty where none does."""
    if backbone in _CONVERTED:
        return _CONVERTED[backbone]
    names = [weights.name for weights in named_weights(backbone)]
    if len(names) > _SHOWN:
        listed = f"`img2shape weights list --backbone {backbone}` has {len(names) - _SHOWN} more"
        return f"{', '.join(names[:_SHOWN])} ({listed})"
    return " or ".join(names)
