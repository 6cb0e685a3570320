"""DeepSpeed ZeRO: optimiser state (stage 1), gradients (2) and weights (3) spread over workers.

The engine runs in float32; lower precision is the method's own autocast, as under any strategy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.engines.deepspeed_engine import open_engine
from trainer.engines.deepspeed_private import gathered
from trainer.engines.optimizers import (
    FREEZABLE,
    build_optimizer,
    frozen_for,
    gradient_norm,
    learning_groups,
    learns,
    set_rates,
)
from trainer.engines.zero_state import open_partitions
from trainer.methods import Domain, Losses, Method, Now, Update
from trainer.sections import OptimizerConfig


class Zero:
    """A DeepSpeed engine at one stage; see :class:`trainer.engines.strategy.Strategy`."""

    method: Method

    def __init__(self, *, stage: int) -> None:
        self.stage = stage

    def prepare(self, method: Method, config: OptimizerConfig) -> nn.Module:
        self.method, self.config = method, config
        self._names = [n for n, _ in method.named_parameters()]
        self.optimizer = build_optimizer(method, config, kinds=FREEZABLE)
        self._batches = 0  # since the last step
        self._learning: tuple[str, ...] = ()
        if not learns(method):  # DeepSpeed refuses it; without steps there is nothing to spread
            self.stage = 0
            self._partitions = open_partitions(None, self.optimizer, method, stage=0)
            return method
        self._freeze(())  # the engine may step once without gradients when it is built
        terms = _Terms(method)
        self.engine = open_engine(
            terms, self.optimizer, stage=self.stage, clip_norm=config.clip_norm
        )
        self._partitions = open_partitions(self.engine, self.optimizer, method, stage=self.stage)
        return _Model(self.engine, terms)

    @contextmanager
    def only(self, update: Update) -> Iterator[None]:
        """Freeze, for the block, every parameter outside the update's groups.

        The engine gives frozen parameters a gradient of zero, and momentum and weight decay would
        still move them. So the optimiser skips frozen groups.
        """
        self._learning = update.groups
        self._freeze(update.groups)
        self.engine.set_gradient_accumulation_boundary(self._batches + 1 == self.config.accumulate)
        with frozen_for(self.method, update):
            yield

    def _freeze(self, learning: tuple[str, ...]) -> None:
        for group in self.optimizer.param_groups:
            group["frozen"] = group["name"] not in learning

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss / self.config.accumulate, scale_wrt_gas=False)
        self._batches += 1

    def gradients(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_grad

        groups = learning_groups(self.method)
        learning = {id(p) for name in self._learning for p in groups[name]}
        found = {
            n: safe_get_full_grad(p) for n, p in self.method.named_parameters() if id(p) in learning
        }
        return {n: g for n, g in found.items() if g is not None}

    def step(self, *, factor: float) -> Tensor | None:
        if self._batches < self.config.accumulate:
            return None
        self._batches = 0
        set_rates(self.optimizer, factor=factor)
        if self.stage == 0:
            return self._step_whole()
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return torch.as_tensor(norm, device=self.engine.device)

    def _step_whole(self) -> Tensor:
        """A step at stage 0, which neither reports the gradient norm nor checks it."""
        norm = gradient_norm(self.method)
        if not torch.isfinite(norm):
            self.engine.zero_grad()
            return norm
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(
                self.method.parameters(), self.config.clip_norm, norm
            )
        self.engine.step()
        return norm

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Gather all weights and hold them; only stage 3 spreads them."""
        if self.stage < 3:
            yield
            return
        with gathered(list(self.method.parameters())):
            yield

    def weights(self) -> dict[str, Any]:
        if self.stage < 3:
            return self.method.state_dict()
        with self.whole_weights():
            state = self.method.state_dict()
            for name in self._names:
                state[name] = state[name].clone()
        return state

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self._partitions.gather()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._partitions.scatter(state["optimizer"])


class _Terms(nn.Module):
    """The method with tensors as output: the engine sets its hooks on output tensors only."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.losses = Losses()

    def forward(self, batch: dict[str, Domain], now: Now, update: str) -> tuple[Tensor, ...]:
        self.losses = self.method(batch, now, update)
        return tuple(self.losses.terms.values())


class _Model(nn.Module):
    """The engine with the method's losses as output."""

    def __init__(self, engine: Any, terms: _Terms) -> None:
        super().__init__()
        self.engine, self.terms = engine, terms

    def forward(self, batch: dict[str, Domain], now: Now, update: str = "all") -> Losses:
        values = self.engine(batch, now, update)
        losses, self.terms.losses = self.terms.losses, Losses()  # else the graph would stay alive
        terms = dict(zip(losses.terms, values, strict=True))
        return Losses(terms, losses.weights, losses.health)
