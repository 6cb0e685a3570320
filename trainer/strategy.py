"""The data-parallel engine behind four calls: ``prepare``, ``backward``, ``step``, ``state_dict``.

Every engine averages gradients over ranks; with losses that are global on every rank (see
:mod:`trainer.collectives`) the average is the one-process gradient.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.collectives import is_distributed
from trainer.config import OptimizerConfig
from trainer.methods import Method, Update

__all__ = ["DataParallel", "Strategy"]

# torch 2.13 renamed the option and warns about the old name.
_BUFFER_OPTION = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


class Strategy(Protocol):
    """What the loop needs of an engine."""

    def prepare(self, method: Method, config: OptimizerConfig) -> nn.Module: ...
    def only(self, update: Update) -> AbstractContextManager[None]: ...
    def backward(self, loss: Tensor) -> None: ...
    def step(self, *, factor: float) -> Tensor: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class DataParallel:
    """DDP in a process group, the bare module in one process."""

    method: Method
    optimizer: torch.optim.Optimizer

    def prepare(self, method: Method, config: OptimizerConfig) -> nn.Module:
        """Build the optimiser and wrap ``method`` for gradient averaging."""
        self.method, self.config = method, config
        self.optimizer = build_optimizer(method, config)
        self._base = [group["lr"] for group in self.optimizer.param_groups]
        if not is_distributed():
            return method
        # Buffers are global statistics, equal on all ranks by construction: nothing to broadcast.
        options: dict[str, Any] = {_BUFFER_OPTION: False}
        return DistributedDataParallel(
            method,
            gradient_as_bucket_view=True,
            find_unused_parameters=method.alternates,  # what an update leaves out is unused in it
            **options,
        )

    @contextmanager
    def only(self, update: Update) -> Iterator[None]:
        """Freeze, for the block, every parameter outside the update's groups.

        Frozen parameters end the block without gradient, and optimisers pass over those: weights,
        momentum and Adam's moments stay as they are, as if each group had its own optimiser.
        """
        if not self.method.alternates:
            yield
            return
        groups = self.method.parameter_groups()
        learning = {id(p) for name in update.groups for p in groups[name]}
        frozen = [p for p in self.method.parameters() if p.requires_grad and id(p) not in learning]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, *, factor: float) -> Tensor:
        """One update at ``factor`` times the base rates; returns the global gradient norm.

        A non-finite norm leaves the parameters as they are, so that the caller can stop cleanly.
        """
        parameters = [p for p in self.method.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if torch.isfinite(norm):
            if self.config.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
            for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
                group["lr"] = base * factor
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Consolidated optimiser state by parameter name: independent of rank and group order."""
        names = {id(p): n for n, p in self.method.named_parameters()}
        state = {names[id(p)]: s for p, s in self.optimizer.state.items()}
        return {"optimizer": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        for name, parameter in self.method.named_parameters():
            if name in state["optimizer"]:
                self.optimizer.state[parameter] = {
                    k: v.to(parameter.device) if isinstance(v, Tensor) and v.dim() else v
                    for k, v in state["optimizer"][name].items()
                }


def build_optimizer(method: Method, config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD or Adam over the trunks and, at a multiple of their rate, the new layers."""
    multiplier = config.new_layer_multiplier if method.pretrained else 1.0
    groups = [
        {"params": p, "lr": config.learning_rate * (1.0 if name.endswith("trunk") else multiplier)}
        for name, p in method.parameter_groups().items()
        if p
    ]
    if config.kind == "adam":
        return torch.optim.Adam(groups, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)
