"""Parameters and multiply-adds of a network, layer by layer.

Two conventions, both for one image through the whole network:

- ``multiply_adds`` is the one behind the published figures (723.19 M for the Caffe-layout AlexNet
  with 21 classes): convolutions with their biases, linear layers without, one operation per
  element of a ReLU and per *input* element of a pooling layer. The published networks have no
  batch or group norm; these count two per element, as the same counting programs do. Local
  response normalisation, dropout, gates, residual sums and the pooling of views count 0.
- ``bare_multiply_adds`` counts convolutions and linear layers without biases, and the products of
  attention (queries with keys, weights with values); nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.networks.network import RetrievalNetwork

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer over all its uses in the pass.

    ``output_shape`` is that of the last use, without the batch axis; empty for parameters that
    belong to no layer of the pass.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    bare_multiply_adds: int


@dataclass(frozen=True)
class Complexity:
    """Cost of a network for one image; ``parameters`` counts every parameter, used or not."""

    parameters: int
    multiply_adds: int
    bare_multiply_adds: int
    layers: list[LayerCost]


def complexity(network: RetrievalNetwork, image_size: int | None = None) -> Complexity:
    """Cost of one image through trunk, bottleneck, classifier and discriminator (if any).

    Args:
        network: on any device; on ``meta`` nothing is computed. Its state is not changed.
        image_size: side of the input in pixels; None takes the configured one.
    """
    size = network.config.input_size if image_size is None else image_size

    p = next(network.parameters())
    image = torch.zeros(1, 3, size, size, device=p.device, dtype=p.dtype)
    return measure(network, lambda: network.trace(image))


def measure(module: nn.Module, run: Callable[[], object]) -> Complexity:
    """Cost of the layers of ``module`` in one call of ``run``, which passes one image through.

    The call is made in evaluation mode without gradient; the modes are restored afterwards.
    """
    layers: dict[str, LayerCost] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            full, bare = _multiply_adds(layer, inputs[0], output)
            before = layers.get(name)
            layers[name] = LayerCost(
                name=name,
                kind=type(layer).__name__,
                output_shape=tuple(output.shape[1:]),
                parameters=sum(p.numel() for p in layer.parameters()),
                multiply_adds=full + (before.multiply_adds if before else 0),
                bare_multiply_adds=bare + (before.bare_multiply_adds if before else 0),
            )

        return hook

    hooks = [
        layer.register_forward_hook(record(name))
        for name, layer in module.named_modules()
        if next(layer.children(), None) is None or isinstance(layer, _NORMS)
    ]
    modes = {m: m.training for m in module.modules()}
    try:
        module.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter, _plain_attention():
            run()
    finally:
        for hook in hooks:
            hook.remove()
        for m, training in modes.items():
            m.training = training
    seen = sum(layer.bare_multiply_adds for layer in layers.values())
    products = counter.get_total_flops() // 2 - seen  # two operations are one multiply-add
    if products:
        layers["attention"] = LayerCost("attention", "products", (), 0, products, products)
    for name, layer in module.named_modules():  # layers that the pass does not call, such as gates
        own = sum(p.numel() for p in layer.parameters(recurse=False))
        if own and name not in layers:
            layers[name] = LayerCost(name, type(layer).__name__, (), own, 0, 0)
    return Complexity(
        parameters=sum(p.numel() for p in module.parameters()),
        multiply_adds=sum(layer.multiply_adds for layer in layers.values()),
        bare_multiply_adds=sum(layer.bare_multiply_adds for layer in layers.values()),
        layers=list(layers.values()),
    )


@contextmanager
def _plain_attention() -> Iterator[None]:
    """In this block attention is made of operations that can be counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _multiply_adds(layer: nn.Module, x: Tensor, y: Tensor) -> tuple[int, int]:
    """Multiply-adds of one use of a layer, by the published and by the bare convention."""
    if isinstance(layer, nn.Conv2d):
        bare = y.numel() * layer.weight[0].numel()
        return bare + (0 if layer.bias is None else y.numel()), bare
    if isinstance(layer, nn.Linear):
        bare = y.numel() * layer.in_features
        return bare, bare
    if isinstance(layer, nn.ReLU):
        return y.numel(), 0
    if isinstance(layer, _POOLS):
        return x.numel(), 0
    if isinstance(layer, _NORMS):
        return 2 * y.numel(), 0
    return 0, 0
