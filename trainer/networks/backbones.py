"""The trunks by name, and the two that are not AlexNets.

Axis letters: n images, H×W pixels, F trunk features.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from trainer.networks import library
from trainer.networks.alexnet import CaffeAlexNet, TorchvisionAlexNet
from trainer.networks.freezing import set_training
from trainer.networks.gates import Place
from trainer.networks.options import OWN, NetworkConfig
from trainer.networks.torchvision_shim import import_torchvision
from trainer.networks.trunk import Backbone
from trainer.networks.weights import initialise, weights_to_load


class Tiny(Backbone):
    """The project's own CNN for 64×64 inputs, made to be trained from scratch on a CPU core.

    A strided 5×5 stem and three 3×3 convolutions, 64 → 32 → 16 → 8 → 4 pixels a side. GroupNorm:
    no statistic crosses samples, so results do not depend on how a batch is split. Pooling comes
    before normalisation, which then works on a quarter of the values; the features are the 4×4
    map itself, not its mean over positions, which retrieves worse.

    Args:
        width: channels of the first stage, a multiple of 8; the others have 2, 4 and 6 times it.
    """

    # Channels last takes about a third less time on a CPU at these widths.
    memory_format = torch.channels_last

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 6 * width)
        self.plan = {}
        for i, (before, after) in enumerate(pairwise(widths), start=1):
            kernel, stride = (5, 2) if i == 1 else (3, 1)
            conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.add_module(f"conv{i}", conv)
            if i < 4:
                self.add_module(f"pool{i}", nn.MaxPool2d(2))
            self.add_module(f"norm{i}", nn.GroupNorm(after // 8, after))
            self.add_module(f"relu{i}", nn.ReLU(inplace=True))
            kinds = ("conv", "pool", "norm", "relu") if i < 4 else ("conv", "norm", "relu")
            self.plan[f"conv{i}"] = tuple(f"{kind}{i}" for kind in kinds)
        self.pool4, self.flatten = nn.AdaptiveAvgPool2d(4), nn.Flatten()  # for inputs other than 64
        self.tail = ("pool4", "flatten")
        self.width = widths[-1] * 16

    def place_without_skip(self, stage: str) -> Place:
        return "output" if stage == "conv4" else "blend"  # no normalisation follows conv4's


class ResNet(Backbone):
    """torchvision's ResNet up to global pooling (He et al., CVPR 2016).

    Args:
        name: ``resnet18``, ``resnet34`` or ``resnet50``.
    """

    heads = ("fc.",)

    def __init__(self, name: str) -> None:
        super().__init__()
        net = import_torchvision().models.get_model(name, weights=None)
        stem, layers = ("conv1", "bn1", "relu", "maxpool"), ("layer1", "layer2", "layer3", "layer4")
        for part in (*stem, *layers, "avgpool"):
            self.add_module(part, getattr(net, part))
        self.flatten = nn.Flatten()
        self.plan = {layer: (layer,) for layer in layers} | {"layer1": (*stem, "layer1")}
        self.tail = ("avgpool", "flatten")
        self.width = net.fc.in_features

    def branch_ends(self, stage: str) -> list[nn.Module]:
        blocks = self.get_submodule(stage).children()
        return [getattr(block, "bn3", None) or block.get_submodule("bn2") for block in blocks]


def build_backbone(config: NetworkConfig) -> Backbone:
    """The configured trunk with its first weights, new ones from torch's default generator.

    Args:
        config: of one trunk; see :meth:`NetworkConfig.of`.

    Raises:
        NetworkError: weights cannot be had or do not fit, or the image size does not.
    """
    with config.naming():
        return _built(config)


def _built(config: NetworkConfig) -> Backbone:
    trunk: Backbone
    if config.backbone == "tiny":
        trunk = Tiny(config.tiny_width)
    elif config.backbone == "alexnet":
        trunk = CaffeAlexNet(image_size=config.input_size, dropout=config.dropout)
    elif config.backbone == "alexnet-tv":
        trunk = TorchvisionAlexNet(image_size=config.input_size, dropout=config.dropout)
    elif config.backbone in OWN:
        trunk = ResNet(config.backbone)
    else:
        trunk = library.build(
            config.backbone,
            weights=weights_to_load(config),
            named=config.weights,
            size=config.input_size,
            pool_tokens=config.pool_tokens,
        )
    initialise(trunk, config)
    set_training(trunk, config)
    return trunk
