"""The optimiser over a method's groups of parameters, and freezing the groups that do not learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainer.methods import Method, Update
from trainer.sections import OptimizerConfig


class _PassesOverFrozen(torch.optim.Optimizer):
    """An optimiser that leaves groups marked ``frozen``, and their state, as they are."""

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        groups = self.param_groups
        self.param_groups = [g for g in groups if not g.get("frozen")]
        try:
            super().step(closure)
        finally:
            self.param_groups = groups


class _FreezableSGD(_PassesOverFrozen, torch.optim.SGD):
    pass


class _FreezableAdam(_PassesOverFrozen, torch.optim.Adam):
    pass


def learning_groups(method: Method) -> dict[str, list[torch.nn.Parameter]]:
    """The method's groups without what is frozen for good: stages of a trunk, or all but its
    adapters."""
    groups = method.parameter_groups()
    return {name: [p for p in held if p.requires_grad] for name, held in groups.items()}


def learns(method: Method) -> bool:
    """Whether any parameter of ``method`` is trained."""
    return any(p.requires_grad for p in method.parameters())


PLAIN = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
FREEZABLE = {"sgd": _FreezableSGD, "adam": _FreezableAdam}
"""For engines without gradients by parameter, where a missing gradient cannot skip a parameter."""


def build_optimizer(
    method: Method, config: OptimizerConfig, *, kinds: dict[str, type] = PLAIN
) -> torch.optim.Optimizer:
    """SGD or Adam over the trunks and, at a multiple of their rate, the new layers.

    Each of its groups has the ``name`` of the method's group that it is, and its base rate.
    """
    rates, groups = config.rates(pretrained=method.pretrained), []
    for name, parameters in learning_groups(method).items():
        rate = rates["trunk" if name.endswith("trunk") else "new layers"]
        if parameters:
            groups.append({"params": parameters, "name": name, "lr": rate, "base_lr": rate})
    if not groups:  # an optimiser wants one group at least, which may be empty
        rate = config.learning_rate
        groups.append({"params": [], "name": "nothing", "lr": rate, "base_lr": rate})
    options: dict[str, Any] = {"weight_decay": config.weight_decay}
    if config.kind == "sgd":
        options["momentum"] = config.momentum
    if kinds is PLAIN and all(p.is_cuda for p in method.parameters()):
        options["fused"] = True  # one kernel for many parameters, which can skip its work
    return kinds[config.kind](groups, **options)


def restored(
    entries: Mapping[str, Any], parameter: Tensor, *, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """The optimiser state of a parameter on its device and in its memory layout.

    Adam's step count is in CPU memory, unless the optimiser is fused."""
    found = dict(entries)
    for key, value in entries.items():
        if key == "step" and isinstance(value, Tensor):
            place = parameter.device if optimizer.defaults["fused"] else "cpu"
            found[key] = value.to(place, copy=True)  # the optimiser increases it in place
        elif isinstance(value, Tensor):
            found[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return found


def gradient_norm(method: Method) -> Tensor:
    """The norm of all gradients of ``method`` together, a scalar."""
    return torch.nn.utils.get_total_norm(
        [p.grad for p in method.parameters() if p.grad is not None]
    )


def set_rates(optimizer: torch.optim.Optimizer, *, factor: float) -> None:
    """Set every group's rate to ``factor`` times its base rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


@contextmanager
def frozen_for(method: Method, update: Update) -> Iterator[None]:
    """Freeze, for the block, every parameter of ``method`` outside the update's groups."""
    if not method.alternates:
        yield
        return
    groups = method.parameter_groups()
    learning = {id(p) for name in update.groups for p in groups[name]}
    frozen = [p for p in method.parameters() if p.requires_grad and id(p) not in learning]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
