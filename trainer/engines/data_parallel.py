"""Plain data parallelism: every worker holds weights, gradients and optimiser state whole."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.engines.optimizers import (
    build_optimizer,
    frozen_for,
    gradient_norm,
    learns,
    restored,
    set_rates,
)
from trainer.methods import Method, Update
from trainer.sections import OptimizerConfig
from trainer.synchronised import is_distributed

# torch 2.13 renamed the option and warns about the old name.
_BUFFER_OPTION = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


class DataParallel:
    """DDP in a process group, the bare module in one process; see :class:`trainer.Strategy`."""

    method: Method
    optimizer: torch.optim.Optimizer

    def prepare(self, method: Method, config: OptimizerConfig) -> nn.Module:
        """Build the optimiser and wrap ``method`` for gradient averaging."""
        self.method, self.config = method, config
        self.optimizer = build_optimizer(method, config)
        self._batches = 0  # since the last step
        self._wrapped: DistributedDataParallel | None = None
        if not is_distributed() or not learns(method):  # DDP refuses what has no gradient
            return method
        # Buffers are global statistics, equal on all ranks by construction: nothing to broadcast.
        options: dict[str, Any] = {_BUFFER_OPTION: False}
        self._wrapped = DistributedDataParallel(
            method,
            gradient_as_bucket_view=True,
            find_unused_parameters=method.alternates,  # what an update leaves out is unused in it
            **options,
        )
        return self._wrapped

    @contextmanager
    def only(self, update: Update) -> Iterator[None]:
        """Freeze, for the block, every parameter outside the update's groups.

        Frozen parameters end the block without gradient, and optimisers skip parameters without
        gradient. So weights, momentum and Adam's moments stay, as if each group had its own
        optimiser.
        """
        last = self._batches + 1 == self.config.accumulate
        alone = nullcontext() if last or self._wrapped is None else self._wrapped.no_sync()
        with alone, frozen_for(self.method, update):
            yield

    def backward(self, loss: Tensor) -> None:
        (loss / self.config.accumulate).backward()
        self._batches += 1

    def gradients(self) -> dict[str, Tensor]:
        return {n: p.grad for n, p in self.method.named_parameters() if p.grad is not None}

    def step(self, *, factor: float) -> Tensor | None:
        if self._batches < self.config.accumulate:
            return None
        self._batches = 0
        norm = gradient_norm(self.method)
        if self._may_step(norm):
            if self.config.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(
                    self.method.parameters(), self.config.clip_norm, norm
                )
            set_rates(self.optimizer, factor=factor)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _may_step(self, norm: Tensor) -> bool:
        """Whether the norm is finite.

        A fused optimiser gets this as a tensor, so that the host does not wait for a GPU, and then
        leaves weights and moments as they are."""
        if not self.optimizer.defaults["fused"]:
            return bool(torch.isfinite(norm))
        # torch.amp.GradScaler sets this attribute too.
        self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # pyright: ignore[reportAttributeAccessIssue]
        return True

    def whole_weights(self) -> nullcontext[None]:
        return nullcontext()

    def weights(self) -> dict[str, Any]:
        return self.method.state_dict()

    def state_dict(self) -> dict[str, Any]:
        names = {id(p): n for n, p in self.method.named_parameters()}
        return {"optimizer": {names[id(p)]: s for p, s in self.optimizer.state.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, parameter in self.method.named_parameters():
            if name in state["optimizer"]:
                self.optimizer.state[parameter] = restored(
                    state["optimizer"][name], parameter, optimizer=self.optimizer
                )
