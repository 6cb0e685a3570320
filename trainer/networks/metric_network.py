"""Metric networks on a trunk, one branch per modality, and a map between two embedding spaces.

Axis letters: n images or shapes on this rank (may be 0), V views, H×W pixels, F trunk features,
D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from trainer.networks.backbones import build_backbone
from trainer.networks.dropout import row_positions
from trainer.networks.network import pool_views
from trainer.networks.normalization import GlobalBatchNorm1d
from trainer.networks.options import NetworkConfig

# Positions of views and of images never overlap, so their dropout masks are independent.
_VIEWS = 1 << 40


class MetricNetwork(nn.Sequential):
    """Embedding ``[n, D]`` in (-1, 1) of trunk features ``[n, F]``: DCA's f_metric, section IV.A.

    Hidden linear layers with global batch norm and ReLU, a last linear layer with tanh. DCA's
    widths are F = 2048, hidden 1024-512-256 and D = 128.

    Args:
        features: F.
        hidden: widths of the hidden layers.
        embedding: D.
        last_norm: batch norm before the tanh too.
    """

    def __init__(
        self, features: int, hidden: Sequence[int], embedding: int, *, last_norm: bool = False
    ) -> None:
        layers: list[nn.Module] = []
        for before, after in zip((features, *hidden), hidden, strict=False):
            # Batch norm subtracts the mean, and so any bias.
            layers += [nn.Linear(before, after, bias=False), GlobalBatchNorm1d(after), nn.ReLU()]
        layers.append(nn.Linear((features, *hidden)[-1], embedding, bias=not last_norm))
        layers += [GlobalBatchNorm1d(embedding), nn.Tanh()] if last_norm else [nn.Tanh()]
        super().__init__(*layers)
        _keep_scale(self)


class Transformation(nn.Sequential):
    """Map ``[n, D]`` to ``[n, D]`` in (-1, 1): DCA's f_trans, hidden layers with ReLU, tanh last.

    DCA's widths are D = 128 and hidden 64-32-64.
    """

    def __init__(self, embedding: int, hidden: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for before, after in zip((embedding, *hidden), hidden, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers, nn.Linear((embedding, *hidden)[-1], embedding), nn.Tanh())
        _keep_scale(self)


def _keep_scale(layers: Iterable[nn.Module]) -> None:
    """Initialise as He et al. do before ReLU.

    PyTorch's own weights shrink the signal in every layer, and these narrow stacks would start as
    constants."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in linear[:-1]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.xavier_normal_(linear[-1].weight)


class MetricBranch(nn.Module):
    """One modality: a trunk of its own, the views pooled behind it, and a metric network.

    Args:
        config: trunk, its weights, how views are pooled, and D = ``config.embedding``.
        hidden: widths of the metric network's hidden layers.
        last_norm: batch norm before its tanh too.

    Raises:
        NetworkError: weights that cannot be had or do not fit.
    """

    def __init__(
        self, config: NetworkConfig, hidden: Sequence[int], *, last_norm: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.trunk = build_backbone(config)
        self.metric = MetricNetwork(self.trunk.width, hidden, config.embedding, last_norm=last_norm)

    def features(self, pixels: Tensor, *, offset: int = 0) -> Tensor:
        """Trunk features ``[n, F]`` of images ``[n, 3, H, W]`` or shapes ``[n, V, 3, H, W]``.

        ``offset`` is the first row's position in the global batch, on which dropout depends.
        """
        if pixels.dim() == 4:
            return self._trunk(pixels, offset)
        n, views = pixels.shape[:2]
        f = self._trunk(pixels.flatten(0, 1), offset * views + _VIEWS)
        return pool_views(f.unflatten(0, (n, views)), self.config.pool)

    def forward(self, pixels: Tensor, *, offset: int = 0) -> Tensor:
        """Embeddings ``[n, D]``; arguments as in :meth:`features`."""
        return self.metric(self.features(pixels, offset=offset))

    def _trunk(self, images: Tensor, first: int) -> Tensor:
        positions = torch.arange(first, first + len(images), device=images.device)
        with row_positions(positions):
            return self.trunk(images)
