"""How the trunks of a method are set up: memory layout, micro-batches and compiled passes.

Every trunk of a method is set up; the sketch methods have two.
"""

from __future__ import annotations

import torch
from torch import nn

from trainer.config import ConfigError, RunConfig
from trainer.networks import Backbone, CompilerError, require_compiler
from trainer.synchronised import collectives


def set_layout(
    method: nn.Module, *, channels_last: bool | None, device: torch.device, weights: bool = True
) -> None:
    """Choose which axis of N×C×H×W varies fastest in memory, before an optimiser or engine sees it.

    GPUs multiply faster with the channels last. The layout is not part of the results: values and
    gradients differ by rounding only, and checkpoints are written in one layout. A trunk brings its
    images into the layout itself, once views have become images and both streams one batch; its
    layers keep the layout.

    Args:
        channels_last: None chooses channels last on a GPU and changes nothing on the CPU.
        weights: whether weights are stored so too; not where an engine packs them itself.
    """
    if channels_last is None and device.type != "cuda":
        return
    layout = torch.contiguous_format if channels_last is False else torch.channels_last
    for trunk in method.modules():
        if isinstance(trunk, Backbone):
            trunk.memory_format = layout
            if weights:
                trunk.to(memory_format=layout)  # pyright: ignore[reportCallIssue]


def set_passes(method: nn.Module, config: RunConfig, *, device: torch.device) -> None:
    """Let trunks work in micro-batches or compiled, as ``config.strategy`` says.

    The weights do not change.

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
    """Compiled code may reorder the collectives of different layers. Ranks would then wait for
    each other for ever, or add up the statistics of different layers."""
    if config.network.batch_statistics and collectives.world_size() > 1:
        raise ConfigError(
            "strategy.compile: with network.batch_norm=global the workers add up statistics "
            "inside the trunk, which compiled code cannot do; set network.batch_norm=frozen, or "
            "strategy.compile=false"
        )


def _require_sound_code(config: RunConfig, device: torch.device) -> None:
    """Compiled code for the CPU silently gave the convolutions of alexnet-tv zero gradients
    (torch 2.13, float64, 63 and 224 pixels). Of the other trunks only tiny was compared with its
    uncompiled self."""
    others = [each for each in config.network.modalities if each.backbone != "tiny"]
    if device.type == "cpu" and others:
        said = f"{others[0].said_as('backbone')}={others[0].backbone}"
        raise ConfigError(
            f"strategy.compile: torch.compile's code for the CPU is not to be trusted with the "
            f"gradients of {said}; train on a GPU, or set strategy.compile=false"
        )


def pass_refusals(config: RunConfig) -> list[str]:
    """Why the trunks cannot be set up as configured; each names option, reason and remedy."""
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
