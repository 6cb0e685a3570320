"""A small method whose gradients are far above rounding, and runs of it under any strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.engines.strategy import Strategy, open_strategy
from trainer.methods import Domain, Losses, Method, Now, Update
from trainer.sections import OptimizerConfig, StrategyConfig
from trainer.synchronised.collectives import global_mean

STRATEGIES = {
    "ddp": StrategyConfig(),
    **{f"zero{n}": StrategyConfig(name="deepspeed", zero_stage=n) for n in (0, 1, 2, 3)},  # pyright: ignore[reportArgumentType]
}
WIDTH = 5  # odd, so that partitions cut through parameters and need padding
Batch = tuple[Tensor, Tensor]


class Small(Method):
    """Two linear maps and a gate, which is used outside its module's ``forward``.

    ``turns``: two updates per batch, as DCA has; the gate learns with the second.
    """

    def __init__(self, *, turns: bool = False) -> None:
        nn.Module.__init__(self)
        self.turns, self.seed = turns, 0
        self.last_pseudo_labels = None
        generator = torch.Generator().manual_seed(1)
        self.trunk, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
        self.gates = nn.ParameterDict({"a": nn.Parameter(torch.ones(()))})
        self.register_buffer("seen", torch.zeros(()))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    @property
    def alternates(self) -> bool:
        return self.turns

    @property
    def pretrained(self) -> bool:
        return True

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        new = [*self.head.parameters(), *self.gates.parameters()]
        return {"trunk": list(self.trunk.parameters()), "new": new}

    def updates(self, step: int) -> tuple[Update, ...]:
        if not self.turns:
            return (Update("all", ("trunk", "new")),)
        return (Update("trunk", ("trunk",)), Update("new", ("new",)))[step % 3 == 1 :]

    def update_losses(self, update: str, batch: Any, now: Now) -> Losses:
        rows = batch["rows"]
        hidden = self.trunk(rows.pixels)
        if update == "new":
            hidden = hidden.detach()
        out = self.head(torch.tanh(hidden) * torch.sigmoid(self.gates["a"]))
        losses = Losses()
        # Quadratic in the mean over all rows: no mean of per-process losses.
        losses.add("far", global_mean((out[:, 0] - rows.labels) ** 2) ** 2, weight=0.5)
        losses.add("size", global_mean(out[:, 1] ** 2) + global_mean(hidden[:, 0]) ** 2)
        self.seen += 1  # pyright: ignore[reportOperatorIssue]
        return losses


def batches(count: int, *, rows: int = 5) -> list[Batch]:
    """Inputs ``[rows, 3]`` and numbers to hit ``[rows]``."""
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(rows, 3, generator=generator), torch.randn(rows, generator=generator))
        for _ in range(count)
    ]


def part(batch: Batch, rank: int, world_size: int) -> dict[str, Domain]:
    """This rank's rows; uneven, and with few rows none for some ranks."""
    x, y = (t.tensor_split(world_size)[rank] for t in batch)
    return {"rows": Domain(x, y)}


class Run:
    """A strategy that trains :class:`Small` from given weights and optimiser state."""

    def __init__(
        self, name: str, *, turns: bool = False, state: dict[str, Any] | None = None, **options: Any
    ) -> None:
        settings = {"learning_rate": 0.05, "weight_decay": 0.1, "new_layer_multiplier": 3.0}
        self.config = OptimizerConfig(**{**settings, **options})
        self.method = Small(turns=turns)
        if state is not None:
            self.method.load_state_dict(state["method"])
        self.strategy: Strategy = open_strategy(STRATEGIES[name])
        self.model = self.strategy.prepare(self.method, self.config)
        if state is not None:
            self.strategy.load_state_dict(state)
        self.norms: list[float | None] = []
        self.gradients: list[dict[str, np.ndarray]] = []

    def train(self, data: list[Batch], *, rank: int, world_size: int, first: int = 0) -> None:
        self.model.train()
        for step, batch in enumerate(data, start=first):
            for update in self.method.updates(step):
                with self.strategy.only(update):
                    rows = part(batch, rank, world_size)
                    losses = self.model(rows, Now(step, 0.0), update.name)
                    self.strategy.backward(losses.total)
                if (step + 1) % self.config.accumulate == 0:
                    self.gradients.append(arrays(self.strategy.gradients()))
                norm = self.strategy.step(factor=1.0 - 0.1 * step)
                self.norms.append(None if norm is None else float(norm))

    def state(self) -> dict[str, Any]:
        return {"method": self.strategy.weights(), **self.strategy.state_dict()}


def arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: t.detach().numpy().copy() for name, t in tensors.items()}


def flat(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """Weights and optimiser state under one name each, for comparison and for pipes."""
    entries = {
        f"{name} {key}": torch.as_tensor(value)
        for name, found in state["optimizer"].items()
        for key, value in found.items()
    }
    return arrays({**state["method"], **entries})


def tensors(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of :func:`flat`."""
    state: dict[str, Any] = {"method": {}, "optimizer": {}}
    for name, value in found.items():
        owner, _, key = name.partition(" ")
        if key:
            state["optimizer"].setdefault(owner, {})[key] = torch.tensor(value)
        else:
            state["method"][name] = torch.tensor(value)
    return state
