"""The interface of engines, which average gradients and step, and what they cannot do.

Every engine averages gradients over ranks. With losses that are global on every rank (see
:mod:`trainer.synchronised.collectives`) the average is the one-process gradient, so the choice of
the engine does not change the training.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.config import ConfigError, RunConfig
from trainer.engines.data_parallel import DataParallel
from trainer.engines.trunk_setup import pass_refusals
from trainer.methods import METHODS, Method, Update
from trainer.sections import OptimizerConfig, StrategyConfig


class Strategy(Protocol):
    """What the loop needs of an engine. Every call is made by all ranks together."""

    def prepare(self, method: Method, config: OptimizerConfig) -> nn.Module:
        """Take over ``method`` with its present weights; returns what is called in its place."""
        ...

    def only(self, update: Update) -> AbstractContextManager[None]:
        """The block of one update's forward and backward pass. Only its groups learn; the others
        keep weights, momentum and moments."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, divided by ``optimizer.accumulate``."""
        ...

    def gradients(self) -> dict[str, Tensor]:
        """Averaged gradients of the update by parameter name, after the last backward pass before a
        step."""
        ...

    def step(self, *, factor: float) -> Tensor | None:
        """After ``optimizer.accumulate`` backward passes, one update at ``factor`` times the base
        rates. Returns the global gradient norm before clipping; None where more passes come first.

        A non-finite norm leaves the parameters as they are, so that the caller can stop cleanly.
        """
        ...

    def whole_weights(self) -> AbstractContextManager[None]:
        """In this block the method's weights can be used outside its ``forward``."""
        ...

    def weights(self) -> dict[str, Any]:
        """The method's whole ``state_dict()``, on every rank."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Whole optimiser state by parameter name, on every rank: independent of world size, rank
        and engine."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`, also of another engine's."""
        ...


def open_strategy(config: StrategyConfig) -> Strategy:
    """The engine that ``config`` names, not yet prepared."""
    if config.name == "ddp":
        return DataParallel()
    from trainer.engines.zero import Zero  # its import takes seconds

    return Zero(stage=config.zero_stage)


@contextmanager
def evaluating(method: Method, strategy: Strategy) -> Iterator[None]:
    """In this block ``method`` is in evaluation mode, without gradient, and its weights are whole.

    It stays in evaluation mode afterwards.
    """
    method.eval()
    with torch.no_grad(), strategy.whole_weights():
        yield


def require_supported(config: RunConfig) -> None:
    """Refuse what :func:`refusals` finds; cheap, and before anything is written.

    Raises:
        ConfigError: of the first refusal.
    """
    for reason in refusals(config):
        raise ConfigError(reason)


def refusals(config: RunConfig) -> list[str]:
    """Why this run cannot be trained as configured: each names option, reason and remedy."""
    return [
        *_accumulation_refusals(config),
        *_deepspeed_refusals(config),
        *pass_refusals(config),
    ]


def _accumulation_refusals(config: RunConfig) -> list[str]:
    count, training = config.optimizer.accumulate, config.training
    found = []
    if count > 1 and METHODS[config.method_name].updates is not Method.updates:
        found.append(
            f"optimizer.accumulate: {config.method_name} updates its networks in turn on each "
            "batch, every one from what the last has become; set it to 1"
        )
    for name in ("steps", "checkpoint_every"):
        value = getattr(training, name)
        if value % count:
            found.append(
                f"training.{name}: {value} is no multiple of optimizer.accumulate ({count}), and "
                f"between two steps there is nothing whole to keep; take {value + -value % count}"
            )
    return found


def _deepspeed_refusals(config: RunConfig) -> list[str]:
    if config.strategy.name != "deepspeed":
        return []
    found = []
    if importlib.util.find_spec("deepspeed") is None:
        found.append(
            "strategy.name: deepspeed is not installed; pip install 'img2shape[deepspeed]', or "
            "set it to ddp"
        )
    if config.training.precision == "float64":
        found.append(
            "training.precision: deepspeed keeps weights and sums gradients in float32, so float64 "
            "would be lost on the way; set it to float32 or bf16, or strategy.name to ddp"
        )
    return found
