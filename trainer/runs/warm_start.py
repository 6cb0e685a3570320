"""Start a run from another run's network: pre-train, then fine-tune."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.config import ConfigError
from trainer.methods import Method
from trainer.networks import Classifier
from trainer.runs.checkpoint import open_checkpoint

log = logging.getLogger(__name__)


@torch.no_grad()
def start_from(method: Method, path: Path, *, classes: Sequence[str]) -> str:
    """Copy the network of the run or checkpoint at ``path`` into ``method``.

    It copies the parameters, and running statistics of batch norm, that have the same name and
    shape in both. Rows of a classifier are copied by class name, so the label spaces may differ.
    Parts that the other run lacks (a discriminator, gates) keep their fresh weights. The state of a
    method (class centres, pseudo-labels) is never copied.

    Returns the hash of the other run's weights.

    Raises:
        ConfigError: no checkpoint there, or its trunk is another one.
    """
    found = open_checkpoint(path)
    state: dict[str, Tensor] = found.state["method"]
    theirs = found.description["classes"]
    heads = {n for n, m in method.named_modules() if isinstance(m, Classifier)}
    taken, lacking = 0, []
    for name, mine in _network_tensors(method).items():
        other = state.get(name)
        if other is not None and name.rpartition(".")[0] in heads:
            taken += _copy_rows(mine, other, _common_rows(classes, theirs))
        elif other is not None and other.shape == mine.shape:
            mine.copy_(other)
            taken += 1
        elif "trunk." in name:
            lacking.append(name)
    if lacking:
        raise ConfigError(
            f"training.init_from: {found.path} has another trunk than this run ({lacking[0]} is "
            "missing or of another shape); use the same network section as that run"
        )
    log.info("started from %s: %d tensors", found.path, taken)
    return found.description["sha256"]


def _network_tensors(method: Method) -> Mapping[str, Tensor]:
    tensors: dict[str, Tensor] = dict(method.named_parameters())
    for name, module in method.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            tensors |= {f"{name}.{k}": v for k, v in module.named_buffers()}
    return tensors


def _common_rows(mine: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    place = {name: i for i, name in enumerate(theirs)}
    return [(i, place[name]) for i, name in enumerate(mine) if name in place]


def _copy_rows(mine: Tensor, other: Tensor, rows: list[tuple[int, int]]) -> int:
    if mine.shape[1:] != other.shape[1:]:
        return 0
    for i, j in rows:
        mine[i] = other[j]
    return 1
