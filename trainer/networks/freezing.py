"""What is trained of a trunk: all of it, its last stages, low-rank adapters, or nothing."""

from __future__ import annotations

import re

from torch import nn

from trainer.networks.normalization import convert_batch_norm
from trainer.networks.options import NetworkConfig
from trainer.networks.trunk import Backbone, NetworkError

# Linear layers of attention in timm and open_clip; else those of ConvNeXt's blocks.
_ATTENTION = (r".*\.attn\.(qkv|q_proj|k_proj|v_proj|proj)", r".*resblocks\.\d+\.attn")
_MLP = r".*\.mlp\.(fc1|fc2)"


def set_training(trunk: Backbone, config: NetworkConfig) -> None:
    """Freeze what ``config.train`` leaves as it is, and set up batch normalisation.

    Frozen stages are in evaluation mode for good. A trunk with adapters has frozen statistics: its
    layers were trained with them, and the adapters are few.

    Raises:
        NetworkError: adapters fit no layer of this trunk, or their library is missing.
    """
    if config.train == "lora":
        convert_batch_norm(trunk, "frozen")
        _add_adapters(trunk, config)
        return
    trunk.frozen = config.frozen
    for name, module in list(trunk.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            mode = "frozen" if trunk.is_frozen(name) else config.batch_norm
            parent, _, own = name.rpartition(".")
            setattr(trunk.get_submodule(parent), own, convert_batch_norm(module, mode))
    for name, parameter in trunk.named_parameters():
        if trunk.is_frozen(name):
            parameter.requires_grad_(False)
    trunk.train()


def _add_adapters(trunk: Backbone, config: NetworkConfig) -> None:
    """Low-rank adapters on the layers that ``config.lora`` names; all else is frozen."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise NetworkError(
            "network.train: lora needs the package peft; pip install 'img2shape[lora]'"
        ) from None
    options, names = config.lora, [name for name, _ in trunk.named_modules()]
    targets = _targets(names) if options.targets is None else _named(names, options.targets)
    if not targets:
        asked = "attention or linear layers" if options.targets is None else str(options.targets)
        raise NetworkError(
            f"network.lora.targets: {config.backbone} has no {asked} to adapt; name layers of it, "
            "or set network.train=last:1"
        )
    for parameter in trunk.parameters():
        parameter.requires_grad_(False)
    adapters = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=targets)  # pyright: ignore[reportArgumentType]
    inject_adapter_in_model(adapters, trunk)


def _targets(names: list[str]) -> list[str]:
    attention = [n for n in names if any(re.fullmatch(pattern, n) for pattern in _ATTENTION)]
    return attention or [n for n in names if re.fullmatch(_MLP, n)]


def _named(names: list[str], last: tuple[str, ...]) -> list[str]:
    return [n for n in names if n.rpartition(".")[2] in last]
