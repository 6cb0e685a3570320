"""Optimiser state of a ZeRO engine, from and to tensors by parameter name.

The engine's optimiser steps on flat partitions: this rank's share of a group's parameters laid end
to end. The state of a partition (momentum, moments) is laid out as the partition is.

Axis letters: S elements of a partition, W ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

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
    """Where a parameter lies: ``length`` elements at ``start``, in every partition of a row of W
    partitions, or in the row itself as one."""

    name: str
    shape: torch.Size
    start: int
    length: int


@dataclass(frozen=True)
class _Partition:
    """One flat partition and the parameters in it; ``each``: each parameter is spread over all
    ranks (stage 3), else the row of all ranks' partitions is cut anywhere (stages 1 and 2)."""

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
    names = {id(p): n for n, p in method.named_parameters()}
    if stage == 0:
        return _Whole(optimizer, dict(method.named_parameters()))
    find = _spread_parameters if stage == 3 else _cut_groups
    return _Spread(optimizer, list(find(engine.optimizer, names)))


def _cut_groups(zero: Any, names: dict[int, str]) -> Iterator[_Partition]:
    """Stages 1 and 2: a group's parameters end to end, the whole cut into W equal partitions."""
    for i, flat in enumerate(zero.single_partition_of_fp32_groups):
        parts = zip(
            zero.round_robin_bit16_groups[i], zero.round_robin_bit16_offsets[i], strict=True
        )
        places = (_Place(names[id(p)], p.shape, start, p.numel()) for p, start in parts)
        yield _Partition(flat, tuple(places), each=False)


def _spread_parameters(zero: Any, names: dict[int, str]) -> Iterator[_Partition]:
    """Stage 3: each parameter cut into W equal pieces, a rank's pieces of a group end to end."""
    for flat, group in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
        places = []
        for parameter in group:
            _, start, length = zero.grad_position[zero.get_param_id(parameter)]
            places.append(_Place(names[id(parameter)], parameter.ds_shape, start, length))
        yield _Partition(flat, tuple(places), each=True)


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
                    # Copies, also of the count of steps: optimisers raise theirs in place.
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
