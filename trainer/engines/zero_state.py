"""The optimiser state of a ZeRO engine, gathered to tensors by parameter name and scattered back.

The engine's optimiser steps on flat partitions: this rank's share of a group's parameters, laid end
to end. The state of a partition (momentum, moments) has the layout of the partition.

Axis letters: S elements of a partition, W ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.engines.deepspeed_private import partitions_of_groups, partitions_of_parameters
from trainer.engines.optimizers import restored
from trainer.methods import Method
from trainer.synchronised import all_gather_rows, rank, world_size

State = dict[str, dict[str, Any]]
"""By parameter name, the optimiser's entries: tensors of the parameter's shape, and ``step``."""


class Partitions(Protocol):
    """Where the state of an engine's optimiser lies."""

    def gather(self) -> State: ...
    def scatter(self, state: State) -> None: ...


@dataclass(frozen=True)
class _Place:
    """Where a parameter lies: ``length`` elements at ``start``.

    ``start`` is an index into every rank's own partition (stage 3), or into all partitions laid end
    to end (stages 1 and 2).
    """

    name: str
    shape: torch.Size
    start: int
    length: int


@dataclass(frozen=True)
class _Partition:
    """One flat partition and the parameters in it.

    ``each`` is true at stage 3: every rank holds a piece of every parameter. It is false at stages
    1 and 2: the partitions, laid end to end, hold one whole parameter after another.
    """

    flat: Tensor
    places: tuple[_Place, ...]
    each: bool

    def take(self, row: Tensor, place: _Place) -> Tensor:
        """A parameter's values out of ``row [W, S]``."""
        values = row if self.each else row.reshape(1, -1)
        values = values[:, place.start : place.start + place.length].reshape(-1)
        return values[: place.shape.numel()].reshape(place.shape)

    def put(self, row: Tensor, place: _Place, values: Tensor) -> None:
        """The inverse of :meth:`take`."""
        where = row if self.each else row.view(1, -1)
        where = where[:, place.start : place.start + place.length]
        padded = values.new_zeros(where.numel(), dtype=row.dtype, device=row.device)
        padded[: values.numel()] = values.flatten()
        where.copy_(padded.view(where.shape))


def open_partitions(
    engine: Any, optimizer: torch.optim.Optimizer, method: Method, *, stage: int
) -> Partitions:
    """The state of ``optimizer``, which steps for ``engine``."""
    if stage == 0:
        return _Whole(optimizer, dict(method.named_parameters()))
    names = {id(p): n for n, p in method.named_parameters()}
    find = partitions_of_parameters if stage == 3 else partitions_of_groups
    partitions = []
    for flat, positions in find(engine.optimizer):
        places = (_Place(names[id(p)], torch.Size(s), at, size) for p, s, at, size in positions)
        partitions.append(_Partition(flat, tuple(places), each=stage == 3))
    return _Spread(optimizer, partitions)


class _Whole:
    """Stage 0: as in any torch optimiser."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: dict[str, Any]) -> None:
        self.optimizer, self.parameters = optimizer, parameters

    def gather(self) -> State:
        state = self.optimizer.state
        return {n: state[p] for n, p in self.parameters.items() if state.get(p)}

    def scatter(self, state: State) -> None:
        for name, entries in state.items():
            parameter = self.parameters[name]
            self.optimizer.state[parameter] = restored(entries, parameter, optimizer=self.optimizer)


class _Spread:
    """Stages 1 to 3."""

    def __init__(self, optimizer: torch.optim.Optimizer, partitions: Sequence[_Partition]) -> None:
        self.optimizer, self.partitions = optimizer, partitions

    @torch.no_grad()
    def gather(self) -> State:
        found: State = {}
        for part in self.partitions:
            for key, value in self.optimizer.state.get(part.flat, {}).items():
                whole = isinstance(value, Tensor) and value.dim() > 0
                row = all_gather_rows(value).view(world_size(), -1) if whole else None
                for place in part.places:
                    # Copies, also of the step count, which optimisers increase in place.
                    mine = torch.as_tensor(value) if row is None else part.take(row, place)
                    found.setdefault(place.name, {})[key] = mine.clone()
        return found

    @torch.no_grad()
    def scatter(self, state: State) -> None:
        for part in self.partitions:
            known = [place for place in part.places if place.name in state]
            if not known:  # this group has not learned yet
                continue
            mine = self.optimizer.state[part.flat] = {}
            for key, value in state[known[0].name].items():
                if not isinstance(value, Tensor) or value.dim() == 0:
                    mine[key] = torch.as_tensor(value).clone()
                    continue
                row = part.flat.new_zeros((world_size(), part.flat.numel()))
                for place in known:
                    part.put(row, place, state[place.name][key])
                mine[key] = row[rank()].clone()
