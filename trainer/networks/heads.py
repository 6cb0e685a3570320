"""The heads on a trunk: bottleneck, classifier, domain discriminator; and gradient reversal.

Axis letters: n rows, F trunk features, D embedding width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.networks.dropout import GlobalDropout


class Bottleneck(nn.Linear):
    """Linear map from trunk features ``[n, F]`` to embeddings ``[n, D]``, no non-linearity."""

    def __init__(self, features: int, embedding: int) -> None:
        super().__init__(features, embedding)


class Classifier(nn.Linear):
    """Linear map from embeddings ``[n, D]`` to class logits ``[n, K]``."""

    def __init__(self, embedding: int, num_classes: int) -> None:
        super().__init__(embedding, num_classes)


class Discriminator(nn.Sequential):
    """Domain logit ``[n]`` of embeddings ``[n, D]``: hidden layers with ReLU and dropout.

    With D = 256 and the default hidden layers it has 1,313,793 parameters.

    Args:
        embedding: input width D.
        hidden: widths of the hidden layers.
        dropout: dropout probability after each hidden layer.
        layer: number of the first dropout layer. Numbers of another discriminator of the same
        method must differ by at least ``len(hidden)``, or both drop the same units.
    """

    def __init__(
        self,
        embedding: int,
        *,
        hidden: Sequence[int] = (1024, 1024),
        dropout: float = 0.5,
        layer: int = 100,
    ) -> None:
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((embedding, *hidden), hidden, strict=False)):
            layers += [nn.Linear(before, after), nn.ReLU(), GlobalDropout(dropout, layer=layer + i)]
        super().__init__(*layers, nn.Linear((embedding, *hidden)[-1], 1))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).squeeze(1)


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, coefficient: float) -> Tensor:
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return -ctx.coefficient * grads[0], None


def reverse_gradient(x: Tensor, coefficient: float) -> Tensor:
    """``x`` (any shape) unchanged; its gradient is multiplied by ``-coefficient``.

    Gradient reversal of Ganin and Lempitsky (ICML 2015). The coefficient follows from the global
    step and is passed in. A counter in a layer would shift the schedule in evaluation passes and
    resumed runs.
    """
    return _ReverseGradient.apply(x, coefficient)  # pyright: ignore[reportReturnType]
