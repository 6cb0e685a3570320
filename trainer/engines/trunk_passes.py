"""How a run passes images through its trunks: in micro-batches, compiled; and when it cannot.

Every trunk of a method is set up, whether it has one or, as the sketch methods do, two.
"""

from __future__ import annotations

import torch
from torch import nn

from trainer.config import ConfigError, RunConfig
from trainer.networks import Backbone, CompilerError, require_compiler
from trainer.synchronised import collectives


def set_passes(method: nn.Module, config: RunConfig, *, device: torch.device) -> None:
    """Set up every trunk of ``method`` as ``config.strategy`` says; the weights do not change.

    Raises:
        ConfigError: ``torch.compile`` does not work on this machine, or not for this run.
    """
    strategy = config.strategy
    if strategy.compile:
        _require_compiled_statistics(config)
        _require_sound_code(config, device)
        try:
            require_compiler(device)
        except CompilerError as err:
            remedy = "a C++ compiler, such as g++," if device.type == "cpu" else "triton and gcc"
            raise ConfigError(
                f"strategy.compile: torch.compile does not work here ({err}); it needs {remedy} "
                "on every worker; install them or set it to false"
            ) from err
    for trunk in method.modules():
        if isinstance(trunk, Backbone):
            trunk.micro_batch = strategy.micro_batch
            trunk.compiled = strategy.compile


def _require_compiled_statistics(config: RunConfig) -> None:
    """Ranks whose compiled code meets in other orders would wait for each other, or add up the
    statistics of different layers."""
    if config.network.batch_statistics and collectives.world_size() > 1:
        raise ConfigError(
            "strategy.compile: with network.batch_norm=global the workers add up statistics "
            "inside the trunk, which compiled code cannot do; set network.batch_norm=frozen, or "
            "strategy.compile=false"
        )


def _require_sound_code(config: RunConfig, device: torch.device) -> None:
    """Code for the CPU gave alexnet-tv's convolutions zero gradients, without a word (torch 2.13,
    float64, 63 and 224 pixels); of the others only tiny's was compared with the uncompiled."""
    if device.type == "cpu" and config.network.backbone != "tiny":
        raise ConfigError(
            f"strategy.compile: torch.compile's code for the CPU is not to be trusted with the "
            f"gradients of network.backbone={config.network.backbone}; train on a GPU, or set "
            "strategy.compile=false"
        )


def pass_refusals(config: RunConfig) -> list[str]:
    """Why this run's trunks cannot be passed as configured: option, reason and remedy."""
    strategy, found = config.strategy, []
    if strategy.micro_batch is not None and config.network.batch_statistics:
        found.append(
            "strategy.micro_batch: with network.batch_norm=global a picture's features depend on "
            "the statistics of the whole batch, and those of micro-batches are others; set "
            "network.batch_norm=frozen, or strategy.micro_batch=null"
        )
    if strategy.name != "deepspeed" or strategy.zero_stage != 3:
        return found
    if strategy.micro_batch is not None:
        found.append(
            "strategy.micro_batch: with strategy.zero_stage=3 the workers meet in every pass of "
            "the trunk to gather its weights, and those with fewer pictures pass fewer micro-"
            "batches; set strategy.zero_stage to 2 or less, or strategy.micro_batch=null"
        )
    if strategy.compile:
        found.append(
            "strategy.compile: with strategy.zero_stage=3 weights come and go between the layers, "
            "which compiled code cannot follow; set strategy.zero_stage to 2 or less, or "
            "strategy.compile=false"
        )
    return found
