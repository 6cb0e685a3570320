"""Discriminators of mutual information, on an inner map and an embedding (HIFA section 3.2).

Axis letters: n rows, C channels and h×w positions of the map, D embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.network import RetrievalNetwork
from trainer.networks.weights import NetworkError


class LocalDiscriminator(nn.Module):
    """T(I, K): is the embedding K that of the map I? One logit per position of the map.

    The embedding is broadcast over the positions and concatenated with the map; three 1×1
    convolutions follow, with ReLU between them (Deep InfoMax's concat-and-convolve form).

    Args:
        channels: C of the map.
        embedding: D.
        hidden: channels of the two inner layers; not given in the paper.
    """

    def __init__(self, channels: int, embedding: int, *, hidden: int = 512) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Conv2d(channels + embedding, hidden, 1)
        self.second = nn.Conv2d(hidden, hidden, 1)
        self.last = nn.Conv2d(hidden, 1, 1)

    def forward(self, maps: Tensor, *embeddings: Tensor) -> tuple[Tensor, ...]:
        """Logits ``[n, h, w]`` of ``maps [n, C, h, w]`` with each of ``embeddings [n, D]``.

        n may be 0.
        """
        weight = self.first.weight
        # By parts of its weight, the first layer sees the map once for all embeddings, and each
        # embedding once for all positions; the sum is that of the concatenation.
        of_map = F.conv2d(maps, weight[:, : self.channels], self.first.bias)
        return tuple(self._rest(of_map, k, weight[:, self.channels :, 0, 0]) for k in embeddings)

    def _rest(self, of_map: Tensor, k: Tensor, weight: Tensor) -> Tensor:
        x = F.relu(of_map + F.linear(k, weight)[:, :, None, None])
        return self.last(F.relu(self.second(x))).squeeze(1)


class MapProjections(nn.Module):
    """Linear projections of map positions and of embeddings into one space, for dot products.

    Args:
        channels: C of the map.
        embedding: D.
        width: channels of the common space; not given in the paper.
    """

    def __init__(self, channels: int, embedding: int, *, width: int = 512) -> None:
        super().__init__()
        self.of_map = nn.Conv2d(channels, width, 1)
        self.of_embedding = nn.Linear(embedding, width)

    def forward(self, maps: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, width, h·w]`` and ``[n, width]`` of ``[n, C, h, w]`` and ``[n, D]``; n may be 0."""
        return self.of_map(maps).flatten(2), self.of_embedding(embeddings)


@torch.no_grad()
def map_channels(network: RetrievalNetwork, stage: str) -> int:
    """Channels of a trunk stage's output, found by passing an empty batch through the trunk.

    Raises:
        NetworkError: the trunk has no such stage.
    """
    trunk, size = network.trunk, network.config.input_size
    if stage not in trunk.stages:
        raise NetworkError(
            f"map_stage: {network.config.backbone} has no stage {stage}; "
            f"known: {', '.join(trunk.stages)}"
        )
    weight = next(trunk.parameters())
    trunk.eval()  # an empty batch must not touch running statistics
    maps = trunk.features(weight.new_zeros(0, 3, size, size), keep=(stage,))[1]
    trunk.train()
    return maps[stage].shape[1]
