"""Batch normalisation over the global batch, or with frozen statistics.

With statistics of one worker's rows the result would depend on how a batch is split. Here count,
sum and squared deviations are summed over all ranks with a differentiable collective. So values,
gradients and running statistics are those of one process on the whole batch, on any device.

Axis letters: n local rows, N global rows, C channels, H×W positions (none behind linear layers).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.synchronised import all_reduce_sum, world_size


def global_batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise ``x [n, C]`` or ``[n, C, H, W]`` by all ranks' mean and variance; n may be 0.

    Two passes, mean first: squared deviations do not cancel as ``E[x²] - E[x]²`` does. Sums are
    taken in float32 at least.

    Returns:
        The output (shape and dtype of ``x``); mean ``[C]``; biased variance ``[C]``; and the
        number of values per channel ``N·H·W``, a scalar. The last three have no gradient.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    channels, positions = x.shape[1], math.prod(x.shape[2:])
    summed, shape = (0, *range(2, x.dim())), (-1, *[1] * (x.dim() - 2))
    # Count rows, not values: their number stays far below the largest exact integer of float32.
    local = torch.cat([wide.sum(summed), wide.new_full((1,), len(x))])
    total = all_reduce_sum(local)
    count = total[channels].detach() * positions
    mean = total[:channels] / count.clamp(min=1)
    centred = wide - mean.view(shape)
    var = all_reduce_sum(centred.square().sum(summed)) / count.clamp(min=1)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    y = centred * scale.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    return y.to(x.dtype), mean.detach(), var.detach(), count


class _GlobalStatistics(_BatchNorm):
    """Training statistics are those of the batch of all ranks.

    Names of parameters and buffers are unchanged. Every rank has to take part in each forward pass,
    with zero rows if it has none.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if world_size() == 1 and input.numel() > input.shape[1]:
            return super().forward(input)  # the same numbers from one fused kernel
        y, mean, var, count = global_batch_norm(input, self.weight, self.bias, eps=self.eps)
        self._update_running_statistics(mean, var, count)
        return y

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        # A tensor, since reading its value would make the host wait for a GPU in every layer.
        seen = count > 0
        self.num_batches_tracked.add_(seen.to(torch.int64))
        share = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
        unbiased = var * count / (count - 1).clamp(min=1)
        for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.add_((batch.to(running.dtype) - running) * share * seen)


class GlobalBatchNorm1d(_GlobalStatistics, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` for ``[n, C]`` with the statistics of the batch of all ranks."""


class GlobalBatchNorm2d(_GlobalStatistics, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` for ``[n, C, H, W]`` with the statistics of the batch of all ranks."""


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that always uses its running statistics and never changes them.

    Weight and bias stay learnable: a scale and a shift per channel.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class _Activated(nn.Module):
    """Normalisation and activation in one layer, as timm has them; children ``drop``, ``act``."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


class _ActivatedGlobal(_Activated, GlobalBatchNorm2d):
    pass


class _ActivatedFrozen(_Activated, FrozenBatchNorm2d):
    pass


_KINDS = {
    ("global", False): GlobalBatchNorm2d,
    ("global", True): _ActivatedGlobal,
    ("frozen", False): FrozenBatchNorm2d,
    ("frozen", True): _ActivatedFrozen,
}


def convert_batch_norm(module: nn.Module, mode: Literal["global", "frozen"]) -> nn.Module:
    """Replace every ``nn.BatchNorm2d`` in ``module``, in place, keeping parameters and buffers,
    and the activation of layers that have one.

    Returns ``module``, or its replacement where ``module`` itself is such a layer.
    """
    if isinstance(module, nn.BatchNorm2d):
        return _converted(module, _KINDS[mode, hasattr(module, "act")])
    for name, child in module.named_children():
        setattr(module, name, convert_batch_norm(child, mode))
    return module


def _converted(layer: nn.BatchNorm2d, kind: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    new = kind(
        layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
    )
    for name in layer._parameters:
        setattr(new, name, getattr(layer, name))
    for name in layer._buffers:
        setattr(new, name, getattr(layer, name))
    for name, child in layer.named_children():
        setattr(new, name, child)
    return new.train(layer.training)
